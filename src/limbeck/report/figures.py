"""A figure as the page draws it: plotly's traces and layout as plain dicts, arrays packed.

Colours stand out on white and on black, so that the page's style alone makes it light or dark.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: after Okabe and Ito, their yellow and black replaced, shifted to be seen on both backgrounds
PALETTE = (
    "#2b83c6", "#e0762d", "#17a078", "#c76fa6", "#c99a1e", "#58b5e5", "#8b6fc9", "#d1495b", "#7a8a3a",
    "#8a8f98",
)  # fmt: skip
GREY = "#8a8f98"
ERROR_SCALE = ((0.0, "#3f78b5"), (0.5, "#d9b04e"), (1.0, "#c9302c"))
HEIGHT = 340


@dataclass(frozen=True)
class Figure:
    """One plot with its heading and what it shows; ``name`` is unique on the page."""

    name: str
    title: str
    caption: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = HEIGHT
    wide: bool = False

    @property
    def has_data(self) -> bool:
        return any(_count(trace) for trace in self.traces)


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


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Ticks outside, a frame on all sides, no line at zero.

    Only names may need more room than the margins have; finding out costs a second drawing.
    """
    return {
        "title": {"text": title, "standoff": 8}, "automargin": more.get("type") == "category",
        "zeroline": False, "showline": True, "mirror": True, "ticks": "outside",
        "ticklen": 4, "linewidth": 1, "gridwidth": 1,
    } | more  # fmt: skip


def log_axis(title: str, values: Any, **more: Any) -> dict[str, Any]:
    """A logarithmic axis around positive ``values`` with ticks at 1, 2, 5 or, where it is long, decades.

    plotly's own ticks there are bare digits (a 2 for 20), which nobody should have to guess at.
    """
    known = np.concatenate([np.ravel(np.asarray(v, float)) for v in (values if len(values) else [[1.0]])])
    known = known[np.isfinite(known) & (known > 0)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (1.0, 10.0)
    margin = max(0.06 * np.log10(high / low), 0.16)
    ends = [float(np.log10(low) - margin), float(np.log10(high) + margin)]
    decades = ends[1] - ends[0]
    digits: tuple[float, ...] = (1, 1.5, 2, 3, 4, 6, 8)
    for longer, fewer in ((0.8, (1, 2, 5)), (1.7, (1, 3)), (2.6, (1,))):
        digits = fewer if decades > longer else digits
    places = range(int(np.floor(ends[0])), int(np.ceil(ends[1])) + 1)
    ticks = [d * 10.0**p for p in places for d in digits if ends[0] <= np.log10(d * 10.0**p) <= ends[1]]
    return axis(
        title,
        **{"type": "log", "range": ends, "tickmode": "array", "tickvals": ticks,
           "ticktext": [_plain(t) for t in ticks]} | more,
    )  # fmt: skip


def _plain(value: float) -> str:
    """20, 0.5, 10,000; very small ones as a power of ten."""
    if value >= 1:
        return f"{value:,.10g}"
    if value >= 0.001:
        return f"{value:g}"
    power = int(np.floor(np.log10(value) + 1e-9))
    digit = f"{value / 10.0**power:.3g}"
    return f"{'' if digit == '1' else f'{digit}·'}10<sup>{power}</sup>".replace("-", "−")


def layout(x: dict[str, Any], y: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Axes with a legend above them and room for nothing else: titles stand in the page."""
    return {
        "xaxis": x, "yaxis": y, "margin": {"l": 66, "r": 14, "t": 12, "b": 50},
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif", "size": 12},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
                   "bgcolor": "rgba(0,0,0,0)"},
        "hovermode": "closest", "bargap": 0.2,
    } | more  # fmt: skip


def big_keys(drawn: dict[str, Any]) -> dict[str, Any]:
    """The layout with points in the legend that are large enough to tell their colours."""
    return drawn | {"legend": drawn["legend"] | {"itemsizing": "constant"}}


def counted(number: int, what: str) -> str:
    """``1 structure``, ``1,200 structures``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def line(x: Any, y: Any, name: str, color: str, **more: Any) -> dict[str, Any]:
    """A line through points."""
    style = {"color": color, "width": 2, **more.pop("line", {})}
    return {
        "type": "scatter", "mode": "lines", "x": packed(x), "y": packed(y), "name": name, "line": style
    } | more  # fmt: skip


def dots(x: Any, y: Any, name: str, color: str, **more: Any) -> dict[str, Any]:
    """Points alone."""
    marker = {"color": color, "size": 4, "opacity": 0.6, **more.pop("marker", {})}
    return {
        "type": "scatter", "mode": "markers", "x": packed(x), "y": packed(y), "name": name, "marker": marker
    } | more  # fmt: skip


def steps(edges: np.ndarray, heights: np.ndarray, name: str, color: str, **more: Any) -> dict[str, Any]:
    """A histogram's outline with a light filling: K heights between K + 1 edges."""
    x = np.repeat(edges, 2)[1:-1]
    return line(
        x, np.repeat(heights, 2), name, color,
        **{"fill": "tozeroy", "fillcolor": faint(color, 0.13), "line": {"width": 1.5}} | more,
    )  # fmt: skip


def faint(color: str, opacity: float) -> str:
    """``#rrggbb`` with an opacity."""
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def color_of(k: int) -> str:
    return PALETTE[k % len(PALETTE)]


def drawn_of(drawn: int, whole: int, what: str) -> str:
    """How many of how many points a figure shows, in words."""
    if drawn >= whole:
        return f"All {whole:,} {what} are drawn."
    return f"{drawn:,} of {whole:,} {what} are drawn."


def ordered(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, in order."""
    return {name: color_of(k) for k, name in enumerate(names)}


def _count(trace: dict[str, Any]) -> int:
    values = trace.get("x", trace.get("y", ()))
    if isinstance(values, dict):
        return len(values["bdata"])
    return len(values)
