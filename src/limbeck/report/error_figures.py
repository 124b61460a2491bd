"""Predictions against labels: parity, errors by element, temperature and size of the force."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.data import chemical_symbols

from limbeck.core.labels import LabelledSet
from limbeck.report.evidence import Evidence
from limbeck.report.figures import (
    GREY,
    Figure,
    axis,
    big_keys,
    color_of,
    dots,
    drawn_of,
    layout,
    line,
    log_axis,
    ordered,
)
from limbeck.units import EV_TO_MEV
from limbeck.validation.run import ValidationReport

MOST_DOTS = 1000  #: in a parity plot; the largest errors are always among them
_ALWAYS = 50
_MOST_TEMPERATURES = 8
_SIZES = 12  #: classes of force size, each of as many atoms


def parity_figures(evidence: Evidence) -> tuple[list[Figure], list[Figure]]:
    """Forces, and energies, predicted against reference: a figure a student of each."""
    compared = evidence.compared
    if compared is None:
        return [], []
    reports = evidence.reports.items()
    return (
        [_force_parity(preset, report, compared, evidence.what) for preset, report in reports],
        [_energy_parity(preset, report, compared, evidence.what) for preset, report in reports],
    )


def error_figures(evidence: Evidence) -> list[Figure]:
    """Students side by side: distribution of errors, by force size, by element, by temperature."""
    if evidence.compared is None or not evidence.reports:
        return []
    colors = ordered(list(evidence.reports))
    figures = [
        _distribution(evidence.reports, evidence.compared, colors),
        _by_force(evidence.reports, evidence.compared, colors),
        _grouped(evidence.reports, "by_element", "Errors by element", "", colors),
    ]
    kelvin = _grouped(evidence.reports, "by_temperature", "Errors by temperature", "temperature (K)", colors)
    return figures + ([kelvin] if kelvin.has_data else [])


def thin(error: np.ndarray, most: int = MOST_DOTS) -> np.ndarray:
    """Indices to draw: all, or a random draw with the largest errors always in it, in random order."""
    size = np.abs(error)
    rng = np.random.default_rng(0)
    if len(size) <= most:
        return rng.permutation(len(size))
    worst = np.argsort(-size)[:_ALWAYS]
    rest = rng.permutation(np.setdiff1d(np.arange(len(size)), worst))[: most - _ALWAYS]
    return rng.permutation(np.concatenate([worst, rest]))


def _force_parity(preset: str, report: ValidationReport, labelled: LabelledSet, what: str) -> Figure:
    reference, predicted = labelled.labels.forces.ravel(), report.prediction.forces.ravel()
    chosen = thin(predicted - reference)
    number = np.repeat(labelled.structures.numbers, 3)[chosen]
    colors = ordered([chemical_symbols[z] for z in np.unique(labelled.structures.numbers)])
    ends = _ends(reference, predicted)
    traces = [_diagonal(ends)]
    for z in np.unique(number):
        own, symbol = chosen[number == z], chemical_symbols[z]
        traces.append(
            dots(reference[own], predicted[own], symbol, colors[symbol], marker={"size": 4, "opacity": 0.55})
        )
    errors = report.metrics["all"]
    thinned = f" The {_ALWAYS} largest errors are among them." if len(chosen) < len(reference) else ""
    return Figure(
        f"parity-forces-{preset}",
        f"Forces, {preset}",
        f"RMSE {errors['force_rmse_mev_per_a']:.1f} meV/Å, MAE {errors['force_mae_mev_per_a']:.1f} meV/Å, "
        f"R² {_r2(errors['force_r2'])} over {what} frames. "
        + drawn_of(len(chosen), len(reference), "force components") + thinned,
        traces,
        _square("reference (eV/Å)", "predicted (eV/Å)", ends, showlegend=len(colors) > 1),
        height=370,
    )  # fmt: skip


def _energy_parity(preset: str, report: ValidationReport, labelled: LabelledSet, what: str) -> Figure:
    counts = labelled.structures.counts
    reference, predicted = labelled.labels.energy / counts, report.prediction.energy / counts
    # one shift for both axes: the error itself is not shifted away
    mean = float(reference.mean())
    x, y = (reference - mean) * EV_TO_MEV, (predicted - mean) * EV_TO_MEV
    chosen, ends = thin(y - x), _ends(x, y)
    traces = [_diagonal(ends)]
    for k, (name, own) in enumerate(_by_kelvin(labelled.temperature_k[chosen])):
        at = chosen[own]
        traces.append(dots(x[at], y[at], name, color_of(k), marker={"size": 6, "opacity": 0.7}))
    errors = report.metrics["all"]
    return Figure(
        f"parity-energies-{preset}",
        f"Energies, {preset}",
        f"MAE {errors['energy_mae_mev_per_atom']:.2f} meV/atom, RMSE "
        f"{errors['energy_rmse_mev_per_atom']:.2f} meV/atom over {what} frames, nothing shifted. "
        + drawn_of(len(chosen), len(x), "structures"),
        traces,
        _square(
            "reference − mean (meV/atom)", "predicted − mean (meV/atom)", ends, showlegend=len(traces) > 2
        ),
        height=370,
    )


def _by_kelvin(kelvin: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(name, indices) by temperature where there are few; else all in one."""
    rounded = np.round(kelvin)
    known = np.unique(rounded[np.isfinite(rounded)])
    if not 0 < len(known) <= _MOST_TEMPERATURES:
        return [("structures", np.arange(len(kelvin)))]
    groups = [(f"{t:.0f} K", np.flatnonzero(rounded == t)) for t in known]
    rest = np.flatnonzero(~np.isfinite(rounded))
    return [*groups, ("no temperature", rest)] if len(rest) else groups


def _ends(*values: np.ndarray) -> tuple[float, float]:
    low, high = (float(pick(pick(v) for v in values)) for pick in (min, max))
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _diagonal(ends: tuple[float, float]) -> dict[str, Any]:
    return line(
        ends, ends, "ideal", GREY, line={"width": 1, "dash": "dash"}, showlegend=False, hoverinfo="skip"
    )


def _square(x: str, y: str, ends: tuple[float, float], **more: Any) -> dict[str, Any]:
    """Equal axes with equal ticks."""
    limits = list(ends)
    along = axis(x, range=limits, constrain="domain", nticks=6)
    up = axis(y, range=limits, scaleanchor="x", constrain="domain", nticks=6)
    return big_keys(layout(along, up, **more))


def _distribution(
    reports: dict[str, ValidationReport], labelled: LabelledSet, colors: dict[str, str]
) -> Figure:
    errors = {
        preset: (report.prediction.forces - labelled.labels.forces).ravel() * EV_TO_MEV
        for preset, report in reports.items()
    }
    # the tails are few and decide stability: a log axis, and the range of all but one in a thousand
    reach = max(float(np.quantile(np.abs(e), 0.999)) for e in errors.values()) or 1.0
    edges = np.linspace(-reach, reach, 81)
    middle = (edges[1:] + edges[:-1]) / 2
    traces, shares = [], []
    for preset, error in errors.items():
        share = np.histogram(error, edges)[0] / (len(error) * (edges[1] - edges[0]))
        seen = share > 0
        shares.append(share[seen])
        traces.append(line(middle[seen], share[seen], preset, colors[preset]))
    return Figure(
        "error-distribution",
        "Errors of force components",
        "Share of components per meV/Å, on a logarithmic axis: broad tails make dynamics unstable. One "
        "component in a thousand lies beyond the axis.",
        traces,
        layout(axis("predicted − reference (meV/Å)"), log_axis("share per meV/Å", shares)),
    )


def _by_force(reports: dict[str, ValidationReport], labelled: LabelledSet, colors: dict[str, str]) -> Figure:
    size = np.linalg.norm(labelled.labels.forces, axis=1)
    classes = np.array_split(np.argsort(size), max(1, min(_SIZES, len(size) // 5)))
    middle = np.array([float(np.median(size[part])) for part in classes])
    traces, heights = [], []
    for preset, report in reports.items():
        square = ((report.prediction.forces - labelled.labels.forces) ** 2).mean(axis=1)
        rmse = np.array([float(np.sqrt(square[part].mean())) for part in classes]) * EV_TO_MEV
        heights.append(rmse)
        traces.append(line(middle, rmse, preset, colors[preset], mode="lines+markers", marker={"size": 6}))
    return Figure(
        "error-by-force",
        "Errors by size of the force",
        f"RMSE of a component in {len(classes)} classes of as many atoms each, by the length of their "
        "reference force, at the median of the class.",
        traces,
        layout(axis("reference |F| (eV/Å)"), log_axis("force RMSE (meV/Å)", heights)),
    )


def _grouped(
    reports: dict[str, ValidationReport], group: str, title: str, unit: str, colors: dict[str, str]
) -> Figure:
    first = next(iter(reports.values())).metrics.get(group, {})
    names = sorted(first, key=(lambda n: float(n)) if group == "by_temperature" else str)
    traces = []
    for preset, report in reports.items():
        figures = report.metrics.get(group, {})
        heights = [figures[name]["force_rmse_mev_per_a"] for name in names]
        few = len(names) * len(reports) <= 12
        if names:
            traces.append(
                {
                    "type": "bar", "x": names, "y": [round(h, 3) for h in heights], "name": preset,
                    "marker": {"color": colors[preset]},
                    "text": [f"{h:.0f}" if h >= 10 else f"{h:.2g}" for h in heights] if few else None,
                    "textposition": "outside",
                    "cliponaxis": False, "textangle": 0, "constraintext": "none", "textfont": {"size": 10},
                }
            )  # fmt: skip
    counted = "atoms" if group == "by_element" else "structures"
    numbers = ", ".join(f"{name}: {first[name][f'n_{counted}']:,}" for name in names)
    return Figure(
        group.replace("_", "-"),
        title,
        f"Force RMSE. Number of {counted}: {numbers}.",
        traces,
        layout(axis(unit, type="category"), axis("force RMSE (meV/Å)", rangemode="tozero"), barmode="group"),
    )


def _r2(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"
