"""Kinds of system on structures that everybody knows."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule
from ase.io import read

from limbeck.core.kinds import (
    finite_molecules,
    heights,
    open_axis,
    structure_kind,
    system_kind,
    vacuum_gap,
)


def boxed(name: str, edge: float = 15.0) -> Atoms:
    atoms = molecule(name, cell=[edge] * 3, pbc=True)
    atoms.center()
    return atoms


def dry_ice() -> Atoms:
    """CO2 as a molecular crystal: four molecules along the body diagonals, Pa-3, a = 5.62 Å."""
    atoms = Atoms(cell=[5.62] * 3, pbc=True)
    for place, axis in (((0, 0, 0), (1, 1, 1)), ((0, 0.5, 0.5), (-1, 1, -1)),
                        ((0.5, 0, 0.5), (-1, -1, 1)), ((0.5, 0.5, 0), (1, -1, -1))):  # fmt: skip
        centre, along = 5.62 * np.array(place), np.array(axis) / 3**0.5
        atoms.extend(Atoms("COO", [centre, centre + 1.16 * along, centre - 1.16 * along]))
    return atoms


def slab(vacuum: float, periodic: bool) -> Atoms:
    return fcc111("Cu", (2, 2, 4), vacuum=vacuum, periodic=periodic)


@pytest.mark.parametrize(
    ("atoms", "kind"),
    [
        (bulk("Si"), "crystal"),
        (bulk("Cu", cubic=True), "crystal"),
        (bulk("NaCl", "rocksalt", a=5.64), "crystal"),
        (bulk("Ar", "fcc", a=5.26, cubic=True) * 2, "crystal"),
        (dry_ice() * 2, "crystal"),
        (molecule("C6H6"), "molecule"),
        (boxed("CH3CH2OH"), "molecule"),
        (slab(6.0, True), "surface"),
        (slab(6.0, False), "surface"),
        (graphene(vacuum=8.0), "surface"),
        (Atoms("Cu"), "molecule"),
    ],
)
def test_kinds(atoms, kind):
    assert structure_kind(atoms) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("water64", "liquid"),
        ("si64", "crystal"),
        ("licl64", "crystal"),
        ("li3ps4", "crystal"),
        ("3bpa", "molecule"),
    ],
)
def test_kinds_of_reference_structures(shared_data, name, kind):
    assert structure_kind(read(shared_data / "structs" / f"{name}.xyz")) == kind


def test_of_several_the_hardest():
    assert system_kind([bulk("Cu"), slab(6.0, True)]) == "surface"
    assert system_kind([molecule("H2O"), bulk("Cu")]) == "crystal"
    packed = bulk("Cu")
    packed.info["source"] = "liquid"
    assert system_kind([packed, molecule("H2O")]) == "liquid"


def test_gap_through_the_face_of_a_cell():
    atoms = slab(6.0, True)
    atoms.positions[:, 2] -= 8.0
    atoms.wrap()
    assert vacuum_gap(atoms, 2)[0] == pytest.approx(12.0)
    assert open_axis(atoms) == 2
    assert np.unique(heights(atoms, 2).round(6)) == pytest.approx(np.arange(4) * 3.61 / 3**0.5, abs=1e-5)


def test_molecules_through_faces():
    atoms = boxed("H2O", 6.0)
    atoms.positions += 3.1
    atoms.wrap()
    assert [sorted(m) for m in finite_molecules(atoms)] == [[0, 1, 2]]
    assert finite_molecules(bulk("Si")) == []
