from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read

from limbeck.core.charge import spin_multiplicity, stated_charge, total_charge
from limbeck.core.checks import check_structures
from limbeck.core.child import pack_batch, unpack_batch
from limbeck.core.frames import make_frame, read_frames, write_frames
from limbeck.core.structures import StructureBatch, concatenate
from limbeck.errors import InputError


def cation(**info: object) -> Atoms:
    """CH3OH+, a doublet: 17 electrons."""
    atoms = molecule("CH3OH")
    atoms.info.update(info)
    return atoms


@pytest.mark.parametrize("key", ["charge", "total_charge", "overall_charge", "molecular_charge", "Charge"])
@pytest.mark.parametrize("value", [1, 1.0, np.int64(1), np.array([1]), np.array(1.0), np.array([[1]]), "1"])
def test_the_usual_entries_give_the_charge(key, value):
    assert stated_charge(cation(**{key: value})) == 1.0


@pytest.mark.parametrize("key", ["spin", "total_spin", "multiplicity", "spin_multiplicity", "Multiplicity"])
@pytest.mark.parametrize("value", [2, 2.0, np.int64(2), np.array([2])])
def test_the_usual_entries_give_the_multiplicity(key, value):
    assert spin_multiplicity(cation(**{key: value})) == 2


def test_none_and_zero():
    assert stated_charge(cation()) is None
    assert stated_charge(cation(charge=None, total_charge=None)) is None
    assert total_charge(cation(charge=None)) == 0
    assert stated_charge(cation(charge=np.array([0]))) == 0
    assert spin_multiplicity(cation()) == spin_multiplicity(cation(spin=0, multiplicity=None)) == 0
    assert stated_charge(cation(charges=np.ones(6), charge_method="Bader")) is None


@pytest.mark.parametrize(
    ("info", "facts"),
    [
        ({"charge": "plus"}, ("total charge; got 'plus'; wanted info['charge'] in units of e",)),
        ({"total_charge": np.ones(6)}, ("total charge; got array(",)),
        ({"charge": True}, ("total charge; got True",)),
        ({"charge": np.inf}, ("total charge; got inf",)),
        ({"charge": 1, "total_charge": 0}, ("total charge; got charge 1, total_charge 0; ", "remedy: remove the")),
        ({"spin": 0.5}, ("spin multiplicity; got 0.5",)),
        ({"spin": -1}, ("spin multiplicity; got -1", "2S + 1")),
        ({"spin": "up"}, ("spin multiplicity; got 'up'",)),
        ({"spin": 1, "multiplicity": 2}, ("spin multiplicity; got spin 1, multiplicity 2",)),
    ],
)  # fmt: skip
def test_invalid_entries_are_refused(info, facts):
    with pytest.raises(InputError) as caught:
        check_structures([cation(), cation(**info)], "mine.xyz")
    text = str(caught.value)
    assert text.startswith("mine.xyz, frame 1: ")
    assert "\n" not in text
    assert all(fact in text for fact in facts), text


@pytest.mark.parametrize("key", ["charge", "total_charge", "overall_charge"])
def test_a_set_has_one_charge(key):
    with pytest.raises(InputError, match=r"frame 1: .* total charge .*; got charge 1 here and 0 in frame 0"):
        check_structures([cation(), cation(**{key: np.array([1])})], "mine.xyz")
    check_structures([cation(charge=1), cation(**{key: 1})], "mine.xyz")


def test_a_set_has_one_spin():
    singlet, triplet = cation(spin=1), cation(total_spin=3)
    with pytest.raises(InputError, match=r"frame 2: .* spin .*; got multiplicity 3 here and 1 in"):
        check_structures([cation(), singlet, triplet], "mine.xyz")
    check_structures([cation(), triplet, cation(spin=0)], "a structure without an entry fits any")


def test_isolated_atoms_go_with_any_charge():
    hydrogen = Atoms("H", info={"spin": 2})
    ions = [cation(charge=1, spin=2), cation(charge=1, spin=2)]
    check_structures([hydrogen, Atoms("C", info={"spin": 3}), *ions], "mine.xyz")
    proton = Atoms("H", info={"charge": 1})
    with pytest.raises(InputError, match="different total charge"):
        check_structures([cation(), proton], "a proton is no reference of a neutral set")


@pytest.mark.parametrize(
    ("info", "refused"),
    [
        ({"spin": 1}, False), ({"spin": 3}, False), ({"spin": 2}, True), ({"spin": 21}, True),
        ({"spin": 2, "charge": 1}, False), ({"spin": 1, "charge": 1}, True), ({"spin": 1, "charge": -2}, False),
        ({"spin": 2, "charge": 0.5}, False),
    ],
)  # fmt: skip
def test_a_multiplicity_fits_the_electrons(info, refused):
    # methanol has 18 electrons: S and 2S of a doublet or triplet, taken for 2S + 1, show here
    if refused:
        with pytest.raises(InputError, match="spin multiplicity .* number of electrons"):
            check_structures([cation(**info)], "mine.xyz")
    else:
        check_structures([cation(**info)], "mine.xyz")
    metal = bulk("Cu")
    metal.info["spin"] = 1
    check_structures([metal], "a cell may be a metal")


def test_charge_and_spin_are_kept_in_every_form(tmp_path):
    ions = [cation(total_charge=np.array([1]), multiplicity=2), cation(charge=1, total_spin=2.0)]
    frames = [make_frame(ion, "mine") for ion in ions]
    assert [(f.info["charge"], f.info["spin"]) for f in frames] == [(1.0, 2), (1.0, 2)]
    write_frames(tmp_path / "frames.extxyz", frames)
    for found in (read_frames(tmp_path / "frames.extxyz"), read(tmp_path / "frames.extxyz", ":")):
        batch = StructureBatch.from_atoms(found)
        batch = unpack_batch(pack_batch(concatenate([batch, batch.select([1])])))
        assert batch.charge.tolist() == [1.0] * 3
        assert batch.spin.tolist() == [2] * 3
        assert all(a.info == {"charge": 1.0, "spin": 2} for a in batch.to_atoms())
    # no entry stays no entry, in the file too
    write_frames(tmp_path / "plain.extxyz", [make_frame(cation(charge=0, spin=0), "mine")])
    assert "charge" not in (tmp_path / "plain.extxyz").read_text()


def test_a_batch_made_by_hand_has_no_spin():
    one = StructureBatch.from_atoms([cation()])
    made = StructureBatch(one.numbers, one.positions, one.cell, one.pbc, one.offsets, one.charge)
    assert made.spin.tolist() == [0]
