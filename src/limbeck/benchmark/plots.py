"""Two pictures of a benchmark: atoms/s by size of one structure, structures/s by batch."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.benchmark.rows import Row
from limbeck.core.files import write_whole
from limbeck.core.plotting import DPI, PALETTE, STYLE, check_matplotlib
from limbeck.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_IN, LEGEND_IN = (5.0, 4.2), 2.6
_LINES = {"native": "-", "torch": "--", "teacher": ":"}
_MARKS = {"native": "o", "torch": "s", "teacher": "^"}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Speed</title><style>body{{margin:1rem}}svg{{max-width:100%;height:auto}}</style></head>
<body>
{svg}
</body></html>
"""


def check_plot(path: Path) -> None:
    """Refuse a picture that cannot be drawn, before anything is measured.

    Raises
    ------
    InputError: neither PNG nor HTML. MissingPackageError: matplotlib is not installed.
    """
    if path.suffix.lower() not in (".png", ".html"):
        raise InputError("plots are PNG or HTML", where=path, wanted="a name that ends in .png or .html")
    check_matplotlib()


def write_plot(rows: Sequence[Row], path: Path) -> None:
    """Draw measured rows into a PNG, or into a page of its own that needs nothing else (HTML).

    A line of panels for each group of students that were measured on the same systems.

    Raises
    ------
    InputError, MissingPackageError: as :func:`check_plot`. LimbeckError: the file cannot be written.
    """
    check_plot(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = _groups([row for row in rows if row.skipped is None])
    with matplotlib.rc_context({**STYLE, "svg.fonttype": "path", "svg.hashsalt": "limbeck"}):
        figure = Figure(figsize=(2 * PANEL_IN[0] + LEGEND_IN, PANEL_IN[1] * max(1, len(groups))))
        panels = figure.subplots(max(1, len(groups)), 2, squeeze=False)
        for (left, right), group in zip(panels, groups, strict=False):
            singles = [row for row in group if row.batch == 1]
            _draw(left, singles, lambda row: (row.atoms, row.atoms_per_s), "atoms", "atoms/s")
            sizes = {row.atoms for row in group if row.batch > 1}
            batched = [row for row in group if row.atoms in sizes]
            size = batched[0].atoms if batched else 0
            label = f"structures of {size} atoms in a call"
            _draw(right, batched, lambda row: (row.batch, row.structures_per_s), label, "structures/s")
            # beside the panels, where it hides no line
            handles = (left if singles else right).get_legend_handles_labels()
            right.legend(*handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        canvas = FigureCanvasAgg(figure)
        if path.suffix.lower() == ".png":
            write_whole(path, lambda temporary: canvas.print_figure(temporary, dpi=DPI, format="png"))
            return
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    svg = drawn.getvalue()
    write_whole(path, _PAGE.format(svg=svg[svg.index("<svg") :]))


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows by group: models that share a system were measured side by side."""
    groups: list[tuple[set[str], list[Row]]] = []
    for row in rows:
        key = f"{row.system} {row.atoms}"
        for systems, members in groups:
            if key in systems or any(m.model == row.model and m.engine != "teacher" for m in members):
                systems.add(key)
                members.append(row)
                break
        else:
            groups.append(({key}, [row]))
    return [members for _, members in groups]


def _draw(
    axes: Axes, rows: Sequence[Row], point: Callable[[Row], tuple[float, float | None]],
    x_label: str, y_label: str,
) -> None:  # fmt: skip
    names = list(dict.fromkeys(row.model for row in rows))
    for model, engine in dict.fromkeys((row.model, row.engine) for row in rows):
        points = sorted(point(row) for row in rows if (row.model, row.engine) == (model, engine))
        label = f"{model} (teacher)" if engine == "teacher" else f"{model}, {engine}"
        color = PALETTE[names.index(model) % len(PALETTE)]
        x, y = zip(*points, strict=True)
        axes.plot(x, y, _LINES[engine], marker=_MARKS[engine], ms=5, color=color, label=label)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if rows:
        axes.set_xscale("log")
        axes.set_yscale("log")
        ticks = sorted({point(row)[0] for row in rows})
        axes.set_xticks(ticks, [f"{int(tick):,}" for tick in ticks])
        axes.minorticks_off()
