"""Validation of a saved file gives the errors that training reported."""

from __future__ import annotations

import pytest

from limbeck.artifact.file import read_student
from limbeck.runtime.student import Student
from limbeck.testing import check_potential
from limbeck.training.config import TrainingConfig
from limbeck.training.loop import Stop
from limbeck.validation.run import validate
from limbeck.workflows.students import TrainingSets, save_student, train_student

from .tools import emt_set, mixed_set


def trained_file(folder, preset, precision, sets, epochs=3):
    # so few steps have no warm-up: a small rate instead
    config = TrainingConfig(precision=precision, batch_atoms=32, threads=1, cutoff=4.0, learning_rate=1e-3)
    record, trained = train_student(preset, sets, config, Stop(epochs=epochs), folder / "train")
    save_student(folder / "student.safetensors", record)
    return folder / "student.safetensors", trained


@pytest.mark.parametrize(
    ("preset", "precision", "tolerance"),
    [("original", "float32", 1e-3), ("tiny", "float64", 1e-6), ("ultra-tiny", "float32", 1e-3)],
)
def test_validation_of_the_file_is_what_training_reported(tmp_path, preset, precision, tolerance):
    sets = TrainingSets(mixed_set(8), mixed_set(4, seed=5), None, "a test", {"name": "emt"})
    path, trained = trained_file(tmp_path, preset, precision, sets)
    student = Student.load(path, threads=1)
    assert student.capabilities.precision == precision
    found = validate(student, sets.validation).metrics["all"]
    assert len(trained.validation) >= 4
    for key, value in trained.validation.items():
        assert found[key] == pytest.approx(value, rel=tolerance), key
    assert read_student(path).card["metrics"]["validation"] == trained.validation


def test_a_trained_student_keeps_the_contract(tmp_path):
    sets = TrainingSets(emt_set(24), emt_set(6, seed=5), None, "a test", {"name": "emt"})
    path, _ = trained_file(tmp_path, "ultra-tiny", "float32", sets, epochs=15)
    for precision in ("float32", "float64"):
        assert check_potential(Student.load(path, precision=precision, threads=1)).passed
