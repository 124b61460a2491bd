"""Boxes of molecules: what was asked for, as ASE's masses and RDKit's formulas say it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.sampling.support import hashes, sample

from limbeck.core.kinds import finite_molecules
from limbeck.errors import InputError, MissingPackageError
from limbeck.sampling import liquids
from limbeck.sampling.liquids import Liquid, pack_liquid

pytest.importorskip("rdkit")
pytest.importorskip("packmol")


def g_per_cm3(atoms) -> float:
    """By Avogadro's number and metres, not by the constant that made the box."""
    return atoms.get_masses().sum() / units.mol * units.mol / units._Nav / (atoms.get_volume() * 1e-24)


@pytest.fixture(scope="module")
def mixture():
    return pack_liquid(Liquid(molecules="24 O, 4 CCO", density_g_per_cm3=0.95), seed=3)


def test_density_and_counts(mixture):
    assert len(mixture) == 3
    for box in mixture:
        assert box.get_chemical_formula() == "C8H72O28"
        assert g_per_cm3(box) == pytest.approx(0.95, rel=1e-6)
        assert box.pbc.all()
        assert len({*box.cell.cellpar()[:3].round(9)}) == 1
        assert sorted(map(len, finite_molecules(box))) == [3] * 24 + [9] * 4
    assert [box.info["group"] for box in mixture] == ["liquid#0", "liquid#1", "liquid#2"]


def test_no_contacts_across_faces_either(mixture):
    for box in mixture:
        of = np.zeros(len(box), dtype=int)
        for k, members in enumerate(finite_molecules(box)):
            of[members] = k
        i, j, distance = neighbor_list("ijd", box, 3.0)
        between = of[i] != of[j]
        assert distance[between].min() > 1.9
        oxygen = between & (box.numbers[i] == 8) & (box.numbers[j] == 8)
        assert distance[oxygen].min() > 2.0


def test_molecules_are_rigid_copies(mixture):
    """Bond lengths of every water are those of one; a packed box has not been deformed."""
    for box in mixture:
        waters = [m for m in finite_molecules(box) if len(m) == 3]
        shape = [np.sort(box[m].get_all_distances()[np.triu_indices(3, 1)]) for m in waters]
        assert np.abs(np.array(shape) - shape[0]).max() < 1e-4
        assert shape[0][0] == pytest.approx(0.97, abs=0.02)


def test_seed_decides(mixture):
    again = pack_liquid(Liquid(molecules="24 O, 4 CCO", density_g_per_cm3=0.95), seed=3)
    assert hashes(again) == hashes(mixture)
    other = pack_liquid(Liquid(molecules="24 O, 4 CCO", density_g_per_cm3=0.95, n_packings=1), seed=4)
    assert len({*hashes(other), *hashes(mixture)}) == 4


def test_edge_instead_of_density():
    (box,) = pack_liquid(Liquid(molecules=[{"smiles": "O", "count": 8}], box_a=8.0, n_packings=1))
    assert np.allclose(box.cell.array, 8.0 * np.eye(3))
    assert len(box) == 24


def test_flexible_molecules_come_in_several_shapes():
    (box,) = pack_liquid(Liquid(molecules="4 CCCCCC", density_g_per_cm3=0.4, n_packings=1))
    carbons = [m[box.numbers[m] == 6] for m in finite_molecules(box)]
    assert len({round(float(box[c].get_all_distances().max()), 2) for c in carbons}) > 1


@pytest.mark.parametrize(
    ("salt", "charge"), [("2 [Na+], 2 [Cl-], 20 O", None), ("3 [Na+], 1 [Cl-], 20 O", 2.0)]
)
def test_a_box_has_the_sum_of_its_molecules_charges(salt, charge):
    (box,) = pack_liquid(Liquid(molecules=salt, density_g_per_cm3=1.0, n_packings=1))
    assert box.info.get("charge") == charge
    assert len(box) == 64


def test_boxes_are_starting_structures(mixture):
    frames = sample(mixture, {"kind": "rattle", "stdev_a": 0.02, "n": 2})
    assert len(frames) == 6
    assert frames[0].info["group"] == "liquid#0/rattle-0.02A-b0"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"molecules": "20 C(C", "density_g_per_cm3": 1.0}, "--liquid: not a SMILES; got 'C(C'"),
        ({"molecules": "1 c1ccccc1", "density_g_per_cm3": 0.88}, "--liquid: the box is smaller than a molecule; got 0.88 g/cm³ in a box of 5.28 Å for a molecule of 4.9"),
        ({"molecules": "64 O", "density_g_per_cm3": 3.0}, "--liquid: the molecules do not fit into the box; got 3 g/cm³ in a box of 8.61 Å"),
        ({"molecules": "16 ClC(Cl)(Cl)Cl", "density_g_per_cm3": 4.0}, "--liquid: the molecules do not fit into the box; got a box of 10.07 Å in which Packmol finds no place"),
        ({"molecules": "9999 O", "density_g_per_cm3": 1.0}, "--liquid: the box holds too many atoms; got 29997"),
    ],
)  # fmt: skip
def test_what_cannot_be_packed(values, message, monkeypatch):
    monkeypatch.setattr(liquids, "_LOOPS", 3)
    with pytest.raises(InputError) as caught:
        pack_liquid(Liquid(**values, n_packings=1))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"molecules": "64 O"}, "the size of the box is not settled; got neither"),
        ({"molecules": "64 O", "box_a": 9, "density_g_per_cm3": 1}, "the size of the box is not settled; got both"),
        ({"molecules": "64 O", "density_g_per_cm3": 997}, "no liquid is so dense; got 997 g/cm³; wanted at most 25 "),
        ({"molecules": "64 O", "density_g_per_cm3": float("nan")}, "greater than 0"),
        ({"molecules": "O", "box_a": 9}, "not a composition; got 'O'; wanted counts and SMILES, such as '48 O, 8 CCO'"),
        ({"molecules": "0 O", "box_a": 9}, "not a composition"),
        ({"molecules": "-3 O", "box_a": 9}, "not a composition"),
        ({"molecules": "", "box_a": 9}, "not a composition"),
        ({"molecules": [], "box_a": 9}, "at least 1 item"),
        ({"molecules": [{"smiles": "O", "count": 0}], "box_a": 9}, "greater than 0"),
    ],
)  # fmt: skip
def test_bad_liquids(values, message):
    with pytest.raises(ValidationError) as caught:
        Liquid(**values)
    assert message in str(caught.value)


@given(
    st.lists(st.tuples(st.integers(1, 999), st.sampled_from(["O", "CCO", "[Na+]", "c1ccccc1"])), min_size=1)
)
@settings(max_examples=50)
def test_composition_as_text(parts):
    liquid = Liquid(molecules=", ".join(f"{n} {smiles}" for n, smiles in parts), box_a=10)
    assert [(m.count, m.smiles) for m in liquid.molecules] == parts
    assert Liquid.model_validate(liquid.model_dump()) == liquid


def test_without_packmol(monkeypatch):
    monkeypatch.setitem(sys.modules, "packmol.cli", None)
    with pytest.raises(MissingPackageError, match=r"--liquid: Packmol is not installed; .*\[liquids\]"):
        pack_liquid(Liquid(molecules="8 O", box_a=8))


def test_overlap_check_sees_images():
    """The check after packing, on a box in which two molecules meet through a face."""
    water = molecule("H2O")
    box = water.copy()
    box.extend(molecule("H2O"))
    box.set_cell([8.0] * 3)
    box.pbc = True
    box.positions[3:, 0] += 7.0
    assert liquids._too_close(box, [(water, 2)]) == "O and O at 1.00 Å"
    box.positions[3:, 0] -= 3.0
    assert liquids._too_close(box, [(water, 2)]) is None
