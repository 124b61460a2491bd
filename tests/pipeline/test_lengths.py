"""Starting structures with lengths that no material has."""

from __future__ import annotations

import pytest
from ase import Atoms, units
from ase.build import bulk, graphene, molecule

from limbeck.errors import InputError
from limbeck.pipeline.opening import check_lengths


def scaled(atoms: Atoms, factor: float) -> Atoms:
    atoms = atoms.copy()
    if atoms.cell.rank:
        atoms.set_cell(atoms.cell * factor, scale_atoms=True)
    else:
        atoms.positions *= factor
    return atoms


SOUND = [
    bulk("Cu", cubic=True), bulk("Si"), bulk("Li"), bulk("Cs"), bulk("NaCl", "rocksalt", a=5.64),
    bulk("Ar", "fcc", a=5.3), graphene(vacuum=8), molecule("C2H6"), molecule("H2"), molecule("Li2"),
    bulk("Cu") * (2, 1, 1), Atoms("Ar"), Atoms("Ar2", positions=[[0, 0, 0], [3.8, 0, 0]]), bulk("Cs", a=5.0),
]  # fmt: skip


@pytest.mark.parametrize("atoms", SOUND, ids=lambda a: a.get_chemical_formula())
def test_sound_structures_say_nothing(atoms):
    assert check_lengths([atoms], "x") == []


@pytest.mark.parametrize(
    "atoms", [bulk("Cu", cubic=True), bulk("Si"), molecule("C2H6"), molecule("CH3CH2OH")]
)
def test_bohr_is_noted(atoms):
    (note,) = check_lengths([scaled(atoms, 1 / units.Bohr)], "in.xyz")
    assert note.startswith("in.xyz: nearest neighbours are ")
    assert "as if lengths were in bohr (1 bohr = 0.529177 Å)" in note


def test_a_cell_of_one_angstrom_is_refused():
    atoms = Atoms("Si", cell=[1, 1, 1], pbc=True)
    with pytest.raises(InputError, match=r"x: atoms are nearer .* got Si-Si at 1\.00 Å, 0\.45 of the sum"):
        check_lengths([atoms], "x")


def test_lengths_converted_twice_are_refused():
    with pytest.raises(InputError, match="converted from bohr twice"):
        check_lengths([scaled(bulk("Cu", cubic=True), units.Bohr)], "x")


def test_one_close_pair_is_noted():
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.positions[1] = atoms.positions[0] + [1.3, 0, 0]
    (note,) = check_lengths([atoms], "x")
    assert "very near one another (Cu-Cu at 1.30 Å, 0.49 of the sum of covalent radii)" in note


def test_atoms_without_neighbours_are_noted():
    (note,) = check_lengths([Atoms("CuCu", positions=[[0, 0, 0], [9, 0, 0]])], "x")
    assert "most atoms have no neighbour (the nearest is more than 6 Å away" in note
    (note,) = check_lengths([scaled(bulk("Si"), 2.6)], "x")
    assert "most atoms have no neighbour" in note
