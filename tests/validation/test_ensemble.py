"""Springs of different stiffness disagree by what Hooke's law says."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.validation.ensemble import Ensemble, force_spread
from tests.validation.toys import Springs

ANCHORS = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])


def moved(*displacements: tuple[float, float]) -> StructureBatch:
    """Two atoms, moved along y by so much each."""
    frames = []
    for first, second in displacements:
        positions = ANCHORS + np.array([[0.0, first, 0.0], [0.0, second, 0.0]])
        frames.append(Atoms("Ar2", positions=positions))
    return StructureBatch.from_atoms(frames)


def test_the_spread_is_that_of_the_worst_atom():
    soft, stiff = Springs(ANCHORS, k=2.0), Springs(ANCHORS, k=6.0)
    spread, force = force_spread([soft, stiff], moved((0.1, 0.0), (0.1, -0.3)))
    # forces are 2x and 6x: each is 2x from their mean, 4x
    assert spread == pytest.approx([0.2, 0.6])
    assert force == pytest.approx([0.4 / np.sqrt(2), 4 * np.sqrt((0.01 + 0.09) / 2)])


def test_three_members():
    members = [Springs(ANCHORS, k=k) for k in (1.0, 2.0, 6.0)]
    spread, _ = force_spread(members, moved((0.5, 0.0)))
    assert spread[0] == pytest.approx(0.5 * np.std([1.0, 2.0, 6.0]))


def test_a_frame_far_from_both_limits_is_outside_the_training_domain():
    members = [Springs(ANCHORS, k=2.0), Springs(ANCHORS, k=6.0)]
    # the two differ by half of the mean force on a moved atom, or more than a third of the frame's
    evaluate = Ensemble(members, moved((0.1, 0.1)), factor=3.0, share=0.4)
    assert evaluate.limit_ev_per_a == pytest.approx(0.6)
    assert evaluate.objection(moved((0.29, 0.0)).to_atoms()[0]) is None
    said = evaluate.objection(moved((0.5, 0.0)).to_atoms()[0])
    assert said == (
        "outside the training domain: committee force deviation 1.00 eV/Å on an atom, where 0.60 is usual at most "
        "and forces are 1.41"
    )
    tolerant = Ensemble(members, moved((0.1, 0.1)), factor=3.0, share=0.8)
    assert tolerant.objection(moved((0.5, 0.0)).to_atoms()[0]) is None


def test_one_member_is_no_ensemble():
    with pytest.raises(InputError, match="an ensemble needs members and structures they know.*got 1 members"):
        Ensemble([Springs(ANCHORS)], moved((0.1, 0.1)))
