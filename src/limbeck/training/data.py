"""A labelled set made ready for training: pairs found once, baselines taken off once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from limbeck.core.labels import LabelledSet
from limbeck.core.neighbours import Pairs, find_pairs
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.students.baseline import Baseline
from limbeck.students.specification import Architecture, basis_power


@dataclass(frozen=True)
class TrainingData:
    """Structures, pairs, and what the network must learn.

    Attributes
    ----------
    energy: (S,) float64, eV, label minus baseline.
    forces: (N, 3) float64, eV/Å, label minus baseline.
    virial: (S, 3, 3) float64, eV, dE/dε = V σ minus baseline; NaN where there is no stress.
    atom_energies: (N,) float64, eV, see :func:`atomic_targets`; None where they were not asked for.
    """

    structures: StructureBatch
    pairs: Pairs
    energy: np.ndarray
    forces: np.ndarray
    virial: np.ndarray
    atom_energies: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def mean_neighbours(self) -> float:
        """Directed pairs an atom."""
        return 2 * len(self.pairs.first) / max(self.structures.n_atoms, 1)

    def basis_power(self, architecture: Architecture) -> float:
        """Mean over atoms of the radial basis's power summed over neighbours."""
        return (
            2 * float(basis_power(architecture, self.pairs.distances).sum()) / max(self.structures.n_atoms, 1)
        )


def prepare(
    labelled: LabelledSet, baseline: Baseline, cutoff: float, *, atom_energies: bool = False
) -> TrainingData:
    """Find pairs and subtract the baseline, in float64; from the atomic energies too, if asked."""
    batch, labels = labelled.structures, labelled.labels
    pairs = find_pairs(batch, cutoff)
    base, base_virial = baseline.evaluate(batch, pairs)
    virial = np.full((len(batch), 3, 3), np.nan)
    if labels.stress is not None:
        virial = labels.stress * batch.volume[:, None, None] - base_virial
        virial[~batch.periodic] = np.nan
    atomic = None
    if atom_energies:
        if labels.atom_energies is None or not np.isfinite(labels.atom_energies).any():
            raise InputError(
                "no atomic energies to train on",
                got="labels of energies and forces only",
                wanted="a teacher that gives atomic energies",
                remedy="set training.atom_energy_weight to 0",
            )
        atomic = atomic_targets(batch, labels.energy - base.energy, labels.atom_energies - base.atom_energies)
    return TrainingData(
        structures=batch,
        pairs=pairs,
        energy=labels.energy - base.energy,
        forces=labels.forces - base.forces,
        virial=virial,
        atom_energies=atomic,
    )


def atomic_targets(batch: StructureBatch, energy: np.ndarray, atom_energies: np.ndarray) -> np.ndarray:
    """What the network's atomic energies should be, (N,), eV, NaN where the teacher gave none.

    Only sums are physical: constants per element that cancel in the totals may be added at will, and
    a teacher's are its own (CHGNet's site energies, SevenNet's shifts). So each element's mean is moved
    towards the mean of all atoms, from which a network starts, as far as the totals allow: among the
    constants d_z that fit sum_z n_sz d_z = E_s - sum_i e_i best, the nearest to mean - mean_z. With
    one composition all elements get one mean; where compositions differ, the teacher's differences stay.

    Parameters
    ----------
    energy: (S,) eV, without baseline.  atom_energies: (N,) eV, without baseline, NaN where unknown.
    """
    known = np.isfinite(atom_energies)  # (N,)
    whole = np.flatnonzero(np.logical_and.reduceat(known, batch.offsets[:-1]))
    rows = batch.atom_index(whole)
    elements, column = np.unique(batch.numbers[rows], return_inverse=True)
    place = np.repeat(np.arange(len(whole)), batch.counts[whole])
    shares = np.zeros((len(whole), len(elements)))  # of each element in each structure
    np.add.at(shares, (place, column), 1.0 / batch.counts[whole][place])
    sums = np.bincount(place, atom_energies[rows], minlength=len(whole))
    missing = (energy[whole] - sums) / batch.counts[whole]
    count = np.bincount(column)
    even = atom_energies[rows].mean() - np.bincount(column, atom_energies[rows]) / count
    constants = even + np.linalg.lstsq(shares, missing - shares @ even, rcond=1e-6)[0]
    targets = np.full(len(atom_energies), np.nan)
    targets[rows] = atom_energies[rows] + constants[column]
    return targets


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
