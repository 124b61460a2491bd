"""Ways to spoil a labelled set, for the tests of lint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from ase import units

from limbeck.core.labels import LabelledSet, concatenate_labelled


def with_labels(labelled: LabelledSet, **changed: np.ndarray) -> LabelledSet:
    return replace(labelled, labels=replace(labelled.labels, **changed))


def with_structures(labelled: LabelledSet, **changed: np.ndarray) -> LabelledSet:
    return replace(labelled, structures=replace(labelled.structures, **changed))


def scaled(
    labelled: LabelledSet, energy: float = 1.0, forces: float = 1.0, stress: float = 1.0
) -> LabelledSet:
    own = labelled.labels
    changed = {"energy": own.energy * energy, "forces": own.forces * forces}
    if own.stress is not None:
        changed["stress"] = own.stress * stress
    return with_labels(labelled, **changed)


def atoms_of(labelled: LabelledSet, frames: list[int]) -> np.ndarray:
    return labelled.structures.atom_index(frames)


def forces_flipped(labelled: LabelledSet, frames: list[int]) -> LabelledSet:
    forces = labelled.labels.forces.copy()
    forces[atoms_of(labelled, frames)] *= -1
    return with_labels(labelled, forces=forces)


def forces_permuted(labelled: LabelledSet, frames: list[int], seed: int = 0) -> LabelledSet:
    rng, forces = np.random.default_rng(seed), labelled.labels.forces.copy()
    for s in frames:
        atoms = atoms_of(labelled, [s])
        forces[atoms] = forces[rng.permutation(atoms)]
    return with_labels(labelled, forces=forces)


def energies_shifted(labelled: LabelledSet, frames: list[int], ev_per_atom: float) -> LabelledSet:
    energy = labelled.labels.energy.copy()
    energy[frames] += ev_per_atom * labelled.structures.counts[frames]
    return with_labels(labelled, energy=energy)


def in_bohr(labelled: LabelledSet) -> LabelledSet:
    own = labelled.structures
    return with_structures(labelled, positions=own.positions / units.Bohr, cell=own.cell / units.Bohr)


def repeated(labelled: LabelledSet, frames: list[int]) -> LabelledSet:
    return concatenate_labelled([labelled, labelled.select(frames)])


def stress_as_vasp_writes_it(labelled: LabelledSet, sign: float = 1.0) -> LabelledSet:
    """xx yy zz xy yz zx read as xx yy zz yz xz xy."""
    stress = labelled.labels.stress
    assert stress is not None
    order = [0, 1, 2, 0, 1, 0], [0, 1, 2, 1, 2, 2]
    new = stress.copy()
    for column, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        new[:, a, b] = new[:, b, a] = sign * stress[:, order[0][column], order[1][column]]
    return with_labels(labelled, stress=new)


def virials(labelled: LabelledSet, sign: float = 1.0) -> LabelledSet:
    """Stress not divided by the volume."""
    stress = labelled.labels.stress
    assert stress is not None
    return with_labels(labelled, stress=sign * stress * labelled.structures.volume[:, None, None])


def labels_copied(labelled: LabelledSet, source: int, targets: list[int]) -> LabelledSet:
    forces, energy = labelled.labels.forces.copy(), labelled.labels.energy.copy()
    for s in targets:
        forces[atoms_of(labelled, [s])] = forces[atoms_of(labelled, [source])]
        energy[s] = energy[source]
    return with_labels(labelled, forces=forces, energy=energy)


def one_force_spoiled(labelled: LabelledSet, frames: list[int], ev_per_a: float = 30.0) -> LabelledSet:
    forces = labelled.labels.forces.copy()
    for s in frames:
        forces[labelled.structures.offsets[s], 0] += ev_per_a
    return with_labels(labelled, forces=forces)


def turned_alone(labelled: LabelledSet, frames: list[int]) -> LabelledSet:
    """Positions turned by a right angle, forces not."""
    positions = labelled.structures.positions.copy()
    atoms = atoms_of(labelled, frames)
    positions[atoms] = positions[atoms] @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    return with_structures(labelled, positions=positions)


def moved(labelled: LabelledSet, atom: int, beside: int, distance: float) -> LabelledSet:
    """One atom set ``distance`` (Å) beside another."""
    positions = labelled.structures.positions.copy()
    positions[atom] = positions[beside] + [distance, 0, 0]
    return with_structures(labelled, positions=positions)


def forces_changed(
    labelled: LabelledSet, change: Callable[[np.ndarray], np.ndarray], frames: list[int] | None = None
) -> LabelledSet:
    """Forces of all or some structures put through ``change``, (n, 3) to (n, 3)."""
    forces = labelled.labels.forces.copy()
    atoms = atoms_of(labelled, list(range(len(labelled))) if frames is None else frames)
    forces[atoms] = change(forces[atoms])
    return with_labels(labelled, forces=forces)
