"""Students keep the contract of every Potential, with random and with trained weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from limbeck.runtime.student import Student
from limbeck.students.specification import PRESETS
from limbeck.testing import CheckFailure, check_potential

from .tools import random_record


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("preset", PRESETS)
def test_random_students_pass(preset, precision):
    student = Student(random_record(preset), precision=precision, threads=1)
    assert student.capabilities.reflection
    report = check_potential(student)
    assert report.passed
    assert {result.name for result in report.results} >= {"symmetry", "forces", "stress", "one atom"} or len(
        report.results
    ) > 30


def test_torch_engine_passes():
    assert check_potential(Student(random_record(), engine="torch", precision="float64")).passed


class Wrong(Student):
    """A student whose forces are one percent too large."""

    def evaluate(self, batch):
        labels = super().evaluate(batch)
        return replace(labels, forces=1.01 * labels.forces)


def test_forces_off_by_one_percent_fail():
    with pytest.raises(CheckFailure):
        check_potential(Wrong(random_record(), threads=1))


def test_precision_follows_the_file():
    assert Student(random_record(dtype=np.float32), threads=1).capabilities.precision == "float32"
    assert Student(random_record(dtype=np.float64), threads=1).capabilities.precision == "float64"
