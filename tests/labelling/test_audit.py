"""The audit drops what is not finite or too violent, and says why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from limbeck.labelling.audit import Dropped, audit
from limbeck.labelling.record import LabelRecord, collect


def test_each_fault_is_dropped_with_its_reason(label_record: Callable[..., LabelRecord]) -> None:
    records = [label_record(6) for _ in range(7)]  # three atoms, stress and atomic energies
    forces = np.zeros((3, 3))
    records[1] = dataclasses.replace(records[1], energy=np.nan)
    broken = forces.copy()
    broken[2, 1] = np.inf
    records[2] = dataclasses.replace(records[2], forces=broken, numbers=np.array([1, 6, 8]))
    stress = np.zeros((3, 3))
    stress[0, 1] = np.nan
    records[3] = dataclasses.replace(records[3], stress=stress)
    violent = forces.copy()
    violent[1] = [30.0, 40.0, 10.0]
    records[4] = dataclasses.replace(records[4], forces=violent, numbers=np.array([1, 6, 8]))
    records[5] = dataclasses.replace(records[5], stress=None, atom_energies=None)
    records[6] = dataclasses.replace(records[6], atom_energies=np.array([0.0, np.nan, 1.0]))
    kept, dropped = audit(collect(records))
    np.testing.assert_array_equal(kept, [0, 5])
    assert dropped == [
        Dropped(1, "energy is nan eV"),
        Dropped(2, "force on atom 2 (O) is not finite"),
        Dropped(3, "stress is not finite"),
        Dropped(4, "force of 51.0 eV/Å on atom 1 (C), limit 50 eV/Å"),
        Dropped(6, "atomic energies are not finite"),
    ]
    kept, _ = audit(collect(records), max_force_ev_per_a=51.0)
    np.testing.assert_array_equal(kept, [0, 4, 5])


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_the_limit_is_on_the_length_of_a_force(
    label_record: Callable[..., LabelRecord], limit: float
) -> None:
    direction = np.array([[3.0, 4.0, 12.0]]) / 13.0
    one = dataclasses.replace(label_record(4), numbers=np.array([14]), positions=np.zeros((1, 3)))
    for factor, expected in ((0.999, 1), (1.001, 0)):
        kept, _ = audit(
            collect([dataclasses.replace(one, forces=direction * limit * factor)]), max_force_ev_per_a=limit
        )
        assert len(kept) == expected
