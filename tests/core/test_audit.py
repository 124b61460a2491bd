"""The audit drops labels that are not finite or too large, with the reason."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from limbeck.core.audit import Dropped, audit
from limbeck.core.labels import LabelledSet, Labels
from limbeck.core.structures import StructureBatch


def _sound(n: int) -> LabelledSet:
    """``n`` molecules of three atoms with labels of zero."""
    batch = StructureBatch.from_atoms([Atoms("HCO", np.eye(3))] * n)
    labels = Labels(np.zeros(n), np.zeros((3 * n, 3)), np.zeros((n, 3, 3)), np.zeros(3 * n))
    return LabelledSet(batch, labels, np.full(n, ""), np.full(n, "md"), np.full(n, np.nan))


def test_each_fault_is_dropped_with_its_reason() -> None:
    labelled = _sound(7)
    labels = labelled.labels
    labels.energy[1] = np.nan
    labels.forces[2 * 3 + 2, 1] = np.inf
    labels.stress[3, 0, 1] = np.nan
    labels.forces[4 * 3 + 1] = [30.0, 40.0, 10.0]
    labels.stress[5], labels.atom_energies[15:18] = np.nan, np.nan  # absent
    labels.atom_energies[6 * 3 + 1] = np.nan
    kept, dropped = audit(labelled)
    np.testing.assert_array_equal(kept, [0, 5])
    assert dropped == [
        Dropped(1, "energy is nan eV"),
        Dropped(2, "force on atom 2 (O) is not finite"),
        Dropped(3, "stress is not finite"),
        Dropped(4, "force of 51.0 eV/Å on atom 1 (C), limit 50 eV/Å"),
        Dropped(6, "atomic energies are not finite"),
    ]
    np.testing.assert_array_equal(audit(labelled, max_force_ev_per_a=51.0)[0], [0, 4, 5])


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_the_limit_is_on_the_length_of_a_force(limit: float) -> None:
    labelled = _sound(2)
    labelled.labels.forces[[0, 3]] = np.outer([0.999, 1.001], np.array([3.0, 4.0, 12.0]) / 13.0 * limit)
    np.testing.assert_array_equal(audit(labelled, max_force_ev_per_a=limit)[0], [0])
