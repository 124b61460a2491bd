"""Rotations keep every bond and angle; RDKit says which bonds rotate."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule

from limbeck.core.checks import contacts
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.sampling import SamplingConfig, Torsions, count_frames, run_sampling, smiles_conformers
from limbeck.sampling.perturb import rotatable_bonds

ROTATABLE = {
    "CCO": 2,  # C-C and C-O
    "CCCC": 3,
    "c1ccccc1": 0,
    "c1ccccc1C": 1,
    "C1CCCCC1": 0,
    "C=C": 0,
    "CC=CC": 2,  # not the double bond
    "CC(=O)NC": 2,  # not the amide bond
    "c1ccccc1-c1ccccc1": 1,
    "CC#N": 0,  # nothing stands beside the axis at its end
}


@pytest.mark.parametrize("smiles", ROTATABLE)
def test_bonds_that_rotate(smiles):
    pytest.importorskip("rdkit")
    atoms = smiles_conformers(smiles)[0]
    assert len(rotatable_bonds(atoms)) == ROTATABLE[smiles]


def butane():
    atoms = molecule("trans-butane")
    atoms.info["group"] = "butane#0"
    return atoms


def test_bonds_and_angles_stay_and_dihedrals_change():
    plan = SamplingConfig(seed=1, steps=[Torsions(n=30, stdev_a=0.0)])
    start = butane()
    frames = run_sampling([start], plan, {})
    assert len(frames) == count_frames(plan, 1) == 30
    carbons = [a.index for a in start if a.symbol == "C"]
    near = StructureBatch.from_atoms([start])
    i, j, _, _ = contacts(near, 1.2)
    bonds = sorted({tuple(sorted((int(a), int(b)))) for a, b in zip(i, j, strict=True)})
    angles = [
        (a, b, c)
        for b in range(len(start))
        for a, c in [
            (x, y)
            for x in range(len(start))
            for y in range(x)
            if tuple(sorted((x, b))) in bonds and tuple(sorted((y, b))) in bonds
        ]
    ]
    assert len(bonds) == 13
    assert len(angles) == 24
    chain = _chain(start, carbons)
    turned = []
    for frame in frames:
        for a, b in bonds:
            assert frame.get_distance(a, b) == pytest.approx(start.get_distance(a, b), abs=1e-6)
        for a, b, c in angles:
            assert frame.get_angle(a, b, c) == pytest.approx(start.get_angle(a, b, c), abs=1e-3)
        turned.append(frame.get_dihedral(*chain))
    assert np.std(turned) > 40
    assert not any(len(contacts(StructureBatch.from_atoms([f]), 0.6)[0]) for f in frames)


def _chain(atoms, carbons):
    """The four carbons in order along the chain."""
    distance = atoms.get_all_distances()
    ends = max(((a, b) for a in carbons for b in carbons), key=lambda p: distance[p])
    return sorted(carbons, key=lambda c: distance[ends[0], c])


def test_seeds_families_and_notes():
    plan = SamplingConfig(seed=1, steps=[{"kind": "torsions", "n": 20}])

    def make(**changes):
        return run_sampling([butane()], plan.model_copy(update=changes), {})

    first = make()
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(first, make(), strict=True))
    assert not np.allclose(first[0].positions, make(seed=2)[0].positions)
    assert len({f.info["group"] for f in first}) == 10
    assert first[0].info["group"] == "butane#0/torsions-180deg-b0"
    notes: list[str] = []
    stiff = molecule("C6H6")
    stiff.info["group"] = "benzene#0"
    assert len(run_sampling([stiff, butane()], plan, {}, notes=notes)) == 20
    assert notes == ["torsions: benzene#0 has no rotatable bond"]
    with pytest.raises(
        InputError, match="step torsions, start start#0: torsions are sampled for molecules only"
    ):
        run_sampling([bulk("Cu")], plan, {})
