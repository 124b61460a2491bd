"""A map of atomic environments, those compared coloured by the error of their force."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from limbeck.core.labels import LabelledSet
from limbeck.core.neighbours import find_pairs
from limbeck.core.structures import StructureBatch
from limbeck.dataset.statistics import without_scans
from limbeck.report.evidence import Evidence
from limbeck.report.figures import ERROR_SCALE, GREY, Figure, axis, big_keys, dots, drawn_of, layout, packed
from limbeck.units import EV_TO_MEV

DESCRIBED = 2500  #: environments of each set, whole frames
DRAWN = 700  #: of each set and element
MOST_ELEMENTS = 6  #: maps, of the most frequent
_NEIGHBOURS = 12
_CUTOFF_A = 5.0


@dataclass(frozen=True)
class _Described:
    """Environments of both sets, those learned from first: (E, D) vectors, (E,) elements, (C,) errors."""

    vectors: np.ndarray
    number: np.ndarray
    n_learned: int
    miss: np.ndarray


def map_figures(evidence: Evidence, preset: str) -> list[Figure]:
    """The two principal components of each element's environments; ``preset``: whose errors colour them."""
    report, compared = evidence.reports.get(preset), evidence.compared
    if report is None or compared is None:
        return []
    far = _some_frames(compared)
    frames = compared.structures.select(far).to_atoms()
    learned = None if evidence.learned is None else without_scans(evidence.learned)
    n_learned = 0
    if learned is not None and len(learned):
        near = _some_frames(learned)
        n_learned = int(learned.structures.counts[near].sum())
        frames = learned.structures.select(near).to_atoms() + frames
    vectors = nearest_distances(StructureBatch.from_atoms(frames))
    atoms = compared.structures.atom_index(far)
    miss = np.linalg.norm((report.prediction.forces - compared.labels.forces)[atoms], axis=1) * EV_TO_MEV
    number = np.concatenate([frame.numbers for frame in frames])
    described = _Described(vectors, number, n_learned, miss)
    kinds, counts = np.unique(number[n_learned:], return_counts=True)
    chosen = np.sort(kinds[np.argsort(-counts)][:MOST_ELEMENTS])
    return [_draw(described, int(z), len(kinds) > 1, preset, evidence.what) for z in chosen]


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


def _draw(found: _Described, z: int, several: bool, preset: str, what: str) -> Figure:
    """Grey: environments learned from. Coloured: those compared, in random order so that none hides another
    by rule."""
    rng, symbol = np.random.default_rng(2), chemical_symbols[z]
    own = np.flatnonzero(found.number == z)
    plane, shares = principal_plane(found.vectors[own])
    back = rng.permutation(np.flatnonzero(own < found.n_learned))[:DRAWN]
    front = rng.permutation(np.flatnonzero(own >= found.n_learned))[:DRAWN]
    miss = found.miss[own[front] - found.n_learned]
    # one scale for all elements
    low, high = (
        max(float(q), least)
        for q, least in zip(np.quantile(found.miss, (0.02, 0.99)), (1e-3, 2e-3), strict=True)
    )
    ticks = [t for d in range(-3, 6) for t in (10.0**d, 3 * 10.0**d) if low <= t <= high]
    traces = []
    if len(back):
        traces.append(
            dots(plane[back, 0], plane[back, 1], "training labels", GREY,
                 marker={"size": 4, "opacity": 0.4}, hoverinfo="skip")
        )  # fmt: skip
    marker = {
        "size": 5, "opacity": 0.85, "colorscale": [list(stop) for stop in ERROR_SCALE], "showscale": True,
        "color": packed(np.log10(np.clip(miss, low, high))), "cmin": float(np.log10(low)),
        "cmax": float(np.log10(high)),
        "colorbar": {
            "title": {"text": "|ΔF|,<br>meV/Å", "side": "top"}, "thickness": 12, "outlinewidth": 0,
            "tickvals": [float(np.log10(t)) for t in ticks], "ticktext": [f"{t:g}" for t in ticks],
        },
    }  # fmt: skip
    traces.append(
        dots(plane[front, 0], plane[front, 1], f"{what} frames", GREY, marker=marker, showlegend=False,
             customdata=packed(miss), hovertemplate="|ΔF| %{customdata:.0f} meV/Å<extra></extra>")
    )  # fmt: skip
    seen = int((own < found.n_learned).sum())
    drawn = f"{drawn_of(len(back), seen, 'grey points (training labels)')} " if seen else ""
    lesson = (
        " Large errors far from grey points are extrapolation: labels there would help." if len(back) else ""
    )
    return Figure(
        f"environments-{symbol}",
        f"Map of environments{f' of {symbol}' if several else ''}",
        f"Principal components of the distances of each {symbol} atom's nearest neighbours, coloured by the "
        f"error of {preset}'s force in {what} frames. {drawn}"
        f"{drawn_of(len(front), len(own) - seen, 'coloured points')}{lesson}",
        traces,
        big_keys(
            layout(
                axis(f"component 1 ({100 * shares[0]:.0f}% of variance)", showticklabels=False, ticks=""),
                axis(f"component 2 ({100 * shares[1]:.0f}%)", showticklabels=False, ticks=""),
            )
        ),
    )
