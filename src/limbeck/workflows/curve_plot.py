"""Learning curves as a picture: error over labels, training time and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.benchmark.plots import check_plot
from limbeck.records.figure import write_png
from limbeck.report.speed_figures import curve_figures


def write_curve_plot(found: Mapping[str, Any], path: Path) -> None:
    """Draw the points of ``learning_curve`` (its result) into a PNG, test force RMSE on log axes.

    Raises
    ------
    InputError: another kind of file. MissingPackageError: matplotlib is not installed.
    """
    check_curve_plot(path)
    write_png(curve_figures(found), path, found["text"])


def check_curve_plot(path: Path) -> None:
    """As :func:`limbeck.benchmark.plots.check_plot`, before anything is trained; PNG alone."""
    check_plot(path.with_suffix(".other") if path.suffix.lower() == ".html" else path)
