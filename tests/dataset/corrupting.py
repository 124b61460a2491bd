"""Ways to corrupt a labelled set, for the tests of lint."""

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


def scaled(labelled: LabelledSet, **factors: float) -> LabelledSet:
    """Energy, forces or stress multiplied."""
    values = {name: getattr(labelled.labels, name) for name in factors}
    return with_labels(labelled, **{name: values[name] * factor for name, factor in factors.items()})


def forces_changed(
    labelled: LabelledSet, change: Callable[[np.ndarray], np.ndarray], frames: list[int] | None = None
) -> LabelledSet:
    """Forces of each structure, or of some, put through ``change``, (n, 3) to (n, 3)."""
    forces = labelled.labels.forces.copy()
    for s in range(len(labelled)) if frames is None else frames:
        atoms = labelled.structures.atom_index([s])
        forces[atoms] = change(forces[atoms])
    return with_labels(labelled, forces=forces)


def forces_flipped(labelled: LabelledSet, frames: list[int]) -> LabelledSet:
    return forces_changed(labelled, np.negative, frames)


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
    new = sign * labelled.labels.stress
    for (a, b), (c, d) in (((1, 2), (0, 1)), ((0, 2), (1, 2)), ((0, 1), (0, 2))):
        new[:, a, b] = new[:, b, a] = sign * labelled.labels.stress[:, c, d]
    return with_labels(labelled, stress=new)


def virials(labelled: LabelledSet, sign: float = 1.0) -> LabelledSet:
    """Stress not divided by the volume."""
    volume = labelled.structures.volume[:, None, None]
    return with_labels(labelled, stress=sign * labelled.labels.stress * volume)


def labels_copied(labelled: LabelledSet, source: int, target: int) -> LabelledSet:
    energy, own = labelled.labels.energy.copy(), labelled.labels.select(labelled.structures, [source])
    energy[target] = energy[source]
    return forces_changed(with_labels(labelled, energy=energy), lambda _: own.forces, [target])


def one_force_changed(labelled: LabelledSet, frame: int, ev_per_a: float) -> LabelledSet:
    forces = labelled.labels.forces.copy()
    forces[labelled.structures.offsets[frame], 0] += ev_per_a
    return with_labels(labelled, forces=forces)


def turned(labelled: LabelledSet, frame: int) -> LabelledSet:
    """Positions turned by a right angle, forces not."""
    positions, atoms = labelled.structures.positions.copy(), labelled.structures.atom_index([frame])
    positions[atoms] = positions[atoms] @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    return with_structures(labelled, positions=positions)


def moved(labelled: LabelledSet, atom: int, other: int, distance: float) -> LabelledSet:
    """One atom set ``distance`` (Å) from another."""
    positions = labelled.structures.positions.copy()
    positions[atom] = positions[other] + [distance, 0, 0]
    return with_structures(labelled, positions=positions)
