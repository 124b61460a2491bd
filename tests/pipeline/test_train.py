"""`limbeck train` on labels of one's own, and the commands that look at students."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write

import limbeck
from limbeck.artifact.file import read_student
from limbeck.runtime import released

from .conftest import labelled_copper


def _train(run, data, out, *options):
    code, printed, err = run("train", data, "--preset", "ultra-tiny", "--out", out, *options)
    assert code == 0, err
    return printed


def test_train_learns_and_validate_agrees(run, copper_file, tmp_path):
    out = tmp_path / "dft"
    printed = _train(run, copper_file, out, "--epochs", 60, "--val", "0.2")
    assert "32 structures to train on, 8 to validate" in printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"ultra-tiny", "run"}
    assert set(metrics["ultra-tiny"]) == {"validation", "run"}
    assert metrics["ultra-tiny"]["run"]["training"]["epochs"] == 60
    command = f"limbeck train {copper_file} --preset ultra-tiny --out {out} --epochs 60 --val 0.2"
    assert limbeck.Student.load(out / "ultra-tiny.safetensors").card["run"] == {
        "name": "dft", "command": command
    }  # fmt: skip
    own = metrics["ultra-tiny"]["validation"]["all"]
    assert own["n_structures"] == 8
    # a constant prediction has R² = 0; sixty epochs on forty cells of four atoms reach 0.99
    assert own["force_r2"] > 0.98
    order = np.random.default_rng(0).permutation(40)
    held_back = read(copper_file, ":")
    write(tmp_path / "val.extxyz", [held_back[k] for k in order[32:]])
    code, _, err = run(
        "validate", out / "ultra-tiny.safetensors", tmp_path / "val.extxyz", "--json", tmp_path / "v.json"
    )
    assert code == 0, err
    found = json.loads((tmp_path / "v.json").read_text())["ultra-tiny"]
    worst = found["run"]["worst_frames"]
    assert len(worst) == 8
    rmse = [frame["force_rmse_mev_per_a"] for frame in worst]
    assert rmse == sorted(rmse, reverse=True)
    # frames of equal size: the mean of their squares is the square of the whole
    assert np.sqrt(np.mean(np.square(rmse))) == pytest.approx(found["data"]["all"]["force_rmse_mev_per_a"])
    assert worst[0]["worst_element"] == "Cu"
    again = found["data"]["all"]
    for key in ("force_rmse_mev_per_a", "force_r2", "energy_mae_mev_per_atom", "stress_mae_mev_per_a3"):
        assert again[key] == pytest.approx(own[key], rel=1e-3)


def test_the_same_command_goes_on_and_ends_at_once(run, copper_file, tmp_path):
    out = tmp_path / "dft"
    _train(run, copper_file, out, "--epochs", 5)
    first = (out / "ultra-tiny.safetensors").read_bytes()
    _train(run, copper_file, out, "--epochs", 5)
    assert (out / "ultra-tiny.safetensors").read_bytes() == first
    log = (out / "train/ultra-tiny/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in log] == sorted(json.loads(line)["epoch"] for line in log)


def test_budget_bounds_the_command(run, copper_file, tmp_path):
    began = time.monotonic()
    _train(run, copper_file, tmp_path / "dft", "--budget", "8s")
    took = time.monotonic() - began
    assert 6 < took < 11


def test_validation_file_keys_and_units_of_the_virial(run, tmp_path):
    def renamed(frames):
        for atoms in frames:
            results = atoms.calc.results
            atoms.calc = None
            atoms.info["REF_energy"] = results["energy"]
            atoms.arrays["REF_forces"] = results["forces"]
            from ase.stress import voigt_6_to_full_3x3_stress

            atoms.info["REF_virial"] = -atoms.get_volume() * voigt_6_to_full_3x3_stress(results["stress"])
        return frames

    write(tmp_path / "train.extxyz", renamed(labelled_copper(20)))
    write(tmp_path / "val.extxyz", renamed(labelled_copper(6, seed=1)))
    keys = ("--energy-key", "REF_energy", "--forces-key", "REF_forces", "--virial-key", "REF_virial")
    printed = _train(
        run,
        tmp_path / "train.extxyz",
        tmp_path / "dft",
        "--epochs",
        40,
        "--val",
        tmp_path / "val.extxyz",
        *keys,
    )
    assert "20 structures to train on, 6 to validate" in printed
    own = json.loads((tmp_path / "dft/metrics.json").read_text())["ultra-tiny"]["validation"]["all"]
    # the labels' own spread is about 40 meV/Å³; a virial of the wrong sign could not come near it
    assert own["stress_mae_mev_per_a3"] < 10


def test_init_starts_where_the_student_is(run, refused, copper_file, tmp_path):
    _train(run, copper_file, tmp_path / "one", "--epochs", 40)
    student = tmp_path / "one/ultra-tiny.safetensors"
    _train(run, copper_file, tmp_path / "two", "--epochs", 1, "--init", student)
    _train(run, copper_file, tmp_path / "cold", "--epochs", 1)
    rmse = {
        name: json.loads((tmp_path / name / "metrics.json").read_text())["ultra-tiny"]["validation"]["all"][
            "force_rmse_mev_per_a"
        ]
        for name in ("one", "two", "cold")
    }
    assert rmse["two"] < 0.5 * rmse["cold"]
    text = refused(
        "train",
        copper_file,
        "--preset",
        "tiny",
        "--epochs",
        1,
        "--init",
        student,
        "--out",
        tmp_path / "three",
    )
    assert text.startswith(f"{student}: the student to start from is of another preset; got hidden_dim,")
    text = refused(
        "train", copper_file, "--epochs", 1, "--init", tmp_path / "no.safetensors", "--out", tmp_path / "four"
    )
    assert text.startswith(f"{tmp_path}/no.safetensors: no such student file")


def test_molecules_and_crystals_in_one_file(run, tmp_path):
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator

    frames = labelled_copper(12)
    for k in range(12):
        water = molecule("H2O")
        water.rattle(0.03, seed=k)
        water.calc = EMT()
        water.calc = SinglePointCalculator(
            water, energy=water.get_potential_energy(), forces=water.get_forces()
        )
        frames.append(water)
    write(tmp_path / "mixed.extxyz", frames)
    _train(run, tmp_path / "mixed.extxyz", tmp_path / "out", "--epochs", 20, "--val", "0.25")
    own = json.loads((tmp_path / "out/metrics.json").read_text())["ultra-tiny"]["validation"]
    assert {"Cu", "H", "O"} <= set(own["by_element"])
    assert all(np.isfinite(v["force_rmse_mev_per_a"]) for v in own["by_element"].values())
    assert read_student(tmp_path / "out/ultra-tiny.safetensors").architecture.elements == (1, 8, 29)


def test_a_validation_file_that_does_not_go_with_the_labels(refused, copper_file, tmp_path):
    water = molecule("H2O")
    from ase.calculators.singlepoint import SinglePointCalculator

    water.calc = SinglePointCalculator(water, energy=0.0, forces=np.zeros((3, 3)))
    write(tmp_path / "water.extxyz", water)
    text = refused(
        "train", copper_file, "--epochs", 1, "--val", tmp_path / "water.extxyz", "--out", tmp_path / "out"
    )
    assert text == (
        f"{tmp_path}/water.extxyz: the validation set holds an element that the training labels do not; "
        "got H, O; wanted the elements of the training labels"
    )
    assert not (tmp_path / "out").exists()


def test_other_labels_under_the_same_name_are_refused(run, refused, copper_file, tmp_path):
    _train(run, copper_file, tmp_path / "out", "--epochs", 2)
    write(copper_file, labelled_copper(30, seed=2))
    text = refused("train", copper_file, "--preset", "ultra-tiny", "--epochs", 2, "--out", tmp_path / "out")
    assert text == (
        f"{tmp_path}/out/train/ultra-tiny/last.safetensors: the checkpoint belongs to another run; got other "
        "data, settings or preset; remedy: use another --out, or delete it to train from the start"
    )


def test_released_students_are_listed_and_shown_by_name(run, copper_file, tmp_path, monkeypatch):
    _train(run, copper_file, tmp_path / "out", "--epochs", 2)
    folder = tmp_path / "released"
    folder.mkdir()
    (tmp_path / "out/ultra-tiny.safetensors").rename(folder / "copper-ultra-tiny.safetensors")
    monkeypatch.setattr(released, "_folders", lambda: [folder])
    code, printed, _ = run("students", "--json", tmp_path / "students.json")
    assert code == 0
    rows = json.loads((tmp_path / "students.json").read_text())
    assert list(rows[0]) == [
        "name",
        "elements",
        "teacher",
        "parameters",
        "test_force_rmse_mev_per_a",
        "licence",
    ]
    assert (rows[0]["name"], rows[0]["elements"]) == ("copper-ultra-tiny", "Cu")
    assert (
        rows[0]["parameters"]
        == read_student(folder / "copper-ultra-tiny.safetensors").architecture.n_parameters
    )
    assert "copper-ultra-tiny" in printed
    code, printed, _ = run("info", "copper-ultra-tiny")
    assert code == 0
    assert re.search(r"^preset: ultra-tiny$", printed, re.MULTILINE)
    atoms = labelled_copper(1)[0]
    atoms.calc = limbeck.Calculator("copper-ultra-tiny")
    assert np.isfinite(atoms.get_potential_energy())
    code, _, err = run("info", "coper-ultra-tiny")
    assert (code, err) == (
        2,
        "error: no such student; got 'coper-ultra-tiny'; wanted a .safetensors file or one of copper-ultra-tiny; "
        "remedy: did you mean 'copper-ultra-tiny'?\n",
    )


def test_init_takes_over_labels_with_another_zero_of_energy(run, copper_file, tmp_path):
    _train(run, copper_file, tmp_path / "one", "--epochs", 40)
    student = tmp_path / "one" / "ultra-tiny.safetensors"
    before = json.loads((tmp_path / "one" / "metrics.json").read_text())["ultra-tiny"]["validation"]["all"]
    frames = read(copper_file, ":")
    for frame in frames:
        frame.calc.results["energy"] += 1234.5 * len(frame)
        frame.calc.results.pop("free_energy", None)
    write(tmp_path / "moved.extxyz", frames)
    _train(run, tmp_path / "moved.extxyz", tmp_path / "two", "--epochs", 2, "--init", student)
    after = json.loads((tmp_path / "two" / "metrics.json").read_text())["ultra-tiny"]["validation"]["all"]
    assert after["energy_mae_mev_per_atom"] < 3 * before["energy_mae_mev_per_atom"] + 5


def test_spoiled_labels_to_validate_on_are_named_and_left_out(run, copper_file, tmp_path):
    frames = labelled_copper(6, seed=9)
    frames[2].calc.results["forces"][1, 0] = np.nan
    write(tmp_path / "val.extxyz", frames)
    printed = _train(run, copper_file, tmp_path / "out", "--epochs", 2, "--val", tmp_path / "val.extxyz")
    assert "label 2 left out" in printed
    assert "5 to validate" in printed
