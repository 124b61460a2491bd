"""Predictions against labels: parity, errors by element, temperature and size of the force."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from limbeck.core.labels import LabelledSet
from limbeck.records.figure import PALETTE, Axis, Figure, Trace, log_axis, ordered, write_png
from limbeck.records.metrics import Errors, ValidationReport
from limbeck.units import EV_TO_MEV

MOST_DOTS = 1000  #: in a parity plot of the page; the largest errors are always among them
MOST_DOTS_PNG = 30_000
_ALWAYS = 50
_MOST_TEMPERATURES = 8
_SIZES = 12  #: classes of force size, each of as many atoms
Reports = Mapping[str, ValidationReport]


def write_plots(report: ValidationReport, labelled: LabelledSet, folder: Path | str) -> list[Path]:
    """Write force and energy parity, force errors and (where known) errors by temperature.

    Returns the files: ``forces.png``, ``energies.png``, ``force_errors.png``, ``temperatures.png``.

    Raises
    ------
    MissingPackageError: matplotlib is not installed. LimbeckError: the folder cannot be written.
    """
    one = {"student": report}
    sheets = {
        "forces.png": [force_parity("", report, labelled, most=MOST_DOTS_PNG)],
        "energies.png": [energy_parity("", report, labelled, most=MOST_DOTS_PNG)],
        "force_errors.png": [distribution(one, labelled), by_force(one, labelled)],
    }
    if report.errors.by_temperature:
        sheets["temperatures.png"] = [
            grouped(one, "by_temperature", "Forces", "temperature (K)"),
            grouped(one, "by_temperature", "Energies", "temperature (K)", "energy_mae_mev_per_atom"),
        ]
    for name, figures in sheets.items():
        write_png(figures, Path(folder) / name, figures[0].caption)
    return [Path(folder) / name for name in sheets]


def error_figures(reports: Reports, labelled: LabelledSet) -> list[Figure]:
    """Students side by side: distribution of errors, by force size, by element, by temperature."""
    return [
        distribution(reports, labelled),
        by_force(reports, labelled),
        grouped(reports, "by_element", "Errors by element", ""),
        grouped(reports, "by_temperature", "Errors by temperature", "temperature (K)"),
    ]


def thin(error: np.ndarray, most: int = MOST_DOTS) -> np.ndarray:
    """Indices to draw: all, or a random draw with the largest errors always in it, in random order."""
    size = np.abs(error)
    rng = np.random.default_rng(0)
    if len(size) <= most:
        return rng.permutation(len(size))
    worst = np.argsort(-size)[:_ALWAYS]
    rest = rng.permutation(np.setdiff1d(np.arange(len(size)), worst))[: most - _ALWAYS]
    return rng.permutation(np.concatenate([worst, rest]))


def force_parity(
    preset: str, report: ValidationReport, labelled: LabelledSet, what: str = "", most: int = MOST_DOTS
) -> Figure:
    """Predicted against reference force components, coloured by element."""
    reference, predicted = labelled.labels.forces.ravel(), report.prediction.forces.ravel()
    chosen = thin(predicted - reference, most)
    number = np.repeat(labelled.structures.numbers, 3)[chosen]
    colors = ordered([chemical_symbols[z] for z in np.unique(labelled.structures.numbers)])
    groups = [(chemical_symbols[z], chosen[number == z]) for z in np.unique(number)]
    errors = report.errors.all
    r2 = "not defined" if errors.force_r2 is None else f"{errors.force_r2:.4f}"
    thinned = f" The {_ALWAYS} largest errors are among them." if len(chosen) < len(reference) else ""
    return _parity(
        f"parity-forces-{preset}",
        f"Forces, {preset}" if preset else "Forces",
        f"RMSE {errors.force_rmse_mev_per_a:.1f} meV/Å, MAE {errors.force_mae_mev_per_a:.1f} meV/Å, R² {r2}"
        f"{what and f' over {what} frames'}. " + drawn_of(len(chosen), len(reference), "force components")
        + thinned,
        [
            Trace(reference[own], predicted[own], name, colors[name], "points", size=4, opacity=0.55)
            for name, own in groups
        ],
        reference, predicted, "reference (eV/Å)", "predicted (eV/Å)",
    )  # fmt: skip


def energy_parity(
    preset: str, report: ValidationReport, labelled: LabelledSet, what: str = "", most: int = MOST_DOTS
) -> Figure:
    """Predicted against reference energies an atom, coloured by temperature where few are known."""
    counts = labelled.structures.counts
    reference, predicted = labelled.labels.energy / counts, report.prediction.energy / counts
    # one shift for both axes: the error itself is not shifted away
    mean = float(reference.mean())
    x, y = (reference - mean) * EV_TO_MEV, (predicted - mean) * EV_TO_MEV
    chosen = thin(y - x, most)
    errors = report.errors.all
    return _parity(
        f"parity-energies-{preset}",
        f"Energies, {preset}" if preset else "Energies",
        f"MAE {errors.energy_mae_mev_per_atom:.2f} meV/atom, RMSE {errors.energy_rmse_mev_per_atom:.2f} "
        f"meV/atom{what and f' over {what} frames'}, nothing shifted. "
        + drawn_of(len(chosen), len(x), "structures"),
        [
            Trace(x[chosen[own]], y[chosen[own]], name, PALETTE[k], "points", size=6, opacity=0.7)
            for k, (name, own) in enumerate(_by_kelvin(labelled.temperature_k[chosen]))
        ],
        x, y, "reference − mean (meV/atom)", "predicted − mean (meV/atom)",
    )  # fmt: skip


def _parity(
    name: str, title: str, caption: str, dots: list[Trace], x: np.ndarray, y: np.ndarray, *axes: str
) -> Figure:
    """Dots about the diagonal, on equal axes."""
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    margin = 0.04 * (high - low) or 1.0
    ends = (low - margin, high + margin)
    ideal = Trace(ends, ends, "ideal", width=1, dash="dash", legend=False, hover="")
    across, up = (Axis(title, limits=ends) for title in axes)
    return Figure(name, title, caption, [ideal, *dots], across, up, height=370, square=True)


def _by_kelvin(kelvin: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(name, indices) by temperature where there are few; else all in one."""
    rounded = np.round(kelvin)
    known = np.unique(rounded[np.isfinite(rounded)])
    if not 0 < len(known) <= _MOST_TEMPERATURES:
        return [("structures", np.arange(len(kelvin)))]
    groups = [(f"{t:.0f} K", np.flatnonzero(rounded == t)) for t in known]
    rest = np.flatnonzero(~np.isfinite(rounded))
    return [*groups, ("no temperature", rest)] if len(rest) else groups


def distribution(reports: Reports, labelled: LabelledSet) -> Figure:
    """Share of force components by their error."""
    colors = ordered(list(reports))
    errors = {
        preset: (report.prediction.forces - labelled.labels.forces).ravel() * EV_TO_MEV
        for preset, report in reports.items()
    }
    # the tails are few and decide stability: a log axis, and the range of all but one in a thousand
    reach = max(float(np.quantile(np.abs(e), 0.999)) for e in errors.values()) or 1.0
    edges = np.linspace(-reach, reach, 81)
    middle = (edges[1:] + edges[:-1]) / 2
    traces = []
    for preset, error in errors.items():
        share = np.histogram(error, edges)[0] / (len(error) * (edges[1] - edges[0]))
        traces.append(Trace(middle[share > 0], share[share > 0], preset, colors[preset]))
    return Figure(
        "error-distribution",
        "Errors of force components",
        "Share of components per meV/Å, on a logarithmic axis: broad tails make dynamics unstable. One "
        "component in a thousand lies beyond the axis.",
        traces,
        Axis("predicted − reference (meV/Å)"),
        log_axis("share per meV/Å", [trace.y for trace in traces]),
    )


def by_force(reports: Reports, labelled: LabelledSet) -> Figure:
    """Force RMSE by the length of the reference force."""
    colors = ordered(list(reports))
    size = np.linalg.norm(labelled.labels.forces, axis=1)
    classes = np.array_split(np.argsort(size), max(1, min(_SIZES, len(size) // 5)))
    middle = np.array([float(np.median(size[part])) for part in classes])
    traces = []
    for preset, report in reports.items():
        square = ((report.prediction.forces - labelled.labels.forces) ** 2).mean(axis=1)
        rmse = np.array([float(np.sqrt(square[part].mean())) for part in classes]) * EV_TO_MEV
        traces.append(Trace(middle, rmse, preset, colors[preset], "both", size=6))
    return Figure(
        "error-by-force",
        "Errors by size of the force",
        f"RMSE of a component in {len(classes)} classes of as many atoms each, by the length of their "
        "reference force, at the median of the class.",
        traces,
        Axis("reference |F| (eV/Å)"),
        log_axis("force RMSE (meV/Å)", [trace.y for trace in traces]),
    )


def grouped(reports: Reports, group: str, title: str, unit: str, key: str = "force_rmse_mev_per_a") -> Figure:
    """One error of each student by element or temperature; without data where no group is known."""
    colors = ordered(list(reports))
    found: dict[str, dict[str, Errors]] = {
        preset: getattr(report.errors, group) for preset, report in reports.items()
    }
    first = next(iter(found.values()))
    names = sorted(first, key=float if group == "by_temperature" else str)
    traces = []
    for preset, errors in found.items():
        heights: list[Any] = [getattr(errors[name], key) for name in names]
        few = len(names) * len(reports) <= 12
        words = [f"{h:.0f}" if h >= 10 else f"{h:.2g}" for h in heights] if few else None
        traces.append(Trace(names, np.round(heights, 3).tolist(), preset, colors[preset], "bars", text=words))
    counted = "atoms" if group == "by_element" else "structures"
    numbers = ", ".join(f"{name}: {getattr(first[name], f'n_{counted}'):,}" for name in names)
    label = "Force RMSE (meV/Å)" if key.startswith("force") else "Energy MAE (meV/atom)"
    return Figure(
        group.replace("_", "-"),
        title,
        f"{label.split(' (')[0]}. Number of {counted}: {numbers}.",
        traces,
        Axis(unit, categories=True),
        Axis(label, from_zero=True),
    )


def drawn_of(drawn: int, whole: int, what: str) -> str:
    """How many of how many points a figure shows, in words."""
    if drawn >= whole:
        return f"All {whole:,} {what} are drawn."
    return f"{drawn:,} of {whole:,} {what} are drawn."
