"""A map of atomic environments, those compared coloured by the error of their force."""

from __future__ import annotations

import importlib.util

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from limbeck.core.labels import LabelledSet
from limbeck.core.neighbours import find_pairs
from limbeck.core.structures import StructureBatch
from limbeck.report.evidence import Evidence, without_scans
from limbeck.report.figures import ERROR_SCALE, GREY, SYMBOLS, Figure, axis, dots, layout, packed
from limbeck.sampling.environments import describe_environments
from limbeck.units import EV_TO_MEV
from limbeck.validation.run import ValidationReport

DESCRIBED = 2500  #: environments of each set, whole frames
DRAWN = 1000  #: of each set
_NEIGHBOURS = 12
_CUTOFF_A = 5.0


def map_figure(evidence: Evidence, preset: str) -> Figure | None:
    """The two principal components of environments; ``preset``: whose errors colour them."""
    report, compared = evidence.reports.get(preset), evidence.compared
    if report is None or compared is None:
        return None
    learned = None if evidence.learned is None else without_scans(evidence.learned)
    far, near = _some_frames(compared), np.zeros(0, np.int64)
    frames = compared.structures.select(far).to_atoms()
    if learned is not None and len(learned):
        near = _some_frames(learned)
        frames = learned.structures.select(near).to_atoms() + frames
    vectors, how = describe(frames)
    plane, shares = principal_plane(vectors)
    begin = 0 if learned is None else int(learned.structures.counts[near].sum())
    return _draw(plane, shares, how, begin, compared, far, report, preset, evidence.what)


def describe(frames: list[Atoms]) -> tuple[np.ndarray, str]:
    """A vector for each atom of all frames, and the descriptor's name."""
    if importlib.util.find_spec("dscribe") is not None:
        found = describe_environments(frames, most=10**9)
        return found.vectors, "SOAP (dscribe)"
    return nearest_distances(StructureBatch.from_atoms(frames)), "distances of the nearest neighbours"


def nearest_distances(batch: StructureBatch) -> np.ndarray:
    """(N, 12·elements): 1/r - 1/rc of each atom's nearest neighbours of each element, falling."""
    pairs = find_pairs(batch, _CUTOFF_A)
    begin = batch.offsets[np.repeat(np.arange(len(batch)), np.diff(pairs.offsets))]
    centre = np.concatenate([begin + pairs.first, begin + pairs.second])
    other = np.concatenate([begin + pairs.second, begin + pairs.first])
    closeness = np.tile(1.0 / pairs.distances - 1.0 / _CUTOFF_A, 2)
    parts = []
    for z in np.unique(batch.numbers):
        own = batch.numbers[other] == z
        at, value = centre[own], closeness[own]
        order = np.lexsort((-value, at))
        at, value = at[order], value[order]
        rank = np.arange(len(at)) - np.searchsorted(at, at)
        table = np.zeros((batch.n_atoms, _NEIGHBOURS))
        table[at[rank < _NEIGHBOURS], rank[rank < _NEIGHBOURS]] = value[rank < _NEIGHBOURS]
        parts.append(table)
    return np.concatenate(parts, axis=1)


def principal_plane(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(E, 2) coordinates along the two principal axes, and the share of the variance of each."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    total = float((singular**2).sum()) or 1.0
    plane = centred @ axes[:2].T
    if plane.shape[1] < 2:
        plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    return plane, np.pad(singular[:2] ** 2 / total, (0, max(0, 2 - len(singular))))


def _some_frames(labelled: LabelledSet) -> np.ndarray:
    order = np.random.default_rng(1).permutation(len(labelled))
    count = int(np.searchsorted(np.cumsum(labelled.structures.counts[order]), DESCRIBED, side="right"))
    return order[: max(1, count)]


def _draw(
    plane: np.ndarray,
    shares: np.ndarray,
    how: str,
    begin: int,
    compared: LabelledSet,
    frames: np.ndarray,
    report: ValidationReport,
    preset: str,
    what: str,
) -> Figure:
    rng = np.random.default_rng(2)
    atoms = compared.structures.atom_index(frames)
    miss = np.linalg.norm((report.prediction.forces - compared.labels.forces)[atoms], axis=1) * EV_TO_MEV
    order = rng.permutation(len(atoms))[:DRAWN]  # in random order none hides another by rule
    back = rng.permutation(begin)[:DRAWN]
    low, high = np.quantile(miss, (0.02, 0.99))
    low, high = max(float(low), 1e-3), max(float(high), 2e-3)
    ticks = [t for d in range(-3, 6) for t in (10.0**d, 3 * 10.0**d) if low <= t <= high]
    traces = []
    if len(back):
        traces.append(
            dots(plane[back, 0], plane[back, 1], "training labels", GREY,
                 marker={"size": 4, "opacity": 0.35}, hoverinfo="skip")
        )  # fmt: skip
    number = compared.structures.numbers[atoms]
    for k, z in enumerate(np.unique(number)):
        own = order[number[order] == z]
        if not len(own):
            continue
        marker = {
            "size": 6, "opacity": 0.85, "symbol": SYMBOLS[k % len(SYMBOLS)], "coloraxis": "coloraxis",
            "color": packed(np.log10(np.clip(miss[own], low, high))), "line": {"width": 0},
        }  # fmt: skip
        traces.append(
            dots(plane[begin + own, 0], plane[begin + own, 1], f"{chemical_symbols[z]}, {what}", GREY,
                 marker=marker, customdata=packed(miss[own]),
                 hovertemplate=f"{chemical_symbols[z]}: |ΔF| %{{customdata:.0f}} meV/Å<extra></extra>")
        )  # fmt: skip
    colors = {
        "colorscale": [list(stop) for stop in ERROR_SCALE], "cmin": float(np.log10(low)),
        "cmax": float(np.log10(high)),
        "colorbar": {
            "title": {"text": "|ΔF| (meV/Å)", "side": "right"}, "thickness": 12, "outlinewidth": 0,
            "tickvals": [float(np.log10(t)) for t in ticks], "ticktext": [f"{t:g}" for t in ticks],
        },
    }  # fmt: skip
    return Figure(
        "environments",
        "Map of atomic environments",
        f"Principal components of {how} of {len(plane):,} environments ({begin:,} of training labels, "
        f"{len(plane) - begin:,} {what}); {len(back):,} and {len(order):,} are drawn, coloured by the error "
        f"of {preset}'s force. Errors far from grey points are extrapolation: labels there would help.",
        traces,
        layout(
            axis(f"component 1 ({100 * shares[0]:.0f}% of variance)", showticklabels=False, ticks=""),
            axis(f"component 2 ({100 * shares[1]:.0f}%)", showticklabels=False, ticks=""),
            coloraxis=colors,
        ),
    )
