"""`limbeck train` on labels of one's own, and the commands that look at students."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.stress import voigt_6_to_full_3x3_stress

import limbeck
from limbeck.artifact.file import read_student
from limbeck.dataset.read import read_labelled
from limbeck.runtime import released
from limbeck.runtime.student import Student
from limbeck.workflows import stages as commands

from .conftest import labelled, labelled_copper
from .test_finalize import write_untrained

TRAIN = "train --preset ultra-tiny"


def _errors(folder) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())["ultra-tiny"]["validation"]["all"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with forty labels of copper and a student of theirs; nothing in it is changed."""
    from limbeck import cli

    folder = tmp_path_factory.mktemp("trained")
    write(folder / "copper.extxyz", labelled_copper(40))
    options = f"--epochs 60 --val 0.2 --out {folder}/dft"
    assert cli.main([*TRAIN.split(), f"{folder}/copper.extxyz", *options.split()]) == 0
    return folder


def test_train_learns_and_validate_agrees(done, trained, tmp_path):
    metrics = json.loads((trained / "dft/metrics.json").read_text())
    assert set(metrics) == {"ultra-tiny", "run"}
    assert set(metrics["ultra-tiny"]) == {"validation", "run"}
    assert metrics["ultra-tiny"]["run"]["training"]["epochs"] == 60
    student = trained / "dft/ultra-tiny.safetensors"
    about = limbeck.Student.load(student).card["run"]
    assert about["name"] == "dft"
    own = _errors(trained / "dft")
    assert own["n_structures"] == 8
    # a constant prediction has R² = 0; sixty epochs on forty cells of four atoms reach 0.99
    assert own["force_r2"] > 0.98
    order = np.random.default_rng(0).permutation(40)
    frames = read(trained / "copper.extxyz", ":")
    write(tmp_path / "val.extxyz", [frames[k] for k in order[32:]])
    done(f"validate {student} {tmp_path}/val.extxyz --json {tmp_path}/v.json")
    found = json.loads((tmp_path / "v.json").read_text())["ultra-tiny"]
    worst = found["run"]["worst_frames"]
    rmse = [frame["force_rmse_mev_per_a"] for frame in worst]
    assert len(rmse) == 8
    assert rmse == sorted(rmse, reverse=True)
    # frames of equal size: the mean of their squares is the square of the whole
    assert np.sqrt(np.mean(np.square(rmse))) == pytest.approx(found["data"]["all"]["force_rmse_mev_per_a"])
    assert worst[0]["worst_element"] == "Cu"
    for key in ("force_rmse_mev_per_a", "force_r2", "energy_mae_mev_per_atom", "stress_mae_mev_per_a3"):
        assert found["data"]["all"][key] == pytest.approx(own[key], rel=1e-3)


def test_the_same_command_ends_at_once_and_other_labels_are_refused(done, refused, copper_file, tmp_path):
    out = tmp_path / "dft"
    command = f"{TRAIN} {copper_file} --epochs 5 --out {out}"
    printed = done(command)
    assert "36 structures to train on, 4 to validate" in printed
    card = limbeck.Student.load(out / "ultra-tiny.safetensors").card
    assert card["run"] == {"name": "dft", "command": f"limbeck {command}"}
    first = (out / "ultra-tiny.safetensors").read_bytes()
    done(command)
    assert (out / "ultra-tiny.safetensors").read_bytes() == first
    log = (out / "train/ultra-tiny/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in log] == sorted(json.loads(line)["epoch"] for line in log)
    write(copper_file, labelled_copper(30, seed=2))
    text = refused(command)
    assert text.startswith(f"{out}/train/ultra-tiny/last.safetensors: the checkpoint belongs to another run;")


def test_a_budget_ends_training_in_time_for_what_follows(run, copper_file, tmp_path, monkeypatch):
    stops = []

    def train(preset, sets, config, stop, *arguments, **options):
        stops.append(stop.until - time.monotonic())
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "train_student", train)
    run(f"{TRAIN},tiny {copper_file} --budget 702s --out {tmp_path}/dft")
    # a second for what follows each, and 1.5 of 3.5 parts of what is left after the start
    assert 200 < stops[0] <= 300


def test_validation_file_keys_and_units_of_the_virial(done, tmp_path):
    def renamed(frames):
        for atoms in frames:
            results, atoms.calc = atoms.calc.results, None
            atoms.info["REF_energy"] = results["energy"]
            atoms.arrays["REF_forces"] = results["forces"]
            stress = voigt_6_to_full_3x3_stress(results["stress"])
            atoms.info["REF_virial"] = -atoms.get_volume() * stress
        return frames

    write(tmp_path / "train.extxyz", renamed(labelled_copper(20)))
    write(tmp_path / "val.extxyz", renamed(labelled_copper(6, seed=1)))
    keys = "--energy-key REF_energy --forces-key REF_forces --virial-key REF_virial"
    options = f"--epochs 40 --val {tmp_path}/val.extxyz {keys} --out {tmp_path}/dft"
    assert "20 structures to train on, 6 to validate" in done(f"{TRAIN} {tmp_path}/train.extxyz {options}")
    # the labels' own spread is about 40 meV/Å³; a virial of the wrong sign could not come near it
    assert _errors(tmp_path / "dft")["stress_mae_mev_per_a3"] < 10


def test_init_starts_where_the_student_is(done, refused, trained, tmp_path):
    data, student = trained / "copper.extxyz", trained / "dft/ultra-tiny.safetensors"
    done(f"{TRAIN} {data} --epochs 1 --init {student} --out {tmp_path}/warm")
    done(f"{TRAIN} {data} --epochs 1 --out {tmp_path}/cold")
    warm, cold = (_errors(tmp_path / name)["force_rmse_mev_per_a"] for name in ("warm", "cold"))
    assert warm < 0.5 * cold
    text = refused(f"train {data} --preset tiny --epochs 1 --init {student} --out {tmp_path}/three")
    assert text.startswith(f"{student}: the student to start from is of another preset; got hidden_dim,")
    text = refused(f"train {data} --epochs 1 --init {tmp_path}/no.safetensors --out {tmp_path}/four")
    assert text.startswith(f"{tmp_path}/no.safetensors: no such student file")


def test_init_takes_over_labels_with_another_zero_of_energy(done, trained, tmp_path):
    frames = read(trained / "copper.extxyz", ":")
    for frame in frames:
        frame.calc.results["energy"] += 1234.5 * len(frame)
        frame.calc.results.pop("free_energy", None)
    write(tmp_path / "moved.extxyz", frames)
    init = f"--init {trained}/dft/ultra-tiny.safetensors"
    done(f"{TRAIN} {tmp_path}/moved.extxyz --epochs 2 {init} --out {tmp_path}/two")
    before, after = (
        _errors(folder)["energy_mae_mev_per_atom"] for folder in (trained / "dft", tmp_path / "two")
    )
    assert after < 3 * before + 5


def test_molecules_and_crystals_in_one_file(done, tmp_path):
    waters = [molecule("H2O") for _ in range(12)]
    for k, water in enumerate(waters):
        water.rattle(0.03, seed=k)
    write(tmp_path / "mixed.extxyz", [*labelled_copper(12), *map(labelled, waters)])
    done(f"{TRAIN} {tmp_path}/mixed.extxyz --epochs 5 --val 0.25 --out {tmp_path}/out")
    own = json.loads((tmp_path / "out/metrics.json").read_text())["ultra-tiny"]["validation"]
    assert {"Cu", "H", "O"} <= set(own["by_element"])
    assert all(np.isfinite(v["force_rmse_mev_per_a"]) for v in own["by_element"].values())
    assert read_student(tmp_path / "out/ultra-tiny.safetensors").architecture.elements == (1, 8, 29)


def test_what_a_validation_file_may_hold(done, refused, copper_file, tmp_path):
    path = tmp_path / "val.extxyz"
    command = f"{TRAIN} {copper_file} --epochs 2 --val {path} --out {tmp_path}/out"
    write(path, labelled(molecule("H2O")))
    text = refused(command)
    assert text.startswith(f"{path}: the validation set holds an element that the training labels do not;")
    assert "got H, O" in text
    assert not (tmp_path / "out").exists()
    # what is corrupt is named and left out
    frames = labelled_copper(6, seed=9)
    frames[2].calc.results["forces"][1, 0] = np.nan
    write(path, frames)
    printed = done(command)
    assert "label 2 left out" in printed
    assert "5 to validate" in printed


def test_released_students_are_listed_and_shown_by_name(done, refused, trained, tmp_path, monkeypatch):
    student = tmp_path / "copper-ultra-tiny.safetensors"
    student.write_bytes((trained / "dft/ultra-tiny.safetensors").read_bytes())
    monkeypatch.setattr(released, "_folders", lambda: [tmp_path])
    assert "copper-ultra-tiny" in done(f"students --json {tmp_path}/students.json")
    row = json.loads((tmp_path / "students.json").read_text())[0]
    assert list(row) == "name elements teacher parameters test_force_rmse_mev_per_a licence".split()
    assert (row["name"], row["elements"]) == ("copper-ultra-tiny", "Cu")
    assert row["parameters"] == read_student(student).architecture.n_parameters
    assert re.search(r"^preset: ultra-tiny$", done("info copper-ultra-tiny"), re.MULTILINE)
    atoms = labelled_copper(1)[0]
    atoms.calc = limbeck.Calculator("copper-ultra-tiny")
    assert np.isfinite(atoms.get_potential_energy())
    assert "did you mean 'copper-ultra-tiny'?" in refused("info coper-ultra-tiny")


# ---- `limbeck validate --worst`: the frames to look at, and to label more of ------------------------------


@pytest.fixture
def files(tmp_path):
    student = write_untrained(tmp_path / "student.safetensors", "ultra-tiny")
    frames = labelled_copper(6)
    for k, atoms in enumerate(frames):
        atoms.info |= {"group": f"md-{k}", "config_type": "md", "temperature_K": 300.0}
    write(tmp_path / "data.extxyz", frames)
    return student, tmp_path / "data.extxyz"


def test_the_worst_frames_come_with_both_answers(done, files, tmp_path):
    student, data = files
    worst, told = tmp_path / "worst.extxyz", tmp_path / "told.json"
    printed = done(f"validate {student} {data} --worst {worst} --n-worst 3 --json {told}")
    assert f"wrote the 3 worst frames to {worst}" in printed
    frames, all_frames = read(worst, ":"), read(data, ":")
    own = Student.load(student).evaluate(all_frames)
    miss = own.forces - np.concatenate([atoms.get_forces() for atoms in all_frames])
    rmse = 1000 * np.sqrt((miss.reshape(6, -1) ** 2).mean(1))
    order = np.argsort(-rmse)[:3]
    assert [atoms.info["frame"] for atoms in frames] == order.tolist()
    assert [atoms.info["force_rmse_mev_per_a"] for atoms in frames] == pytest.approx(rmse[order], rel=1e-4)
    listed = json.loads(told.read_text())["student"]["run"]["worst_frames"]
    assert [one["index"] for one in listed] == order.tolist()
    # the file reads as labels: the reference's as they stand, the student's by their names
    reference = read_labelled(worst)
    assert reference.group.tolist() == [f"md-{k}" for k in order]
    assert reference.labels.forces[:4] == pytest.approx(all_frames[order[0]].get_forces(), abs=1e-7)
    keys = {f"{name}_key": f"student_{name}" for name in ("energy", "forces", "stress")}
    predicted = read_labelled(worst, **keys)
    assert predicted.labels.energy == pytest.approx(own.energy[order], rel=1e-7)
    assert predicted.labels.stress == pytest.approx(own.stress[order], abs=1e-7)


def test_a_file_that_cannot_be_meant_is_refused(refused, files):
    student, data = files
    assert "would replace the reference labels" in refused(f"validate {student} {data} --worst {data}")
    assert "wanted a name that ends in .extxyz" in refused(f"validate {student} {data} --worst worst.cif")


def test_frames_have_the_numbers_of_the_file_beside_isolated_atoms(done, files, tmp_path):
    student, data = files
    frames = read(data, ":")
    alone = Atoms("Cu")
    alone.calc = SinglePointCalculator(alone, energy=-3.5)
    mixed, worst, told = tmp_path / "mixed.extxyz", tmp_path / "worst.extxyz", tmp_path / "told.json"
    write(mixed, [alone, *frames[:3], alone, *frames[3:]])
    printed = done(f"validate {student} {mixed} --worst {worst} --n-worst 6 --json {told}")
    number_of = {frame.info["group"]: k for k, frame in enumerate(read(mixed, ":")) if len(frame) > 1}
    assert sorted(number_of.values()) == [1, 2, 3, 5, 6, 7]
    for frame in read(worst, ":"):
        assert frame.info["frame"] == number_of[frame.info["group"]]
        assert frame.positions == pytest.approx(read(mixed, frame.info["frame"]).positions)
    listed = json.loads(told.read_text())["student"]["run"]["worst_frames"]
    assert [one["index"] for one in listed] == [number_of[one["group"]] for one in listed]
    assert f"frame {listed[0]['index']} ({listed[0]['group']}): force RMSE" in printed
