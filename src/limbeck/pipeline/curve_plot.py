"""Learning curves as a picture: error over labels, training time and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from limbeck.benchmark.plots import check_plot
from limbeck.core.files import write_whole
from limbeck.core.plotting import DPI, PALETTE, STYLE
from limbeck.report.curve_figures import PANELS, series, trained_points
from limbeck.report.figures import log_axis

_ERROR = "force_rmse_mev_per_a"


def write_curve_plot(found: Mapping[str, Any], path: Path) -> None:
    """Draw the points of ``learning_curve`` (its result) into a PNG, test force RMSE on log axes.

    Raises
    ------
    InputError: another kind of file. MissingPackageError: matplotlib is not installed.
    """
    check_curve_plot(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    done = trained_points(found)
    ticks = log_axis("", [[row[_ERROR] for row in done]])["tickvals"]
    plain = FuncFormatter(lambda value, _: f"{value:,.6g}")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 4.0))
        axes = figure.subplots(1, 3, sharey=True)
        for colour, axis, (key, label, same) in zip(PALETTE, axes, PANELS, strict=False):
            points = series(done, key, same)
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.plot([x for x, _ in points], [y for _, y in points], "o-", color=colour)
            for x, y in points if key == "parameters" else ():
                name = next(row["preset"] for row in done if (row[key], row[_ERROR]) == (x, y))
                place = {"textcoords": "offset points", "xytext": (0, 7), "ha": "center"}
                axis.annotate(name, (x, y), fontsize=9, **place)
            axis.margins(x=0.15, y=0.12)
            axis.set_xlabel(label)
            axis.set_xticks([x for x, _ in points])
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_formatter(plain)
                side.set_minor_formatter(NullFormatter())
            axis.set_yticks(ticks)
            axis.tick_params(axis="x", labelrotation=30)
        axes[0].set_ylabel("test force RMSE, meV/Å")
        figure.suptitle(found["text"], fontsize=9, wrap=True)
        canvas = FigureCanvasAgg(figure)
        write_whole(path, partial(canvas.print_figure, dpi=DPI, format="png"))


def check_curve_plot(path: Path) -> None:
    """As :func:`limbeck.benchmark.plots.check_plot`, before anything is trained; PNG alone."""
    check_plot(path.with_suffix(".other") if path.suffix.lower() == ".html" else path)
