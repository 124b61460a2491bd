"""What students learned from: distances, energies, temperatures, forces, and where frames came from."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from limbeck.core.labels import LabelledSet
from limbeck.core.neighbours import find_pairs
from limbeck.core.structures import StructureBatch
from limbeck.dataset.statistics import without_scans
from limbeck.report.evidence import Evidence
from limbeck.report.figures import PALETTE, Figure, axis, color_of, counted, drawn_of, layout, line, steps

PAIR_RANGE_A = 6.0
MOST_PAIR_ATOMS = 15_000  #: distances are counted in frames of so many atoms, drawn at random
MOST_PAIRS = 10  #: pairs of elements drawn, the most frequent
BINS = 60
_MOST_TEMPERATURES = 16


def data_figures(evidence: Evidence, references: dict[int, float] | None) -> list[Figure]:
    """Figures of the sets that are there.

    Parameters
    ----------
    references: energy of each element, eV, taken off the energies where known.
    """
    sets = [(name, without_scans(labelled)) for name, labelled in evidence.sets]
    sets = [(name, labelled) for name, labelled in sets if len(labelled)]
    if not sets:
        return []
    figures = [_distances(sets), _energies(sets, references), _forces(sets), _temperatures(sets)]
    if evidence.learned is not None and len(evidence.learned):
        figures.append(_origins(evidence.learned))
    return [figure for figure in figures if figure is not None]


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


def _distances(sets: list[tuple[str, LabelledSet]]) -> Figure | None:
    edges = np.linspace(0.5, PAIR_RANGE_A, 111)
    middle = (edges[1:] + edges[:-1]) / 2
    counted = [distance_histograms(labelled.structures, edges) for _, labelled in sets]
    first = counted[0][0]
    names = sorted(first, key=lambda name: -first[name].sum())[:MOST_PAIRS]
    traces = []
    for k, name in enumerate(names):
        for number, (found, _) in enumerate(counted):
            # many pairs twice over are a thicket; the second set is told apart only where there are few
            if name not in found or not found[name].any() or (number and len(names) > 3):
                continue
            height = found[name] / (found[name].sum() * (edges[1] - edges[0]))
            label = name if len(counted) == 1 or len(names) > 3 else f"{name}, {sets[number][0]}"
            dash = {"dash": "dot" if number else "solid"}
            traces.append(line(middle, height, label, color_of(k), line=dash))
    if not traces:
        return None
    low = min(float(trace_low) for trace_low in (_first_nonzero(middle, first[n]) for n in names))
    frames = drawn_of(counted[0][1], len(sets[0][1]), "frames")
    more = "" if len(first) <= MOST_PAIRS else f" The {MOST_PAIRS} most frequent of {len(first)} pairs."
    return Figure(
        "distances",
        "Pair distances",
        f"Distances of each pair of elements in the {sets[0][0]}, divided by r² and scaled to equal area. "
        f"{frames.replace('drawn', 'counted')}{more}",
        traces,
        layout(
            axis("distance (Å)", range=[max(0.4, low - 0.3), PAIR_RANGE_A]),
            axis("density / r²", rangemode="tozero"),
        ),
    )


def _first_nonzero(x: np.ndarray, y: np.ndarray) -> float:
    return float(x[np.flatnonzero(y)[0]]) if y.any() else float(x[-1])


def _outlines(sets: list[tuple[str, np.ndarray]], low: float, high: float) -> list[dict[str, Any]]:
    """Histograms of several sets on the same bins, in per cent of each."""
    edges = np.linspace(low, high, BINS + 1)
    traces = []
    for k, (name, values) in enumerate(sets):
        inside = np.histogram(values, edges)[0].astype(float)
        if inside.any():
            traces.append(steps(edges, 100 * inside / len(values), f"{name} ({len(values):,})", PALETTE[k]))
    return traces


def interaction_energies(labelled: LabelledSet, references: dict[int, float] | None) -> np.ndarray:
    """Energy less the elements' references, eV/atom, (S,)."""
    batch = labelled.structures
    table = references or {}
    alone = np.array([table.get(int(z), 0.0) for z in batch.numbers])
    base = np.bincount(batch.structure_of_atom, weights=alone, minlength=len(batch))
    return (labelled.labels.energy - base) / batch.counts


def _energies(sets: list[tuple[str, LabelledSet]], references: dict[int, float] | None) -> Figure | None:
    values = [(name, interaction_energies(labelled, references)) for name, labelled in sets]
    # measured from the lowest: a least-squares reference has no meaning of its own
    lowest = min(float(v.min()) for _, v in values)
    values = [(name, v - lowest) for name, v in values]
    together = np.concatenate([v for _, v in values])
    high = float(np.quantile(together, 0.995)) * 1.05
    unit, scale = ("meV/atom", 1000.0) if high < 0.5 else ("eV/atom", 1.0)
    traces = _outlines([(n, scale * v) for n, v in values], 0.0, max(scale * high, 1e-6))
    beyond = int((together > high).sum())
    return Figure(
        "energies",
        "Energies",
        "Energy of each structure, elements' references taken off, above the lowest of all. "
        + (f"Beyond the axis: {counted(beyond, 'structure')}." if beyond else ""),
        traces,
        layout(
            axis(f"energy above the lowest ({unit})"), axis("share (%)", rangemode="tozero"), showlegend=True
        ),
    )


def _forces(sets: list[tuple[str, LabelledSet]]) -> Figure | None:
    sizes = [(name, np.linalg.norm(labelled.labels.forces, axis=1)) for name, labelled in sets]
    together = np.concatenate([v for _, v in sizes])
    high = float(np.quantile(together, 0.999)) * 1.05
    if not high > 0:
        return None
    beyond = int((together > high).sum())
    return Figure(
        "force-sizes",
        "Forces",
        "Length of the force on each atom"
        + (
            f"; the {beyond:,} largest, up to {together.max():.1f} eV/Å, lie beyond the axis."
            if beyond
            else "."
        ),
        _outlines(sizes, 0.0, high),
        layout(axis("|F| (eV/Å)"), axis("share (%)", rangemode="tozero"), showlegend=True),
    )


def _temperatures(sets: list[tuple[str, LabelledSet]]) -> Figure | None:
    known = [(n, np.round(s.temperature_k[np.isfinite(s.temperature_k)])) for n, s in sets]
    together = np.unique(np.concatenate([v for _, v in known]))
    if not len(together):
        return None
    if len(together) > _MOST_TEMPERATURES:
        known = [(n, np.round(v / 100.0) * 100.0) for n, v in known]
        together = np.unique(np.concatenate([v for _, v in known]))
    traces = []
    for k, (name, values) in enumerate(known):
        if len(values):
            heights = [int((values == t).sum()) for t in together]
            traces.append(
                {
                    "type": "bar", "name": f"{name} ({len(values):,})", "marker": {"color": PALETTE[k]},
                    "x": [f"{t:.0f}" for t in together], "y": heights,
                }
            )  # fmt: skip
    unknown = sum(len(s) - len(v) for (_, s), (_, v) in zip(sets, known, strict=True))
    return Figure(
        "temperatures",
        "Temperatures",
        "Frames by the temperature of the dynamics that made them."
        + (f" {unknown:,} frames have none (rattled or strained)." if unknown else ""),
        traces,
        layout(axis("temperature (K)", type="category"), axis("frames", rangemode="tozero"), barmode="group"),
    )


def _origins(learned: LabelledSet) -> Figure:
    counts = Counter(re.sub(r"^$", "unknown", str(step)) for step in learned.config_type)
    rows = counts.most_common(14)
    names, heights = [name for name, _ in rows][::-1], [count for _, count in rows][::-1]
    return Figure(
        "origins",
        "Where labels came from",
        f"{len(learned):,} labels by the sampling step that made their frame"
        + (f", the {len(rows)} most frequent." if len(counts) > len(rows) else "."),
        [
            {
                "type": "bar", "orientation": "h", "x": heights, "y": names, "marker": {"color": PALETTE[0]},
                "text": [f"{h:,}" for h in heights], "textposition": "outside", "cliponaxis": False,
                "name": "labels",
            }
        ],
        layout(
            axis("labels", range=[0, 1.3 * max(heights)]), axis("", type="category"), showlegend=False
        ),
    )  # fmt: skip
