"""Labelled files: key names, stress signs, missing labels, isolated atoms."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from limbeck.core.labels import Labels, concatenate_labelled
from limbeck.dataset import read_labelled, split_isolated_atoms
from limbeck.errors import InputError
from limbeck.records.label_record import TeacherIdentity, make_record
from limbeck.records.label_store import LabelStore
from tests.dataset.systems import labelled_by_emt

NAMED = {"energy_key": "dft_energy", "forces_key": "dft_forces"}


def copper(n: int = 3) -> list[Atoms]:
    """Rattled copper, EMT labels on a SinglePointCalculator."""
    frames = [bulk("Cu", cubic=True) * (1, 1, k + 1) for k in range(n)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=k)
    return labelled_by_emt(frames).to_atoms()


def virial(frame: Atoms) -> np.ndarray:
    return -frame.get_stress(voigt=False) * frame.get_volume()


def renamed(frames: list[Atoms], **more) -> list[Atoms]:
    """Labels under names of a user's own, and entries made of each frame."""
    out = []
    for frame in frames:
        copy = frame.copy()
        copy.info["dft_energy"] = frame.get_potential_energy()
        copy.arrays["dft_forces"] = frame.get_forces()
        copy.info |= {name: make(frame) for name, make in more.items()}
        out.append(copy)
    return out


def alone(symbol: str, energy: float, cell=None) -> Atoms:
    made = Atoms(symbol, cell=cell, pbc=cell is not None)
    made.calc = SinglePointCalculator(made, energy=energy)
    return made


@pytest.fixture
def read(tmp_path):
    """read(frames, keys) -> labels of these frames, through a file."""

    def _read(frames: list[Atoms] | Atoms, **keys):
        write(tmp_path / "dft.extxyz", frames)
        return read_labelled(tmp_path / "dft.extxyz", **keys)

    return _read


def test_attached_labels_and_provenance(read):
    frames = copper()
    frames[1].info.update(group="Cu#0/md-300K-s0", config_type="md", temperature_K=300.0)
    labelled = read(frames)
    assert labelled.structures.counts.tolist() == [4, 8, 12]
    assert labelled.labels.energy == pytest.approx([f.get_potential_energy() for f in frames])
    assert labelled.labels.forces == pytest.approx(np.concatenate([f.get_forces() for f in frames]), abs=1e-8)
    assert labelled.labels.stress == pytest.approx(np.stack([f.get_stress(voigt=False) for f in frames]))
    assert labelled.group[1] == "Cu#0/md-300K-s0"
    assert labelled.config_type[1] == "md"
    assert np.array_equal(labelled.temperature_k[:2], [np.nan, 300.0], equal_nan=True)


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("virial_key", virial),
        ("stress_key", lambda frame: frame.get_stress(voigt=False).ravel()),
        ("stress_key", lambda frame: frame.get_stress()),
    ],
    ids=["virial", "nine", "voigt"],
)
def test_named_keys_and_the_sign_of_the_virial(read, key, entry):
    frames = copper()
    labels = read(renamed(frames, dft_stress=entry), **NAMED, **{key: "dft_stress"}).labels
    assert labels.energy == pytest.approx([f.get_potential_energy() for f in frames])
    assert labels.forces == pytest.approx(np.concatenate([f.get_forces() for f in frames]), abs=1e-8)
    expected = np.stack([f.get_stress(voigt=False) for f in frames])
    assert np.abs(expected).max() > 1e-3
    assert labels.stress == pytest.approx(expected)


def test_stress_is_the_derivative_of_the_energy(read):
    """The sign convention by finite differences: dE/de = V * stress, positive in tension."""
    strained = [bulk("Cu", a=3.75 * (1 + e), cubic=True) for e in (0.0, 1e-4, -1e-4)]
    for atoms in strained:
        atoms.calc = EMT()
    stress = read(renamed(strained[:1], dft_virial=virial), **NAMED, virial_key="dft_virial").labels.stress
    slope = (strained[1].get_potential_energy() - strained[2].get_potential_energy()) / 2e-4
    assert slope > 0
    assert np.trace(stress[0]) * strained[0].get_volume() == pytest.approx(slope, rel=1e-4)


def test_stress_of_a_mixed_set_and_of_molecules(read):
    frames = copper(3) + copper(1)
    frames[2].pbc = False
    del frames[3].calc.results["stress"]
    stress = read(frames).labels.stress
    assert np.isfinite(stress).all(axis=(1, 2)).tolist() == [True, True, False, False]
    assert read(frames[3:]).labels.stress is None


@pytest.mark.parametrize(
    ("keys", "facts"),
    [
        ({}, "frame 0: no energy; got info dft_energy, dft_virial / arrays dft_forces; wanted energy; remedy: name the entry with --energy-key"),
        (NAMED | {"forces_key": "forcs"}, "wanted forces under 'forcs'; remedy: name the entry with --forces-key"),
        (NAMED | {"stress_key": "stres"}, "no frame has the named stress; got info dft_energy, dft_virial / arrays dft_forces; wanted an entry 'stres'"),
        ({"stress_key": "a", "virial_key": "b"}, "both a stress key and a virial key; wanted one of them"),
    ],
)  # fmt: skip
def test_missing_labels_name_what_is_there(read, keys, facts):
    with pytest.raises(InputError) as caught:
        read(renamed(copper(1), dft_virial=virial), **keys)
    assert str(caught.value).endswith(facts)


def test_nan_labels_stay_for_the_audit_but_nan_positions_are_refused(read):
    frames = copper(2)
    frames[0].calc.results["forces"][1, 2] = np.nan
    assert np.isnan(read(frames).labels.forces[1, 2])
    frames[1].positions[0, 0] = np.nan
    with pytest.raises(InputError, match=r"dft.extxyz, frame 1: .*not finite; got atom 0"):
        read(frames)
    frames[1] = Atoms("Cu", cell=frames[0].cell, pbc=True)
    with pytest.raises(InputError, match=r"dft.extxyz, frame 1: no energy; got no labels at all"):
        read(frames)


def test_label_store(tmp_path):
    with pytest.raises(InputError, match=r"the folder is not a label store; wanted files named shard-\*.lbk"):
        read_labelled(tmp_path)
    frames = copper(2)
    identity = TeacherIdentity(name="emt", version="1", weights_hash="", options="", precision="float64")
    with LabelStore(tmp_path / "labels") as store:
        for k, frame in enumerate(frames):
            stress = frame.get_stress(voigt=False)[None]
            labels = Labels(np.array([frame.get_potential_energy()]), frame.get_forces(), stress)
            store.append(make_record(frame, labels, identity, k))
    labelled = read_labelled(tmp_path / "labels")
    assert labelled.labels.energy.tolist() == [f.get_potential_energy() for f in frames]
    assert np.array_equal(labelled.labels.forces, np.concatenate([f.get_forces() for f in frames]))
    with pytest.raises(InputError, match="a label store needs no keys; got energy_key"):
        read_labelled(tmp_path / "labels", energy_key="energy")


def test_isolated_atoms_are_distinguished_from_crystals(read):
    crystal = alone("Cu", -3.5, bulk("Cu").cell)
    labelled = read([alone("H", -13.6), alone("Cu", -3.0, np.eye(3) * 12.0), crystal, *copper(1)])
    rest, energies = split_isolated_atoms(labelled)
    assert energies == {1: -13.6, 29: -3.0}
    assert rest.structures.counts.tolist() == [1, 4]
    assert rest.labels.energy[0] == -3.5
    with pytest.raises(InputError, match="got -13.6000 and -13.5000 eV for atomic number 1"):
        split_isolated_atoms(read([alone("H", -13.6), alone("H", -13.5)]))


def test_frames_keep_the_numbers_they_have_in_the_file(tmp_path):
    one, two, three = copper(3)
    path = tmp_path / "mixed.extxyz"
    write(path, [alone("Cu", -3.0), one, alone("Cu", -3.0), two, three])
    path.write_text(path.read_text() + "\n" + path.read_text())  # joined with an empty line between
    rest, _ = split_isolated_atoms(read_labelled(path))
    assert rest.frame.tolist() == [1, 3, 4, 6, 8, 9]
    assert rest.select([5, 0]).frame.tolist() == [9, 1]
    joined = concatenate_labelled([rest.select([1, 2]), rest.select([0])])
    assert joined.frame.tolist() == [3, 4, 1]
    assert joined.structures.counts.tolist() == [8, 12, 4]


@pytest.mark.parametrize(
    ("info", "facts"),
    [
        ({"virial": np.eye(3)}, ["virial looks", "--virial-key virial"]),
        ({"REF_energy": 1.0, "mine_forces": None},
         ["REF_energy, mine_forces look", "--energy-key REF_energy --forces-key mine_forces"]),
        ({"kinetic_energy": 1.0, "force_rmse_mev_per_a": 2.0, "student_energy": 3.0, "energy_unit": "eV"}, []),
    ],
)  # fmt: skip
def test_labels_that_are_not_used_are_named(read, recwarn, info, facts):
    frames = copper()
    for frame in frames:
        frame.info |= {name: value for name, value in info.items() if value is not None}
        frame.arrays["mine_forces" if "mine_forces" in info else "student_forces"] = np.ones((len(frame), 3))
        if "virial" in info:
            del frame.calc.results["stress"]
    read(frames)
    text = "".join(str(w.message) for w in recwarn if "label" in str(w.message))
    assert all(fact in text for fact in facts)
    assert bool(text) == bool(facts)


@pytest.mark.parametrize(("stress", "keys"), [(False, {"virial_key": "virial"}), (True, {})])
def test_a_virial_that_is_used_or_goes_with_a_stress_is_not_named(read, recwarn, stress, keys):
    frames = copper()
    for frame in frames:
        frame.info["virial"] = virial(frame)
        if not stress:
            del frame.calc.results["stress"]
    read(frames, **keys)
    assert [str(w.message) for w in recwarn if "label" in str(w.message)] == []


def test_stress_of_slabs_does_not_count(read):
    frames = copper(2)
    for frame in frames:
        frame.pbc = (True, True, False)
    text = "stress counts only where all three directions repeat"
    with pytest.warns(UserWarning, match=text + r'.*2 frames with stress, the first of pbc="T T F"'):
        assert read(frames).labels.stress is None
    with pytest.raises(InputError, match=text + ".*remedy: leave the stress key out"):
        read(frames, stress_key="stress")
    for frame in frames:
        frame.calc.results["stress"] = np.full(6, np.nan)
    with warnings.catch_warnings(action="error"):
        assert read(frames).labels.stress is None


def test_public_labelled_sets(shared_data):
    bpa = read_labelled(shared_data / "3bpa" / "train_mixedT.xyz")
    assert (len(bpa), bpa.labels.stress) == (500, None)
    assert np.sqrt((bpa.labels.forces**2).mean()) == pytest.approx(1.432, rel=0.02)  # eV/Å, as published data
    rest, energies = split_isolated_atoms(read_labelled(shared_data / "3bpa" / "iso_atoms.xyz"))
    assert (len(rest), sorted(energies)) == (0, [1, 6, 7, 8])
    assert np.isfinite(read_labelled(shared_data / "mlearn" / "Si_test.xyz").labels.stress).all()
    path: Path = shared_data / "solvent_xtb" / "solvent_xtb_train_20.xyz"
    xtb = read_labelled(path, energy_key="energy_xtb", forces_key="forces_xtb")
    assert split_isolated_atoms(xtb)[1][1] == pytest.approx(-10.7072, abs=1e-4)
