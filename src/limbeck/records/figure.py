"""A figure described once, for a page (:meth:`Figure.to_plotly`) and for PNG (:func:`write_png`).

Colours stand out on white and on black, so that the page's style alone makes it light or dark.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.core.files import write_whole
from limbeck.core.plotting import DPI, STYLE, check_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: after Okabe and Ito, their yellow and black replaced, shifted to be seen on both backgrounds
PALETTE = (
    "#2b83c6", "#e0762d", "#17a078", "#c76fa6", "#c99a1e", "#58b5e5", "#8b6fc9", "#d1495b", "#7a8a3a",
    "#8a8f98",
)  # fmt: skip
GREY = "#8a8f98"
ERROR_SCALE = ((0.0, "#3f78b5"), (0.5, "#d9b04e"), (1.0, "#c9302c"))
HEIGHT = 340
PANEL_IN = (5.0, 4.4)
_MARKS = {"circle": "o", "square": "s", "triangle-up": "^"}
_DASHES = {"solid": "-", "dash": "--", "dot": ":"}
_FONTS = "system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif"


@dataclass(frozen=True)
class Axis:
    """``limits``: in the axis' own numbers. ``ticks``: where they are not left to the drawing library."""

    title: str
    log: bool = False
    limits: tuple[float, float] | None = None
    ticks: Sequence[float] | None = None
    categories: bool = False
    labels: bool = True
    from_zero: bool = False
    automargin: bool = False

    def to_plotly(self) -> dict[str, Any]:
        """Ticks outside, a frame on all sides, no line at zero.

        Only names may need more room than the margins have; finding out costs a second drawing.
        """
        drawn: dict[str, Any] = {
            "title": {"text": self.title, "standoff": 8}, "automargin": self.automargin or self.categories,
            "zeroline": False, "showline": True, "mirror": True, "ticks": "outside", "ticklen": 4,
            "linewidth": 1, "gridwidth": 1,
        }  # fmt: skip
        if self.log or self.categories:
            drawn["type"] = "log" if self.log else "category"
        if self.limits is not None:
            drawn["range"] = [float(np.log10(v)) if self.log else v for v in self.limits]
        if self.ticks is not None:
            drawn |= {
                "tickmode": "array",
                "tickvals": list(self.ticks),
                "ticktext": list(map(plain, self.ticks)),
            }
        if not self.labels:
            drawn |= {"showticklabels": False, "ticks": ""}
        return drawn | ({"rangemode": "tozero"} if self.from_zero else {})


@dataclass(frozen=True)
class Trace:
    """Points of one name: ``line``, ``points``, ``both``, ``bars`` (x are names) or ``rows`` (y are names).

    ``fill``: down to zero. ``text``: beside each. ``hover``: plotly's template, in which ``custom`` is
    ``%{customdata}``. ``values``: colour each point between ``low`` and ``high`` on a logarithmic scale,
    ``unit`` beside it.
    """

    x: Any
    y: Any
    name: str = ""
    color: str = GREY
    kind: str = "line"
    dash: str = "solid"
    width: float = 2
    size: float = 5
    symbol: str = "circle"
    opacity: float = 1.0
    fill: bool = False
    legend: bool = True
    text: Sequence[str] | None = None
    hover: str | None = None
    custom: Sequence[Any] | None = None
    values: np.ndarray | None = None
    low: float = 1.0
    high: float = 10.0
    unit: str = ""

    def to_plotly(self) -> dict[str, Any]:
        drawn: dict[str, Any] = {"name": self.name, "showlegend": self.legend, "cliponaxis": False}
        if self.text is not None:
            drawn["text"] = list(self.text)
        if self.hover is not None:
            drawn |= (
                {"hovertemplate": f"{self.hover}<extra></extra>"} if self.hover else {"hoverinfo": "skip"}
            )
        if self.custom is not None:
            drawn["customdata"] = list(self.custom)
        if self.kind in ("bars", "rows"):
            return drawn | {
                "type": "bar", "x": list(self.x), "y": list(self.y), "marker": {"color": self.color},
                "orientation": "v" if self.kind == "bars" else "h", "textposition": "outside",
                "textangle": 0, "constraintext": "none", "textfont": {"size": 10},
            }  # fmt: skip
        marker = {"color": self.color, "size": self.size, "opacity": self.opacity, "symbol": self.symbol}
        mode = {"line": "lines", "points": "markers", "both": "lines+markers"}[self.kind]
        drawn |= {
            "type": "scatter", "mode": mode + ("+text" if self.text is not None else ""), "x": packed(self.x),
            "y": packed(self.y), "marker": marker, "textposition": "top center",
            "line": {"color": self.color, "width": self.width, "dash": self.dash},
        }  # fmt: skip
        if self.fill:
            red, green, blue = (int(self.color[k : k + 2], 16) for k in (1, 3, 5))
            drawn |= {"fill": "tozeroy", "fillcolor": f"rgba({red},{green},{blue},0.13)"}
        if self.values is not None:
            ticks = [t for d in range(-3, 6) for t in (10.0**d, 3 * 10.0**d) if self.low <= t <= self.high]
            drawn["customdata"] = packed(self.values)
            marker |= {
                "color": packed(np.log10(np.clip(self.values, self.low, self.high))), "showscale": True,
                "colorscale": [list(stop) for stop in ERROR_SCALE], "cmin": float(np.log10(self.low)),
                "cmax": float(np.log10(self.high)),
                "colorbar": {
                    "title": {"text": self.unit, "side": "top"}, "thickness": 12, "outlinewidth": 0,
                    "tickvals": [float(np.log10(t)) for t in ticks], "ticktext": [f"{t:g}" for t in ticks],
                },
            }  # fmt: skip
        return drawn


@dataclass(frozen=True)
class Figure:
    """One plot with its heading and what it shows; ``name`` is unique on the page. ``square``: equal axes."""

    name: str
    title: str
    caption: str
    traces: list[Trace]
    x: Axis
    y: Axis
    height: int = HEIGHT
    square: bool = False

    @property
    def has_data(self) -> bool:
        return any(len(trace.x) for trace in self.traces)

    def to_plotly(self) -> dict[str, Any]:
        """Data and layout: axes with a legend above them and room for nothing else."""
        x, y = self.x.to_plotly(), self.y.to_plotly()
        if self.square:
            x |= {"constrain": "domain", "nticks": 6}
            y |= {"constrain": "domain", "nticks": 6, "scaleanchor": "x"}
        layout = {
            "xaxis": x, "yaxis": y, "margin": {"l": 66, "r": 14, "t": 12, "b": 50},
            "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": _FONTS, "size": 12}, "hovermode": "closest", "bargap": 0.2, "barmode": "group",
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
                       "bgcolor": "rgba(0,0,0,0)", "itemsizing": "constant"},
        }  # fmt: skip
        named = any(trace.legend and trace.name for trace in self.traces)
        return {
            "data": [trace.to_plotly() for trace in self.traces],
            "layout": layout | {"showlegend": named},
        }


@dataclass(frozen=True)
class Picture:
    """A structure to turn with the mouse."""

    name: str
    title: str
    caption: str
    payload: dict[str, Any] = field(repr=False)
    height: int = HEIGHT


def packed(values: Any) -> dict[str, str]:
    """An array as plotly.js reads it: little-endian float32 (integers: int32) in base64."""
    array = np.asarray(values)
    kind = "i4" if array.dtype.kind in "iub" else "f4"
    return {"dtype": kind, "bdata": base64.b64encode(array.astype(f"<{kind}").tobytes()).decode()}


def log_axis(title: str, values: Any, **more: Any) -> Axis:
    """A logarithmic axis around positive ``values`` with ticks at 1, 2, 5 or, where it is long, decades.

    plotly's own ticks there are bare digits (a 2 for 20), which nobody should have to guess at.
    """
    known = np.concatenate([np.ravel(np.asarray(v, float)) for v in (values if len(values) else [[1.0]])])
    known = known[np.isfinite(known) & (known > 0)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (1.0, 10.0)
    margin = max(0.06 * np.log10(high / low), 0.16)
    begin, end = float(np.log10(low) - margin), float(np.log10(high) + margin)
    digits: tuple[float, ...] = (1, 1.5, 2, 3, 4, 6, 8)
    for longer, fewer in ((0.8, (1, 2, 5)), (1.7, (1, 3)), (2.6, (1,))):
        digits = fewer if end - begin > longer else digits
    places = range(int(np.floor(begin)), int(np.ceil(end)) + 1)
    ticks = [d * 10.0**p for p in places for d in digits if begin <= np.log10(d * 10.0**p) <= end]
    return Axis(title, log=True, limits=(10**begin, 10**end), ticks=ticks, **more)


def plain(value: float) -> str:
    """20, 0.5, 10,000; very small ones as a power of ten."""
    if value >= 0.001:
        return f"{value:,.10g}" if value >= 1 else f"{value:g}"
    power = int(np.floor(np.log10(value) + 1e-9))
    digit = f"{value / 10.0**power:.3g}"
    return f"{'' if digit == '1' else f'{digit}·'}10<sup>{power}</sup>".replace("-", "−")


def ordered(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, in order."""
    return {name: PALETTE[k % len(PALETTE)] for k, name in enumerate(names)}


def write_png(figures: Sequence[Figure], path: Path, heading: str = "") -> None:
    """Draw ``figures`` side by side.

    Raises
    ------
    MissingPackageError: matplotlib is not installed. LimbeckError: the file cannot be written.
    """
    check_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    width, height = PANEL_IN
    with matplotlib.rc_context(STYLE):
        sheet = Sheet(figsize=(max(1, len(figures)) * width, height + 0.8 * bool(heading)))
        for axes, figure in zip(
            sheet.subplots(1, max(1, len(figures)), squeeze=False)[0], figures, strict=False
        ):
            _draw(axes, figure)
        if heading:
            sheet.suptitle(heading, fontsize=9, wrap=True)
        canvas = FigureCanvasAgg(sheet)
        write_whole(path, partial(canvas.print_figure, dpi=DPI, format="png"))


def _draw(axes: Axes, figure: Figure) -> None:
    bars = [id(trace) for trace in figure.traces if trace.kind == "bars"]
    for trace in figure.traces:
        label = trace.name if trace.legend and trace.name else None
        marks: dict[str, Any] = {
            "marker": _MARKS[trace.symbol],
            "color": trace.color,
            "alpha": trace.opacity,
            "label": label,
        }
        if trace.kind == "rows":
            axes.barh(trace.y, trace.x, color=trace.color, label=label)
        elif trace.kind == "bars":
            width = 0.8 / len(bars)
            shift = (bars.index(id(trace)) - (len(bars) - 1) / 2) * width
            places = np.arange(len(trace.x)) + shift
            drawn = axes.bar(places, trace.y, width=0.95 * width, color=trace.color, label=label)
            axes.set_xticks(np.arange(len(trace.x)), trace.x)
            if trace.text is not None:
                axes.bar_label(drawn, list(trace.text), fontsize=9, padding=2)
                axes.margins(y=0.15)
        elif trace.kind == "points":
            axes.scatter(trace.x, trace.y, s=trace.size**2, linewidths=0, rasterized=True, **marks)
        else:
            marks["marker"] = marks["marker"] if trace.kind == "both" else ""
            style: dict[str, Any] = {
                "linestyle": _DASHES[trace.dash],
                "linewidth": trace.width,
                "markersize": trace.size,
            }
            axes.plot(trace.x, trace.y, **style, **marks)
            if trace.fill:
                axes.fill_between(trace.x, trace.y, color=trace.color, alpha=0.13, linewidth=0)
        if trace.text is not None and trace.kind not in ("bars", "rows"):
            for word, point in zip(trace.text, zip(trace.x, trace.y, strict=True), strict=True):
                axes.annotate(word, point, textcoords="offset points", xytext=(0, 7), ha="center", fontsize=9)
    _set_axes(axes, figure, named=any(trace.legend and trace.name for trace in figure.traces))


def _set_axes(axes: Axes, figure: Figure, *, named: bool) -> None:
    from matplotlib.ticker import NullLocator

    for side, along, name in ((axes.xaxis, figure.x, "x"), (axes.yaxis, figure.y, "y")):
        axes.set(**{f"{name}label": along.title})
        if along.limits is not None:
            axes.set(**{f"{name}lim": along.limits})
        if along.log:  # after the limits: no error at all has none of its own on such a scale
            axes.set(**{f"{name}scale": "log"})
            side.set_minor_locator(NullLocator())
        if along.ticks is not None:
            words = [plain(tick).replace("<sup>", "$^{").replace("</sup>", "}$") for tick in along.ticks]
            side.set_ticks(list(along.ticks), words)
    axes.set_title(figure.title)
    if figure.square:
        axes.set_aspect("equal")
        axes.locator_params(nbins=6)
    if named:
        axes.legend(loc="best", handletextpad=0.4, fontsize=9)
