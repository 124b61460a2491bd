"""Group trees: the relaxation must pay, parents follow their weights, work is repeatable."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT

from limbeck.core.checks import contacts
from limbeck.core.labels import Labels
from limbeck.core.potential import AsePotential, Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.sampling import (
    RattleRelax,
    SamplingConfig,
    TimeLimit,
    count_evaluations,
    count_frames,
    run_sampling,
)
from limbeck.sampling.rattle_relax import _Member, parent_weights


class Counting(AsePotential):
    def __init__(self) -> None:
        super().__init__(EMT(), Capabilities(stress=False), "emt")
        self.calls = 0

    def evaluate(self, batch):
        self.calls += len(batch)
        return super().evaluate(batch)


def start() -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.info["group"] = "Cu#0"
    return atoms


def energies(frames: list[Atoms]) -> np.ndarray:
    return Counting().evaluate(StructureBatch.from_atoms(frames)).energy


def test_children_lie_below_rattled_copies():
    """The same amplitudes, one generation (beta 1 at a low temperature goes back to the start)."""
    step = RattleRelax(n=12, trees=1, stdev_a=(0.2, 0.2), temperature_K=1, beta=1, relax_steps=8)
    children = run_sampling([start()], SamplingConfig(steps=[step]), {"teacher": Counting()})
    rattled = run_sampling(
        [start()], SamplingConfig(steps=[{"kind": "rattle", "stdev_a": 0.2, "n": 12, "min_ratio": 0.5}]), {}
    )
    assert len(children) == 12
    assert np.median(energies(children)) < 0.5 * np.median(energies(rattled))
    assert energies(children).min() > energies([start()])[0]


def test_trees_are_families_within_their_evaluations(tmp_path):
    step = RattleRelax(n=5, trees=2, stdev_a=(0.05, 0.3), strain=0.05)
    plan, potential = SamplingConfig(seed=4, steps=[step]), Counting()
    frames = run_sampling([start()], plan, {"teacher": potential}, cache_dir=tmp_path)
    assert len(frames) == count_frames(plan, 1) == 10
    assert potential.calls <= count_evaluations(plan, 1) == 2 * 51
    assert [f.info["group"] for f in frames] == ["Cu#0/rattle-relax-t0"] * 5 + ["Cu#0/rattle-relax-t1"] * 5
    assert len({round(f.get_volume(), 4) for f in frames}) == 10
    assert not any(len(contacts(StructureBatch.from_atoms([f]), 0.5)[0]) for f in frames)
    forces = [
        np.linalg.norm(Counting().evaluate(StructureBatch.from_atoms([f])).forces, axis=1).max()
        for f in frames
    ]
    assert max(forces) < 30
    again = Counting()
    cached = run_sampling([start()], plan, {"teacher": again}, cache_dir=tmp_path)
    assert again.calls == 0
    fresh = run_sampling([start()], plan, {"teacher": again})
    for other in (cached, fresh):
        assert all(np.array_equal(a.positions, b.positions) for a, b in zip(frames, other, strict=True))
        assert all(np.allclose(a.cell, b.cell) for a, b in zip(frames, other, strict=True))


def test_weights_are_those_of_the_paper():
    config = RattleRelax(temperature_K=300, beta=0.7)
    step = units.kB * 300
    members = [_Member(Atoms("H"), e * step, g) for e, g in ((-3.0, 1), (-2.0, 2), (-5.0, 2), (0.0, 5))]
    boltzmann = np.exp([3.0, 2.0, 5.0, 0.0])
    expected = 0.7 * boltzmann / boltzmann.sum() + 0.3 * np.array([1, 2, 2, 5]) / 10
    assert parent_weights(members, config) == pytest.approx(expected)


def test_small_beta_wanders_farther():
    def spread(beta: float) -> float:
        step = RattleRelax(n=20, trees=1, stdev_a=(0.1, 0.1), temperature_K=1, beta=beta, relax_steps=3)
        frames = run_sampling([start()], SamplingConfig(steps=[step]), {"teacher": Counting()})
        return float(np.mean(energies(frames)))

    assert spread(0.0) > spread(1.0)


def test_a_tree_that_cannot_grow_says_so():
    class Wall(Potential):
        name = "wall"
        capabilities = Capabilities(stress=False)

        def evaluate(self, batch):
            return Labels(np.zeros(1), np.full((batch.n_atoms, 3), 100.0))

    plan, notes = SamplingConfig(steps=[RattleRelax(n=3, trees=1)], keep_starts=True), []
    frames = run_sampling([start()], plan, {"teacher": Wall()}, notes=notes)
    assert len(frames) == 1
    assert notes == ["Cu#0/rattle-relax-t0 ended with 0 of 3 children: its 31 evaluations are spent"]


def test_time_that_is_up():
    potential = Counting()
    plan = SamplingConfig(steps=[RattleRelax(n=10, trees=2)])
    frames = run_sampling(
        [start()], plan, {"teacher": potential}, limit=TimeLimit(lambda: 40.0 - potential.calls)
    )
    assert 2 <= len(frames) < 20
    assert potential.calls <= 41


def test_each_start_has_a_tree_before_any_has_two():
    potential, notes = Counting(), []
    starts = [start(), start(), start()]
    for k, atoms in enumerate(starts):
        atoms.info["group"] = f"Cu{k}"
    plan = SamplingConfig(steps=[RattleRelax(n=4, trees=3)])
    frames = run_sampling(
        starts, plan, {"teacher": potential}, notes=notes, limit=TimeLimit(lambda: 130.0 - potential.calls)
    )
    trees = {frame.info["group"] for frame in frames}
    assert {f"Cu{k}/rattle-relax-t0" for k in range(3)} <= trees
    assert len(trees) < 9
    assert len(frames) == 4 * len(trees)
    assert notes[-1].startswith(f"rattle-relax: there was time for {len(trees)} of 9 trees, all whole: ")
