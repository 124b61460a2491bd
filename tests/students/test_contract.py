"""Students keep the contract of every Potential, with random and with trained weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from limbeck.runtime.student import Student
from limbeck.students.specification import PRESETS
from limbeck.testing import CheckFailure, check_potential

from .tools import random_record

#: every kind of check that there is; a capability that a student no longer claims would take some away
CHECKED = {
    "atomic energies sum to the total", "batch = alone", "cell smaller than the cutoff = supercell",
    "energy continuous at the cutoff", "far fragments", "forces against finite differences",
    "forces continuous at the cutoff", "noise of the energy fits the declared precision",
    "one atom feels no force", "opposite-handed cell", "permutation", "reflection", "rotation", "skewed cell",
    "stress against finite differences", "stress is symmetric", "translation", "unwrapped positions",
    "wrapped positions",
}  # fmt: skip


def checked(student: Student) -> set[str]:
    """Kinds of checks that the student passes; a failed one raises."""
    report = check_potential(student)
    assert report.skipped == ()
    return {result.name.split(":")[0] for result in report.results}


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("preset", PRESETS)
def test_random_students_pass(preset, precision):
    assert checked(Student(random_record(preset), precision=precision, threads=1)) == CHECKED


def test_torch_engine_passes():
    assert checked(Student(random_record(), engine="torch", precision="float64")) == CHECKED


def test_what_a_student_does_not_claim_is_not_checked():
    student = Student(random_record(), threads=1)
    student.capabilities = replace(student.capabilities, stress=False)
    assert CHECKED - checked(student) == {"stress against finite differences", "stress is symmetric"}


class Wrong(Student):
    """A student whose forces are one percent too large."""

    def evaluate(self, batch):
        labels = super().evaluate(batch)
        return replace(labels, forces=1.01 * labels.forces)


def test_forces_off_by_one_percent_fail():
    with pytest.raises(CheckFailure):
        check_potential(Wrong(random_record(), threads=1))
