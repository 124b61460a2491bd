"""Students keep the contract of every Potential, with random and with trained weights."""

from __future__ import annotations

import pytest

from limbeck.runtime.student import Student
from limbeck.students.specification import PRESETS
from limbeck.testing import check_potential

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


NATIVE = [(preset, precision, "native") for preset in PRESETS for precision in ("float32", "float64")]


@pytest.mark.parametrize(("preset", "precision", "engine"), [*NATIVE, ("ultra-tiny", "float64", "torch")])
def test_random_students_pass(preset, precision, engine):
    student = Student(random_record(preset), precision=precision, engine=engine, threads=1)
    report = check_potential(student)  # raises where a check fails
    assert report.skipped == ()
    assert {result.name.split(":")[0] for result in report.results} == CHECKED
