"""Labelled files: key names, stress signs, missing labels, isolated atoms."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from limbeck.core.labels import concatenate_labelled
from limbeck.dataset import read_labelled, split_isolated_atoms
from limbeck.errors import InputError


def copper(n: int = 3) -> list[Atoms]:
    """Rattled copper, EMT labels on a SinglePointCalculator."""
    frames = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True) * (1, 1, k + 1)
        atoms.rattle(0.1, seed=k)
        atoms.calc = EMT()
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def test_attached_labels_and_provenance(tmp_path):
    frames = copper()
    frames[1].info.update(family="Cu#0/md-300K-s0", step="md", temperature_K=300.0)
    write(tmp_path / "cu.extxyz", frames)
    labelled = read_labelled(tmp_path / "cu.extxyz")
    assert labelled.structures.counts.tolist() == [4, 8, 12]
    assert labelled.labels.energy == pytest.approx([f.get_potential_energy() for f in frames])
    assert labelled.labels.forces == pytest.approx(np.concatenate([f.get_forces() for f in frames]), abs=1e-8)
    assert labelled.labels.stress == pytest.approx(np.stack([f.get_stress(voigt=False) for f in frames]))
    assert labelled.family.tolist() == ["", "Cu#0/md-300K-s0", ""]
    assert labelled.step.tolist() == ["", "md", ""]
    assert np.array_equal(labelled.temperature_k, [np.nan, 300.0, np.nan], equal_nan=True)


def renamed(frames: list[Atoms], stress: str) -> list[Atoms]:
    """Labels under names of a user's own; virials are -stress times volume."""
    out = []
    for frame in frames:
        copy = frame.copy()
        copy.info["dft_energy"] = frame.get_potential_energy()
        copy.arrays["dft_forces"] = frame.get_forces()
        tensor = frame.get_stress(voigt=False)
        if stress == "virial":
            copy.info["dft_virial"] = -tensor * frame.get_volume()
        elif stress == "nine":
            copy.info["dft_stress"] = tensor.ravel()
        else:
            copy.info["dft_stress"] = frame.get_stress()
        out.append(copy)
    return out


@pytest.mark.parametrize("stress", ["virial", "nine", "voigt"])
def test_named_keys_and_the_sign_of_the_virial(tmp_path, stress):
    frames = copper()
    write(tmp_path / "dft.extxyz", renamed(frames, stress))
    labelled = read_labelled(
        tmp_path / "dft.extxyz",
        energy_key="dft_energy",
        forces_key="dft_forces",
        **{"virial_key": "dft_virial"} if stress == "virial" else {"stress_key": "dft_stress"},
    )
    assert labelled.labels.energy == pytest.approx([f.get_potential_energy() for f in frames])
    assert labelled.labels.forces == pytest.approx(np.concatenate([f.get_forces() for f in frames]), abs=1e-8)
    expected = np.stack([f.get_stress(voigt=False) for f in frames])
    assert np.abs(expected).max() > 1e-3
    assert labelled.labels.stress == pytest.approx(expected)


def test_stress_is_the_derivative_of_the_energy(tmp_path):
    """The sign convention by finite differences: dE/de = V * stress, positive in tension."""
    stretched = bulk("Cu", a=3.75, cubic=True)

    def energy(e: float) -> float:
        atoms = stretched.copy()
        atoms.set_cell(atoms.cell * (1 + e), scale_atoms=True)
        atoms.calc = EMT()
        return atoms.get_potential_energy()

    stretched.calc = EMT()
    stretched.get_stress()
    virial = -stretched.get_stress(voigt=False) * stretched.get_volume()
    stretched.info["dft_virial"] = virial
    stretched.calc = SinglePointCalculator(
        stretched, energy=stretched.get_potential_energy(), forces=stretched.get_forces()
    )
    write(tmp_path / "v.extxyz", stretched)
    stress = read_labelled(tmp_path / "v.extxyz", virial_key="dft_virial").labels.stress
    slope = (energy(1e-4) - energy(-1e-4)) / 2e-4
    assert slope > 0
    assert np.trace(stress[0]) * stretched.get_volume() == pytest.approx(slope, rel=1e-4)


def test_stress_of_a_mixed_set_and_of_molecules(tmp_path):
    frames = copper(2)
    alone = copper(1)[0]
    alone.pbc = False
    bare = copper(1)[0]
    del bare.calc.results["stress"]
    write(tmp_path / "mixed.extxyz", [*frames, alone, bare])
    stress = read_labelled(tmp_path / "mixed.extxyz").labels.stress
    assert np.isfinite(stress).all(axis=(1, 2)).tolist() == [True, True, False, False]
    write(tmp_path / "none.extxyz", [bare])
    assert read_labelled(tmp_path / "none.extxyz").labels.stress is None


def test_missing_labels_name_what_is_there(tmp_path):
    path = tmp_path / "dft.extxyz"
    write(path, renamed(copper(1), "virial"))
    with pytest.raises(InputError) as caught:
        read_labelled(path)
    assert str(caught.value) == (
        f"{path}, frame 0: no energy; got info dft_energy, dft_virial / arrays dft_forces; wanted energy; "
        "remedy: name the entry with --energy-key"
    )
    with pytest.raises(InputError) as caught:
        read_labelled(path, energy_key="dft_energy", forces_key="forcs")
    assert str(caught.value).endswith("wanted forces under 'forcs'; remedy: name the entry with --forces-key")
    with pytest.raises(InputError, match=r"no frame has the named stress; got .*; wanted an entry 'stres'"):
        read_labelled(path, energy_key="dft_energy", forces_key="dft_forces", stress_key="stres")
    with pytest.raises(InputError, match="both a stress key and a virial key; wanted one of them"):
        read_labelled(path, stress_key="a", virial_key="b")
    partly = copper(2)
    partly[1].calc = None
    write(tmp_path / "partly.extxyz", partly)
    with pytest.raises(InputError, match=r"partly.extxyz, frame 1: no energy; got no labels at all"):
        read_labelled(tmp_path / "partly.extxyz")


def test_nan_labels_stay_for_the_audit_but_nan_positions_are_refused(tmp_path):
    frames = copper(2)
    frames[0].calc.results["forces"][1, 2] = np.nan
    write(tmp_path / "nan.extxyz", frames)
    assert np.isnan(read_labelled(tmp_path / "nan.extxyz").labels.forces[1, 2])
    frames[1].positions[0, 0] = np.nan
    write(tmp_path / "bad.extxyz", frames)
    with pytest.raises(InputError, match=r"bad.extxyz, frame 1: a position is not finite; got atom 0"):
        read_labelled(tmp_path / "bad.extxyz")


def test_folder_that_is_no_store(tmp_path):
    with pytest.raises(InputError, match=r"the folder is not a label store; wanted files named shard-\*.lbk"):
        read_labelled(tmp_path)


def test_label_store(tmp_path):
    from limbeck.core.labels import Labels
    from limbeck.labelling.record import TeacherIdentity, make_record
    from limbeck.labelling.store import LabelStore

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


def test_isolated_atoms_are_told_from_crystals(tmp_path):
    def atom(symbol, energy, cell=None):
        made = Atoms(symbol, cell=cell, pbc=cell is not None)
        made.calc = SinglePointCalculator(made, energy=energy)
        return made

    frames = [
        atom("H", -13.6),
        atom("Cu", -3.0, np.eye(3) * 12.0),
        atom("Cu", -3.5, bulk("Cu").cell),
        *copper(1),
    ]
    write(tmp_path / "iso.extxyz", frames)
    labelled = read_labelled(tmp_path / "iso.extxyz")
    rest, energies = split_isolated_atoms(labelled)
    assert energies == {1: -13.6, 29: -3.0}
    assert rest.structures.counts.tolist() == [1, 4]
    assert rest.labels.energy[0] == -3.5
    write(tmp_path / "two.extxyz", [atom("H", -13.6), atom("H", -13.5)])
    with pytest.raises(
        InputError, match=r"isolated atoms of one element differ in energy; got -13.6000 and -13.5000"
    ):
        split_isolated_atoms(read_labelled(tmp_path / "two.extxyz"))


def test_frames_keep_the_numbers_they_have_in_the_file(tmp_path):
    alone = Atoms("Cu")
    alone.calc = SinglePointCalculator(alone, energy=-3.0)
    one, two, three = copper(3)
    path = tmp_path / "mixed.extxyz"
    write(path, [alone, one, alone, two, three])
    path.write_text(path.read_text() + "\n" + path.read_text())  # joined with an empty line between
    rest, _ = split_isolated_atoms(read_labelled(path))
    assert rest.frame.tolist() == [1, 3, 4, 6, 8, 9]
    assert rest.select([5, 0]).frame.tolist() == [9, 1]
    joined = concatenate_labelled([rest.select([1, 2]), rest.select([0])])
    assert joined.frame.tolist() == [3, 4, 1]
    assert joined.structures.counts.tolist() == [8, 12, 4]


def named_otherwise(frames: list[Atoms], *names: str) -> list[Atoms]:
    """Frames with labels under the usual names, and virial, REF_energy or mine_forces beside them."""
    for frame in frames:
        if "virial" in names:
            frame.info["virial"] = -frame.get_stress(voigt=False) * frame.get_volume()
            del frame.calc.results["stress"]
        if "REF_energy" in names:
            frame.info["REF_energy"] = 1.0
        if "mine_forces" in names:
            frame.arrays["mine_forces"] = np.ones((len(frame), 3))
    return frames


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["virial"], "virial looks like a label and is not used; --virial-key virial reads it"),
        (
            ["REF_energy", "mine_forces"],
            "REF_energy, mine_forces look like labels and are not used; --energy-key REF_energy --forces-key "
            "mine_forces read them",
        ),
    ],
)
def test_labels_that_are_not_used_are_named(tmp_path, names, told):
    path = tmp_path / "nep.extxyz"
    write(path, named_otherwise(copper(), *names))
    with pytest.warns(UserWarning, match="not used") as caught:
        read_labelled(path)
    assert [str(one.message) for one in caught] == [f"{path}: {told}"]


def test_names_that_mean_no_label_are_passed_over(tmp_path, recwarn):
    frames = copper()
    for frame in frames:
        frame.info |= {
            "kinetic_energy": 1.0,
            "force_rmse_mev_per_a": 2.0,
            "student_energy": 3.0,
            "energy_unit": "eV",
        }
        frame.arrays["student_forces"] = np.ones((len(frame), 3))
    write(tmp_path / "a.extxyz", frames)
    read_labelled(tmp_path / "a.extxyz")
    # with its name the virial is used, and beside a stress it is the same thing
    write(tmp_path / "b.extxyz", named_otherwise(copper(), "virial"))
    read_labelled(tmp_path / "b.extxyz", virial_key="virial")
    for frame in frames:
        frame.info["virial"] = np.eye(3)
    write(tmp_path / "c.extxyz", frames)
    read_labelled(tmp_path / "c.extxyz")
    assert [str(w.message) for w in recwarn if "label" in str(w.message)] == []


def test_stress_of_slabs_does_not_count(tmp_path):
    frames = copper(2)
    for frame in frames:
        frame.pbc = (True, True, False)
    path = tmp_path / "slab.extxyz"
    write(path, frames)
    text = "stress counts only where all three directions repeat"
    with pytest.warns(UserWarning, match=text + r'.*2 frames with stress, the first of pbc="T T F"'):
        labelled = read_labelled(path)
    assert labelled.labels.stress is None
    with pytest.raises(InputError, match=text + ".*remedy: leave the stress key out"):
        read_labelled(path, stress_key="stress")


def test_public_labelled_sets(shared_data):
    bpa = read_labelled(shared_data / "3bpa" / "train_mixedT.xyz")
    assert len(bpa) == 500
    assert bpa.labels.stress is None
    assert np.sqrt((bpa.labels.forces**2).mean()) == pytest.approx(1.432, rel=0.02)  # eV/Å, as published data
    atoms = read_labelled(shared_data / "3bpa" / "iso_atoms.xyz")
    rest, energies = split_isolated_atoms(atoms)
    assert len(rest) == 0
    assert sorted(energies) == [1, 6, 7, 8]
    silicon = read_labelled(shared_data / "mlearn" / "Si_test.xyz")
    assert np.isfinite(silicon.labels.stress).all()
    xtb = read_labelled(
        shared_data / "solvent_xtb" / "solvent_xtb_train_20.xyz",
        energy_key="energy_xtb",
        forces_key="forces_xtb",
    )
    _, energies = split_isolated_atoms(xtb)
    assert energies[1] == pytest.approx(-10.7072, abs=1e-4)
