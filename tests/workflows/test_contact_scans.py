"""Close-contact scans on their way to training: repaired, and cut where a student's own ZBL acts in full."""

from __future__ import annotations

import numpy as np
import pytest
from ase.data import covalent_radii

from limbeck.workflows.training_data import make_training_sets, radii_of, repaired, without_cores
from tests.labelling.test_repair import scanned


def test_training_leaves_out_what_is_closer_than_half_a_zbl_radius():
    """Distances by ASE's minimum images; radii from ase.data: no bond is seen shorter than 0.95 of them."""
    whole = scanned(pit=False)
    kept = without_cores(whole)
    radii = radii_of(whole)
    assert radii[3, 17] == pytest.approx(0.95 * min(covalent_radii[3] + covalent_radii[17], 2.0), rel=0.2)
    wanted = []
    for atoms, step in zip(whole.to_atoms(), whole.config_type, strict=True):
        distance = atoms.get_all_distances(mic=True) + 9 * np.eye(len(atoms))
        i, j = np.unravel_index(distance.argmin(), distance.shape)
        pair = tuple(sorted(int(atoms.numbers[k]) for k in (i, j)))
        wanted.append(step != "contacts" or distance[i, j] >= radii[pair] / 2)
    assert 0 < sum(wanted) < len(whole)
    assert len(kept) == sum(wanted)
    assert set(kept.config_type) == {"contacts", "rattle"}
    sets = make_training_sets(whole, 0.2, 0, {}, {})
    assert len(sets.train) + len(sets.validation) == len(kept)


def test_repair_takes_its_distances_from_the_rest():
    whole = scanned(pit=True)
    _, lines = repaired(whole)
    assert [text.split(" ")[0] for text in lines][:2] == ["Li-Li", "Cl-Li"]
    rest = whole.select(np.flatnonzero(whole.config_type == "rattle"))
    assert repaired(rest) == (rest, [])
