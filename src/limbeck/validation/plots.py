"""Parity and error figures of a validation, as PNG files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols

from limbeck.core.files import write_whole
from limbeck.core.labels import LabelledSet
from limbeck.core.plotting import BLUE, DPI, ORANGE, PALETTE, STYLE, check_matplotlib
from limbeck.units import EV_TO_MEV
from limbeck.validation.run import ValidationReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_SIZE_IN = {
    "forces.png": (5.6, 5.7),
    "energies.png": (6.4, 5.4),
    "force_errors.png": (10.0, 4.4),
    "temperatures.png": (10.0, 4.4),
}
HEXBIN_FROM = 400  #: energies from which dots would hide each other


def write_plots(report: ValidationReport, labelled: LabelledSet, folder: Path | str) -> list[Path]:
    """Write force and energy parity, force errors and (where known) errors by temperature.

    Returns the files: ``forces.png``, ``energies.png``, ``force_errors.png``, ``temperatures.png``.

    Raises
    ------
    MissingPackageError: matplotlib is not installed. LimbeckError: the folder cannot be written.
    """
    check_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figures: dict[str, Callable[[Figure, ValidationReport, LabelledSet], None]] = {
        "forces.png": _draw_forces,
        "energies.png": _draw_energies,
        "force_errors.png": _draw_force_errors,
    }
    if report.metrics["by_temperature"]:
        figures["temperatures.png"] = _draw_temperatures
    written = []
    for name, draw in figures.items():
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=FIGURE_SIZE_IN[name])
            draw(figure, report, labelled)
            canvas = FigureCanvasAgg(figure)
            path = Path(folder) / name
            write_whole(path, partial(canvas.print_figure, dpi=DPI, format="png"))
        written.append(path)
    return written


def _draw_forces(figure: Figure, report: ValidationReport, labelled: LabelledSet) -> None:
    axes = figure.add_subplot()
    numbers = labelled.structures.numbers
    kinds, kind = np.unique(numbers, return_inverse=True)
    colors = np.array([PALETTE[k % len(PALETTE)] for k in range(len(kinds))])
    # In random order no element buries another.
    order = np.random.default_rng(0).permutation(3 * len(numbers))
    axes.scatter(
        labelled.labels.forces.ravel()[order],
        report.prediction.forces.ravel()[order],
        s=7,
        linewidths=0,
        alpha=_alpha(len(order)),
        c=np.repeat(colors[kind], 3)[order],
        rasterized=True,
    )
    for number, color in zip(kinds, colors, strict=True):
        axes.scatter([], [], s=30, color=color, label=chemical_symbols[number])
    _finish_parity(axes, labelled.labels.forces, report.prediction.forces, "force component", "eV/Å")
    metrics = report.metrics["all"]
    axes.set_title(
        f"Forces: RMSE {metrics['force_rmse_mev_per_a']:.1f} meV/Å, {_r2_text(metrics['force_r2'])}"
    )
    axes.legend(loc="upper left", handletextpad=0.2)


def _draw_energies(figure: Figure, report: ValidationReport, labelled: LabelledSet) -> None:
    axes = figure.add_subplot()
    counts = labelled.structures.counts
    reference = labelled.labels.energy / counts
    # One shift for both axes, the reference's mean: the error itself is not shifted away.
    mean = reference.mean()
    x = (reference - mean) * EV_TO_MEV
    y = (report.prediction.energy / counts - mean) * EV_TO_MEV
    kelvin = labelled.temperature_k
    if len(x) >= HEXBIN_FROM:
        drawn: Any = axes.hexbin(x, y, gridsize=60, mincnt=1, bins="log", cmap="viridis", linewidths=0.1)
        figure.colorbar(drawn, ax=axes, shrink=0.85, label="structures")
    elif np.isfinite(kelvin).all() and np.ptp(kelvin) > 0:
        drawn = axes.scatter(x, y, c=kelvin, s=22, linewidths=0.3, edgecolors="white", cmap="plasma")
        figure.colorbar(drawn, ax=axes, shrink=0.85, label="temperature (K)")
    else:
        axes.scatter(x, y, s=22, alpha=0.7, linewidths=0, color=BLUE)
    _finish_parity(axes, x, y, "E − mean reference", "meV/atom")
    metrics = report.metrics["all"]
    spread = float((x**2).sum())
    r2 = 1.0 - float(((y - x) ** 2).sum()) / spread if spread > 0 else None
    axes.set_title(f"Energies: RMSE {metrics['energy_rmse_mev_per_atom']:.2f} meV/atom, {_r2_text(r2)}")


def _draw_force_errors(figure: Figure, report: ValidationReport, labelled: LabelledSet) -> None:
    left, right = figure.subplots(1, 2)
    reference, predicted = labelled.labels.forces, report.prediction.forces
    error = (predicted - reference).ravel() * EV_TO_MEV
    metrics = report.metrics["all"]
    # The tails are few and decide stability: log counts, and the range of all but one in 10,000.
    reach = max(float(np.quantile(np.abs(error), 0.9999)), 1e-6)
    left.hist(error, bins=np.linspace(-reach, reach, 81), color=BLUE, log=True)
    left.locator_params(axis="x", nbins=5)
    left.set_xlabel("error of a force component (meV/Å)")
    left.set_ylabel("components")
    left.set_title(
        f"MAE {metrics['force_mae_mev_per_a']:.1f}, RMSE {metrics['force_rmse_mev_per_a']:.1f} meV/Å"
    )
    size = np.linalg.norm(reference, axis=1)
    miss = np.linalg.norm(predicted - reference, axis=1) * EV_TO_MEV
    floor = max(float(miss.max(initial=0.0)) * 1e-4, 1e-9)
    drawn = right.hexbin(
        size,
        np.maximum(miss, floor),
        gridsize=(50, 30),
        yscale="log",
        bins="log",
        mincnt=1,
        cmap="viridis",
        linewidths=0.1,
    )
    figure.colorbar(drawn, ax=right, label="atoms")
    _draw_medians(right, size, np.maximum(miss, floor))
    right.set_xlabel("reference |F| (eV/Å)")
    right.set_ylabel("|F' − F| (meV/Å)")
    right.set_title("Error of an atom against its force")


def _draw_medians(axes: Axes, size: np.ndarray, miss: np.ndarray) -> None:
    parts = np.array_split(np.argsort(size), max(1, min(15, len(size) // 5)))
    middle = [float(np.median(size[part])) for part in parts]
    heights = [float(np.median(miss[part])) for part in parts]
    axes.plot(middle, heights, "o-", ms=4, color=ORANGE, label="median")
    axes.legend(loc="lower right")


def _draw_temperatures(figure: Figure, report: ValidationReport, labelled: LabelledSet) -> None:
    left, right = figure.subplots(1, 2)
    groups: dict[str, dict[str, Any]] = report.metrics["by_temperature"]
    names = sorted(groups, key=float)
    places = np.arange(len(names))
    for axes, kind, unit, title in (
        (left, "force_{}_mev_per_a", "meV/Å", "Forces"),
        (right, "energy_{}_mev_per_atom", "meV/atom", "Energies"),
    ):
        for offset, statistic, color in ((-0.2, "mae", BLUE), (0.2, "rmse", ORANGE)):
            heights = [groups[name][kind.format(statistic)] for name in names]
            bars = axes.bar(places + offset, heights, width=0.38, color=color, label=statistic.upper())
            if len(names) <= 6:
                axes.bar_label(bars, fmt="%.3g", fontsize=9, padding=2)
        axes.set_xticks(places, [f"{name}\n({groups[name]['n_structures']})" for name in names])
        axes.set_xlabel("temperature (K), structures in brackets")
        axes.set_ylabel(f"error ({unit})")
        axes.margins(y=0.22)
        axes.grid(visible=False, axis="x")
        axes.set_title(title)
        axes.legend(loc="upper left", ncols=2)


def _finish_parity(axes: Axes, x: np.ndarray, y: np.ndarray, what: str, unit: str) -> None:
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    margin = 0.04 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color="black", lw=0.9, ls="--", zorder=3)
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_aspect("equal")
    axes.locator_params(axis="x", nbins=6)
    axes.set_yticks([t for t in axes.get_xticks() if limits[0] <= t <= limits[1]])
    axes.set_xlabel(f"reference {what} ({unit})")
    axes.set_ylabel(f"predicted {what} ({unit})")


def _alpha(count: int) -> float:
    """Opacity at which a cloud of ``count`` dots still shows where it is dense."""
    return float(np.clip(50.0 / np.sqrt(max(count, 1)), 0.12, 0.9))


def _r2_text(r2: float | None) -> str:
    return "R² not defined" if r2 is None else f"R² {r2:.5f}"
