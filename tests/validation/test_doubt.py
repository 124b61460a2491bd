"""Forces in another unit are named; errors of a poor student are not."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units

from limbeck.validation.doubt import doubt_labels

RNG = np.random.default_rng(0)
FORCES = RNG.normal(size=(60, 3))


@pytest.mark.parametrize(
    ("factor", "name"),
    [
        (units.mol / units.kcal, "kcal/mol/Å"),  # 23.06
        (units.Bohr / units.Hartree, "Hartree/bohr"),  # 1 / 51.42
        (units.Bohr, "eV/bohr"),
        (1000.0, "meV/Å"),
    ],
)
def test_the_unit_is_named(factor, name):
    said = doubt_labels(factor * FORCES, FORCES + 0.1 * RNG.normal(size=FORCES.shape))
    assert f"in {name}" in said
    assert "wanted eV/Å" in said
    assert float(said.split(" and ")[1].split(" times")[0]) == pytest.approx(factor, rel=0.05)


def test_gradients_in_place_of_forces_are_named():
    assert "point against the student's (cosine -1.00)" in doubt_labels(-FORCES, FORCES)


def test_a_student_that_is_merely_poor_is_not_doubted():
    assert doubt_labels(FORCES, FORCES) == ""
    assert doubt_labels(FORCES, 0.8 * FORCES) == ""
    assert doubt_labels(23.06 * FORCES, RNG.normal(size=FORCES.shape)) == ""  # no likeness, no word
    assert doubt_labels(0 * FORCES, FORCES) == ""
