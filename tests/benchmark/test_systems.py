"""Systems have the sizes asked for, as near as their kind allows, and say how many atoms they have."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.benchmark.systems import STARTS_FILE, Origin, build_system, find_origin, origin_from_card
from limbeck.errors import InputError
from limbeck.units import G_PER_CM3

REACH_A = 6.0
SILICON = Origin((bulk("Si", cubic=True),), "crystal", "test")


def density(atoms: Atoms) -> float:
    return atoms.get_masses().sum() / atoms.get_volume() * G_PER_CM3


@pytest.mark.parametrize(
    ("wanted", "atoms", "name"),
    [(16, 16, "Si 1x1x2"), (100, 96, "Si 2x2x3"), (1000, 1000, "Si 5x5x5"), (4000, 4000, "Si 5x10x10")],
)
def test_supercells_of_silicon(wanted, atoms, name):
    system = build_system(SILICON, wanted, REACH_A)
    assert (len(system.atoms), system.name) == (atoms, name)
    assert density(system.atoms) == pytest.approx(density(SILICON.frames[0]), rel=1e-12)


def test_a_cell_larger_than_the_size_stays_whole():
    liquid = Origin((bulk("Si", cubic=True) * (2, 2, 2),), "liquid", "test")
    assert len(build_system(liquid, 16, REACH_A).atoms) == 64


def test_the_start_that_fits_best_is_taken():
    primitive = bulk("Cu")  # one atom
    origin = Origin((bulk("Cu", cubic=True) * (2, 2, 2), primitive), "crystal", "test")
    assert len(build_system(origin, 17, REACH_A).atoms) in (16, 18)
    assert len(build_system(origin, 18, REACH_A).atoms) == 18


@given(st.integers(1, 3000), st.sampled_from([(1, 1, 1), (1, 1, 2), (1, 2, 3), (3, 1, 1)]))
@settings(max_examples=40, deadline=None)
def test_a_supercell_is_whole_cells_near_the_size(wanted, repeats):
    base = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * repeats
    atoms = build_system(Origin((base,), "crystal", "test"), wanted, REACH_A).atoms
    assert len(atoms) % len(base) == 0
    assert atoms.get_volume() / len(atoms) == pytest.approx(base.get_volume() / len(base))
    counts = np.bincount(atoms.numbers)
    assert counts[11] == counts[17]
    # the nearest whole number of cells, or a tenth of the size from it where that one would be a splinter
    assert abs(len(atoms) - wanted) <= len(base) / 2 + 0.1 * wanted or len(atoms) == len(base)
    lengths = atoms.cell.lengths()
    if len(atoms) > 20 * len(base):
        assert lengths.max() / lengths.min() < 6.0


def test_a_surface_grows_along_the_surface_only():
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0, periodic=True)
    atoms = build_system(Origin((slab,), "surface", "test"), 200, REACH_A).atoms
    assert abs(len(atoms) - 200) <= 20
    assert atoms.cell.lengths()[2] == pytest.approx(slab.cell.lengths()[2])
    assert atoms.cell.lengths()[0] > slab.cell.lengths()[0]


@pytest.mark.parametrize("periodic", [False, True])
def test_molecules_are_copies_out_of_each_others_reach(periodic):
    one = molecule("C6H6")
    if periodic:
        one.center(vacuum=8.0)
        one.pbc = True
    system = build_system(Origin((one,), "molecule", "test"), 100, REACH_A)
    atoms = system.atoms
    assert (len(atoms), system.name) == (96, "8 C6H6")
    assert atoms.pbc.all() == periodic
    i, j, shift = neighbor_list("ijS", atoms, REACH_A)
    assert (i // 12 == j // 12).all()
    assert not shift.any()
    assert len(i) == 8 * len(neighbor_list("i", molecule("C6H6"), REACH_A))


def test_copies_differ_and_repeat():
    system = build_system(SILICON, 16, REACH_A)
    first, second = system.copies(2)
    assert np.std(first.positions - system.atoms.positions) == pytest.approx(0.05, rel=0.2)
    assert np.abs(first.positions - second.positions).max() > 0.01
    np.testing.assert_array_equal(system.copies(2)[1].positions, second.positions)


def test_structures_given_go_before_the_run_folder_and_that_before_the_card(tmp_path):
    card = {"elements": [29], "data": {"elements": {"Cu": 10}, "density_g_per_cm3": [8.0, 9.0]}}
    student = tmp_path / "tiny.safetensors"
    assert find_origin(student, card).source == "the element's crystal at the card's mean density"
    isolated = Atoms("Cu", pbc=False)
    ase.io.write(
        tmp_path / STARTS_FILE, [isolated, bulk("Cu", cubic=True), bulk("Cu"), bulk("CuO", "rocksalt", a=4.2)]
    )
    found = find_origin(student, card)
    assert found.source == str(tmp_path / STARTS_FILE)
    assert [len(a) for a in found.frames] == [4, 1]
    ase.io.write(tmp_path / "mine.xyz", molecule("H2O"))
    given = find_origin(student, card, tmp_path / "mine.xyz")
    assert (given.kind, len(given.frames[0])) == ("molecule", 3)


def test_a_file_that_holds_nothing_is_refused(tmp_path):
    (tmp_path / "empty.xyz").touch()
    with pytest.raises(InputError) as error:
        find_origin(tmp_path / "s.safetensors", {}, tmp_path / "empty.xyz")
    assert str(error.value) == f"{tmp_path}/empty.xyz: the file is empty; wanted at least one structure"
    ase.io.write(tmp_path / "one.xyz", Atoms("Si"))
    with pytest.raises(InputError) as error:
        find_origin(tmp_path / "s.safetensors", {}, tmp_path / "one.xyz")
    assert str(error.value) == (
        f"{tmp_path}/one.xyz: single atoms alone make systems without a pair; got Si; wanted a molecule or a crystal"
    )


def test_the_card_gives_density_and_proportions():
    one = origin_from_card(
        {"elements": [14], "data": {"elements": {"Si": 64}, "density_g_per_cm3": [2.0, 2.4]}}
    )
    assert (one.kind, len(one.frames[0])) == ("crystal", 8)
    assert density(one.frames[0]) == pytest.approx(2.2)
    water = origin_from_card(
        {"elements": [1, 8], "data": {"elements": {"H": 200, "O": 100}, "density_g_per_cm3": [1.0, 1.0]}}
    )
    atoms = water.frames[0]
    assert (water.kind, str(atoms.symbols.formula.format("hill"))) == ("crystal", "H11O5")
    assert density(atoms) == pytest.approx(1.0)
    gas = origin_from_card(
        {"elements": [1, 6], "data": {"elements": {"H": 40, "C": 10}, "atoms_per_structure": [5, 5]}}
    )
    assert (gas.kind, str(gas.frames[0].symbols.formula.format("hill"))) == ("molecule", "CH4")
    assert not gas.frames[0].pbc.any()


def test_a_card_without_data_still_gives_a_system():
    found = origin_from_card({"elements": [1, 8]})
    assert (found.kind, sorted(set(found.frames[0].symbols))) == ("molecule", ["H", "O"])
    with pytest.raises(InputError) as error:
        origin_from_card({})
    assert str(error.value) == "the card names no element; wanted structures; remedy: give --structures FILE"
