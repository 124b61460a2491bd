"""A labelled set prepared for training: pairs found once, baseline subtracted once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from limbeck.core.labels import LabelledSet
from limbeck.core.neighbours import Pairs, find_pairs
from limbeck.core.structures import StructureBatch
from limbeck.students.baseline import Baseline
from limbeck.students.specification import Architecture, basis_power


@dataclass(frozen=True)
class TrainingData:
    """Structures, pairs, and the network's targets.

    Attributes
    ----------
    energy: (S,) float64, eV, label minus baseline.
    forces: (N, 3) float64, eV/Å, label minus baseline.
    virial: (S, 3, 3) float64, eV, dE/dε = V σ minus baseline; NaN where there is no stress.
    """

    structures: StructureBatch
    pairs: Pairs
    energy: np.ndarray
    forces: np.ndarray
    virial: np.ndarray

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def mean_neighbours(self) -> float:
        """Directed pairs an atom."""
        return 2 * len(self.pairs.first) / max(self.structures.n_atoms, 1)

    def basis_power(self, architecture: Architecture) -> float:
        """Mean over atoms of ``basis_power`` summed over neighbours."""
        power = float(basis_power(architecture, self.pairs.distances).sum())
        return 2 * power / max(self.structures.n_atoms, 1)


def prepare(labelled: LabelledSet, baseline: Baseline, cutoff: float) -> TrainingData:
    """Find pairs and subtract the baseline, in float64."""
    batch, labels = labelled.structures, labelled.labels
    pairs = find_pairs(batch, cutoff)
    base = baseline.evaluate(batch, pairs)
    virial = np.full((len(batch), 3, 3), np.nan)
    if labels.stress is not None:
        virial = labels.stress * batch.volume[:, None, None] - base.virial
        virial[~batch.periodic] = np.nan
    return TrainingData(batch, pairs, labels.energy - base.energy, labels.forces - base.forces, virial)


def epoch_batches(counts: np.ndarray, batch_atoms: int, rng: np.random.Generator) -> list[np.ndarray]:
    """A random order cut into batches of about ``batch_atoms`` atoms (at least one structure each)."""
    order = rng.permutation(len(counts))
    batches: list[np.ndarray] = []
    start, atoms = 0, 0
    for place, s in enumerate(order):
        if place > start and atoms + counts[s] > batch_atoms:
            batches.append(order[start:place])
            start, atoms = place, 0
        atoms += int(counts[s])
    if start < len(order):
        batches.append(order[start:])
    return batches
