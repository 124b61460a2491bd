"""Statistics against ASE's neighbour list and planted reference energies."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from limbeck.core.labels import LabelledSet, Labels
from limbeck.core.structures import StructureBatch
from limbeck.dataset import fit_references, shortest_pairs, statistics


def labelled(frames: list[Atoms], energy) -> LabelledSet:
    batch = StructureBatch.from_atoms(frames)
    rng = np.random.default_rng(0)
    n = len(frames)
    return LabelledSet(
        batch,
        Labels(np.asarray(energy, float), rng.normal(size=(batch.n_atoms, 3))),
        np.array([f"f{k // 2}" for k in range(n)]),
        np.array(["md"] * n),
        np.linspace(300, 600, n),
    )


def test_shortest_pairs_agree_with_ase():
    rng = np.random.default_rng(7)
    frames = []
    for k in range(30):
        n = int(rng.integers(2, 9))
        cell = np.diag(rng.uniform(4, 8, 3)) + rng.uniform(-1.5, 1.5, (3, 3))
        cell = cell[[1, 0, 2]] if k % 2 else cell
        pbc = [True, [True, False, True], False][k % 3]
        frames.append(
            Atoms(rng.choice([1, 8, 14], n), positions=rng.uniform(-9, 9, (n, 3)), cell=cell, pbc=pbc)
        )
    expected: dict[str, float] = {}
    for frame in frames:
        i, j, d = neighbor_list("ijd", frame, 6.0)
        for a, b, r in zip(i, j, d, strict=True):
            name = "-".join(sorted((frame.symbols[a], frame.symbols[b])))
            expected[name] = min(expected.get(name, np.inf), r)
    found = shortest_pairs(StructureBatch.from_atoms(frames))
    assert set(found) == set(expected) == {"H-H", "H-O", "H-Si", "O-O", "O-Si", "Si-Si"}
    assert found == pytest.approx(expected, abs=1e-9)


def test_far_pairs_are_left_out():
    assert shortest_pairs(StructureBatch.from_atoms([Atoms("HO", [(0, 0, 0), (0, 0, 9)])])) == {}


def test_statistics_of_a_mixed_set():
    silicon = bulk("Si", cubic=True)
    wide = silicon.copy()
    wide.set_cell(wide.cell * 1.1, scale_atoms=True)
    data = labelled([silicon, wide, molecule("H2O")], [-40.0, -36.0, -14.0])
    found = statistics(data)
    assert (found.n_structures, found.n_atoms, found.n_groups) == (3, 19, 2)
    assert found.elements == {"H": 2, "O": 1, "Si": 16}
    assert found.atoms_per_structure == (3, 8)
    assert found.density_g_per_cm3 == pytest.approx((2.33 / 1.331, 2.33), rel=2e-3)  # silicon: 2.33 g/cm³
    assert found.temperature_k == (300.0, 600.0)
    assert found.energy_ev_per_atom == pytest.approx((-5.0, -4.5))
    assert found.force_rms_ev_per_a == pytest.approx(np.sqrt((data.labels.forces**2).mean()))
    assert found.force_max_ev_per_a == pytest.approx(np.linalg.norm(data.labels.forces, axis=1).max())
    assert found.n_stress == 0
    assert set(found.shortest_pair_a) == {"H-H", "H-O", "Si-Si"}
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_content_hash_follows_content_not_order():
    data = labelled([bulk("Si"), molecule("H2O")], [1.0, 2.0])
    base = statistics(data).content_hash
    assert statistics(data.select([1, 0])).content_hash == base
    forces = data.labels.forces.copy()
    forces[0, 0] += 1e-12
    assert statistics(replace(data, labels=Labels(data.labels.energy, forces))).content_hash != base


def test_planted_references_come_back():
    rng = np.random.default_rng(2)
    planted = {1: -13.6, 8: -432.1, 14: -7881.25}
    frames = [
        Atoms(rng.choice([1, 8, 14], n), positions=rng.uniform(0, 99, (n, 3)))
        for n in rng.integers(3, 40, 50)
    ]
    energy = [sum(planted[z] for z in a.numbers) for a in frames]
    found, note = fit_references(labelled(frames, energy))
    assert found == pytest.approx(planted, rel=1e-10)
    assert "over 50 structures" in note
    assert "minimum norm" not in note
    noisy = np.array(energy) + rng.normal(0, 0.1, 50) * [len(a) for a in frames]
    residual = float(fit_references(labelled(frames, noisy))[1].split("rms ")[1].split()[0])
    assert residual == pytest.approx(0.1, rel=0.3)


def test_one_composition_takes_the_minimum_norm():
    found, note = fit_references(labelled([molecule("H2O")] * 4, [-14.0, np.nan, -14.0, -14.0]))
    # minimum norm of 2 h + o = -14: proportional to the counts, -14 / (2² + 1²)
    assert found == pytest.approx({1: -14 * 2 / 5, 8: -14 / 5})
    assert "over 3 structures" in note
    assert "1 of 2 reference energies" in note
