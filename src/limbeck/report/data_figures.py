"""What students learned from: distances, energies, forces, temperatures, origins, environments."""

from __future__ import annotations

from collections import Counter

import numpy as np
from ase.data import chemical_symbols

from limbeck.core.labels import LabelledSet
from limbeck.core.neighbours import find_pairs
from limbeck.core.structures import StructureBatch
from limbeck.records.figure import GREY, PALETTE, Axis, Figure, Trace
from limbeck.report.error_figures import drawn_of
from limbeck.report.reading import Evidence
from limbeck.units import EV_TO_MEV

PAIR_RANGE_A = 6.0
MOST_PAIR_ATOMS = 15_000  #: distances are counted in frames of this number of atoms, drawn at random
MOST_PAIRS = 10  #: pairs of elements drawn, the most frequent
BINS = 60
_MOST_TEMPERATURES = 16
DESCRIBED = 2500  #: environments of each set on the map, whole frames
DRAWN = 700  #: of each set and element
MOST_ELEMENTS = 6  #: maps, of the most frequent
_NEIGHBOURS = 12
_CUTOFF_A = 5.0
Sets = list[tuple[str, LabelledSet]]


def data_figures(evidence: Evidence, references: dict[int, float] | None) -> list[Figure]:
    """Figures of the sets that are there; ``references``: energy of each element, eV, taken off."""
    sets = evidence.sets
    if not sets:
        return []
    figures = [_distances(sets), _energies(sets, references), _forces(sets), _temperatures(sets)]
    if evidence.learned is not None and len(evidence.learned):
        figures.append(_origins(evidence.learned))
    return figures


def distance_histograms(batch: StructureBatch, edges: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
    """Counts of each element pair's distances over r² (arbitrary unit), and frames that were counted."""
    order = np.random.default_rng(0).permutation(len(batch))
    counted = max(1, int(np.searchsorted(np.cumsum(batch.counts[order]), MOST_PAIR_ATOMS, side="right")))
    part = batch.select(np.sort(order[:counted]))
    pairs = find_pairs(part, float(edges[-1]))
    owner = np.repeat(np.arange(len(part)), np.diff(pairs.offsets))
    ends = np.sort(part.numbers[part.offsets[owner] + np.stack([pairs.first, pairs.second])], axis=0)
    distance, middle = pairs.distances, (edges[1:] + edges[:-1]) / 2
    found = {}
    for a, b in sorted({(int(a), int(b)) for a, b in ends.T}):
        own = distance[(ends[0] == a) & (ends[1] == b)]
        name = "–".join(sorted((chemical_symbols[a], chemical_symbols[b])))
        found[name] = np.histogram(own, edges)[0] / middle**2
    return found, len(part)


def _distances(sets: Sets) -> Figure:
    edges = np.linspace(0.5, PAIR_RANGE_A, 111)
    middle = (edges[1:] + edges[:-1]) / 2
    counted = [distance_histograms(labelled.structures, edges) for _, labelled in sets]
    first = counted[0][0]
    names = sorted((name for name in first if first[name].any()), key=lambda name: -first[name].sum())
    traces = []
    for k, name in enumerate(names[:MOST_PAIRS]):
        for number, (found, _) in enumerate(counted):
            # many pairs twice over are a thicket; the second set is told apart only where there are few
            if name not in found or not found[name].any() or (number and len(names) > 3):
                continue
            height = found[name] / (found[name].sum() * (edges[1] - edges[0]))
            label = name if len(counted) == 1 or len(names) > 3 else f"{name}, {sets[number][0]}"
            traces.append(Trace(middle, height, label, PALETTE[k], dash="dot" if number else "solid"))
    low = min((float(middle[np.flatnonzero(first[name])[0]]) for name in names), default=0.5)
    frames = drawn_of(counted[0][1], len(sets[0][1]), "frames").replace("drawn", "counted")
    more = "" if len(first) <= MOST_PAIRS else f" The {MOST_PAIRS} most frequent of {len(first)} pairs."
    return Figure(
        "distances",
        "Pair distances",
        f"Distances of each pair of elements in the {sets[0][0]}, divided by r² and scaled to equal area. "
        f"{frames}{more}",
        traces,
        Axis("distance (Å)", limits=(max(0.4, low - 0.3), PAIR_RANGE_A)),
        Axis("density / r²", from_zero=True),
    )


def _histograms(sets: list[tuple[str, np.ndarray]], high: float) -> list[Trace]:
    """Outlines of several sets on the same bins up to ``high``, in per cent of each."""
    edges = np.linspace(0.0, high, BINS + 1)
    traces = []
    for k, (name, values) in enumerate(sets):
        inside = np.histogram(values, edges)[0].astype(float)
        if inside.any():
            x, y = np.repeat(edges, 2)[1:-1], np.repeat(100 * inside / len(values), 2)
            traces.append(Trace(x, y, f"{name} ({len(values):,})", PALETTE[k], width=1.5, fill=True))
    return traces


def interaction_energies(labelled: LabelledSet, references: dict[int, float] | None) -> np.ndarray:
    """Energy less the elements' references, eV/atom, (S,)."""
    batch = labelled.structures
    table = references or {}
    alone = np.array([table.get(int(z), 0.0) for z in batch.numbers])
    base = np.bincount(batch.structure_of_atom, weights=alone, minlength=len(batch))
    return (labelled.labels.energy - base) / batch.counts


def _energies(sets: Sets, references: dict[int, float] | None) -> Figure:
    values = [(name, interaction_energies(labelled, references)) for name, labelled in sets]
    together = np.concatenate([v for _, v in values])
    # measured from the lowest: a least-squares reference has no meaning of its own
    lowest = float(together.min())
    high = float(np.quantile(together - lowest, 0.995)) * 1.05
    unit, scale = ("meV/atom", EV_TO_MEV) if high < 0.5 else ("eV/atom", 1.0)
    beyond = int((together - lowest > high).sum())
    return Figure(
        "energies",
        "Energies",
        "Energy of each structure, elements' references taken off, above the lowest of all. "
        + (f"Beyond the axis: {beyond:,} structure{'' if beyond == 1 else 's'}." if beyond else ""),
        _histograms([(n, scale * (v - lowest)) for n, v in values], max(scale * high, 1e-6)),
        Axis(f"energy above the lowest ({unit})"),
        Axis("share (%)", from_zero=True),
    )


def _forces(sets: Sets) -> Figure:
    sizes = [(name, np.linalg.norm(labelled.labels.forces, axis=1)) for name, labelled in sets]
    together = np.concatenate([v for _, v in sizes])
    high = float(np.quantile(together, 0.999)) * 1.05
    beyond = int((together > high).sum())
    rest = f"; the {beyond:,} largest, up to {together.max():.1f} eV/Å, lie beyond the axis"
    return Figure(
        "force-sizes",
        "Forces",
        f"Length of the force on each atom{rest if beyond else ''}.",
        _histograms(sizes, high) if high > 0 else [],
        Axis("|F| (eV/Å)"),
        Axis("share (%)", from_zero=True),
    )


def _temperatures(sets: Sets) -> Figure:
    known = [(n, np.round(s.temperature_k[np.isfinite(s.temperature_k)])) for n, s in sets]
    if len(np.unique(np.concatenate([v for _, v in known]))) > _MOST_TEMPERATURES:
        known = [(n, np.round(v / 100.0) * 100.0) for n, v in known]
    together = np.unique(np.concatenate([v for _, v in known]))
    names = [f"{t:.0f}" for t in together]
    traces = []
    for k, (name, values) in enumerate(known):
        if len(values):
            heights = [int((values == t).sum()) for t in together]
            traces.append(Trace(names, heights, f"{name} ({len(values):,})", PALETTE[k], "bars"))
    unknown = sum(len(s) - len(v) for (_, s), (_, v) in zip(sets, known, strict=True))
    return Figure(
        "temperatures",
        "Temperatures",
        "Frames by the temperature of the dynamics that made them."
        + (f" {unknown:,} frames have none (rattled or strained)." if unknown else ""),
        traces,
        Axis("temperature (K)", categories=True),
        Axis("frames", from_zero=True),
    )


def _origins(learned: LabelledSet) -> Figure:
    counts = Counter(str(step) or "unknown" for step in learned.config_type)
    rows = counts.most_common(14)[::-1]
    heights = [count for _, count in rows]
    return Figure(
        "origins",
        "Where labels came from",
        f"{len(learned):,} labels by the sampling step that made their frame"
        + (f", the {len(rows)} most frequent." if len(counts) > len(rows) else "."),
        [Trace(heights, [name for name, _ in rows], "labels", PALETTE[0], "rows", legend=False,
               text=[f"{h:,}" for h in heights])],
        Axis("labels", limits=(0, 1.3 * max(heights))),
        Axis("", categories=True),
    )  # fmt: skip


def map_figures(evidence: Evidence, preset: str) -> list[Figure]:
    """The two principal components of each element's environments; ``preset``: whose errors colour them.

    Grey: environments learned from. Coloured: those compared, in random order so that none hides another
    by rule.
    """
    report, compared = evidence.reports.get(preset), evidence.compared
    if report is None or compared is None:
        return []
    parts = [labelled for name, labelled in evidence.sets if name == "training labels"] + [compared]
    chosen = [_some_frames(labelled) for labelled in parts]
    frames = [
        a for part, index in zip(parts, chosen, strict=True) for a in part.structures.select(index).to_atoms()
    ]
    batch = StructureBatch.from_atoms(frames)
    vectors, number = nearest_distances(batch), batch.numbers
    atoms = compared.structures.atom_index(chosen[-1])
    miss = np.linalg.norm((report.prediction.forces - compared.labels.forces)[atoms], axis=1) * EV_TO_MEV
    n_learned = len(number) - len(miss)
    kinds, counts = np.unique(number[n_learned:], return_counts=True)
    # one scale for all elements
    low, high = (max(float(q), 1e-3 * k) for k, q in enumerate(np.quantile(miss, (0.02, 0.99)), start=1))
    drawn = []
    for z in np.sort(kinds[np.argsort(-counts)][:MOST_ELEMENTS]):
        rng, symbol = np.random.default_rng(2), chemical_symbols[z]
        own = np.flatnonzero(number == z)
        plane, shares = principal_plane(vectors[own])
        grey = rng.permutation(np.flatnonzero(own < n_learned))[:DRAWN]
        front = rng.permutation(np.flatnonzero(own >= n_learned))[:DRAWN]
        seen = int((own < n_learned).sum())
        words = f"{drawn_of(len(grey), seen, 'grey points (training labels)')} " if seen else ""
        advice = " Large errors far from grey points are extrapolation: labels there would help."
        traces = [
            Trace(plane[grey, 0], plane[grey, 1], "training labels", GREY, "points", size=4, opacity=0.4,
                  hover=""),
            Trace(plane[front, 0], plane[front, 1], f"{evidence.what} frames", kind="points", opacity=0.85,
                  values=miss[own[front] - n_learned], low=low, high=high, unit="|ΔF|,<br>meV/Å",
                  legend=False, hover="|ΔF| %{customdata:.0f} meV/Å"),
        ]  # fmt: skip
        drawn.append(
            Figure(
                f"environments-{symbol}",
                f"Map of environments{f' of {symbol}' if len(kinds) > 1 else ''}",
                f"Principal components of the distances of each {symbol} atom's nearest neighbours, coloured "
                f"by the error of {preset}'s force in {evidence.what} frames. {words}"
                f"{drawn_of(len(front), len(own) - seen, 'coloured points')}{advice if seen else ''}",
                traces[not seen :],
                Axis(f"component 1 ({100 * shares[0]:.0f}% of variance)", labels=False),
                Axis(f"component 2 ({100 * shares[1]:.0f}%)", labels=False),
            )
        )
    return drawn


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
