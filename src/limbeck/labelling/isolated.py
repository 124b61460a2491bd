"""Energies of isolated atoms, as reference energies of a student."""

from __future__ import annotations

from collections.abc import Iterable

from ase import Atoms

from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch


def isolated_atom_energies(teacher: Potential, elements: Iterable[int]) -> dict[int, float] | None:
    """Energy (eV) of one atom without a cell by atomic number; None where the teacher cannot treat it."""
    if not teacher.capabilities.isolated_atoms or not teacher.capabilities.molecular:
        return None
    numbers = sorted({int(z) for z in elements})
    labels = teacher.evaluate(StructureBatch.from_atoms([Atoms(numbers=[z]) for z in numbers]))
    return {z: float(e) for z, e in zip(numbers, labels.energy, strict=True)}
