"""`limbeck validate --worst`: the frames to look at, and to label more of."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from limbeck.dataset.read import read_labelled
from limbeck.runtime.student import Student

from .conftest import labelled_copper
from .test_finalize import write_untrained


@pytest.fixture
def files(tmp_path):
    student = write_untrained(tmp_path / "student.safetensors", "ultra-tiny")
    data = tmp_path / "data.extxyz"
    frames = labelled_copper(6)
    for k, atoms in enumerate(frames):
        atoms.info |= {"group": f"md-{k}", "config_type": "md", "temperature_K": 300.0}
    write(data, frames)
    return student, data


def test_the_worst_frames_come_with_both_answers(run, files, tmp_path):
    student, data = files
    worst, told = tmp_path / "worst.extxyz", tmp_path / "told.json"
    code, printed, err = run("validate", student, data, "--worst", worst, "--n-worst", 3, "--json", told)
    assert code == 0, err
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
    predicted = read_labelled(
        worst, energy_key="student_energy", forces_key="student_forces", stress_key="student_stress"
    )
    assert predicted.labels.energy == pytest.approx(own.energy[order], rel=1e-7)
    assert predicted.labels.stress == pytest.approx(own.stress[order], abs=1e-7)


def test_a_file_that_cannot_be_meant_is_refused(refused, files):
    student, data = files
    assert "would replace the reference labels" in refused("validate", student, data, "--worst", data)
    assert "wanted a name that ends in .extxyz" in refused("validate", student, data, "--worst", "worst.cif")


def test_frames_have_the_numbers_of_the_file_beside_isolated_atoms(run, files, tmp_path):
    student, data = files
    frames = read(data, ":")
    alone = Atoms("Cu")
    alone.calc = SinglePointCalculator(alone, energy=-3.5)
    mixed, worst, told = tmp_path / "mixed.extxyz", tmp_path / "worst.extxyz", tmp_path / "told.json"
    write(mixed, [alone, *frames[:3], alone, *frames[3:]])
    code, printed, err = run("validate", student, mixed, "--worst", worst, "--n-worst", 6, "--json", told)
    assert code == 0, err
    number_of = {frame.info["group"]: k for k, frame in enumerate(read(mixed, ":")) if len(frame) > 1}
    assert sorted(number_of.values()) == [1, 2, 3, 5, 6, 7]
    for frame in read(worst, ":"):
        assert frame.info["frame"] == number_of[frame.info["group"]]
        assert frame.positions == pytest.approx(read(mixed, frame.info["frame"]).positions)
    listed = json.loads(told.read_text())["student"]["run"]["worst_frames"]
    assert [one["index"] for one in listed] == [number_of[one["group"]] for one in listed]
    assert f"frame {listed[0]['index']} ({listed[0]['group']}): force RMSE" in printed
