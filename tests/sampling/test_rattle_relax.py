"""Group trees: the relaxation must pay, parents follow their weights, work is repeatable."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from tests.sampling.support import Counting, copper, hashes, labels_of, largest_force, sample

from limbeck.core.checks import contacts
from limbeck.core.labels import Labels
from limbeck.core.potential import Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.sampling import (
    Rattle,
    RattleRelax,
    SamplingConfig,
    TimeLimit,
    count_evaluations,
    count_frames,
    run_sampling,
)
from limbeck.sampling.rattle_relax import _Member, parent_weights


def test_children_lie_below_rattled_copies_and_small_beta_wanders_farther():
    """The same amplitudes, one generation (beta 1 at a low temperature goes back to the start)."""
    step = RattleRelax(n=12, trees=1, stdev_a=(0.2, 0.2), temperature_K=1, beta=1, relax_steps=8)
    start = copper(2, 2, 1)
    children, wandering, rattled = (
        labels_of(sample(start, one, teacher=Counting())).energy
        for one in (step, step.model_copy(update={"beta": 0.0}), Rattle(stdev_a=0.2, n=12, min_ratio=0.5))
    )
    assert len(children) == 12
    assert np.median(children) < 0.5 * np.median(rattled)
    assert children.min() > labels_of([start]).energy[0]
    assert np.mean(wandering) > np.mean(children)


def test_trees_are_families_within_their_evaluations(tmp_path):
    plan = SamplingConfig(seed=4, steps=[RattleRelax(n=5, trees=2, stdev_a=(0.05, 0.3), strain=0.05)])
    start, potential = copper(2, 2, 1), Counting()
    frames = run_sampling([start], plan, {"teacher": potential}, cache_dir=tmp_path)
    assert len(frames) == count_frames(plan, 1) == 10
    assert potential.calls <= count_evaluations(plan, 1) == 2 * 51
    assert [f.info["group"] for f in frames] == [f"Cu#0/rattle-relax-t{k}" for k in (0, 1) for _ in range(5)]
    assert len({round(f.get_volume(), 4) for f in frames}) == 10
    assert not any(len(contacts(StructureBatch.from_atoms([f]), 0.5)[0]) for f in frames)
    assert max(map(largest_force, frames)) < 30
    again = Counting()
    assert hashes(run_sampling([start], plan, {"teacher": again}, cache_dir=tmp_path)) == hashes(frames)
    assert again.calls == 0
    assert hashes(run_sampling([start], plan, {"teacher": again})) == hashes(frames)


def test_weights_are_those_of_the_paper():
    config = RattleRelax(temperature_K=300, beta=0.7)
    step = units.kB * 300
    members = [_Member(Atoms("H"), e * step, g) for e, g in ((-3.0, 1), (-2.0, 2), (-5.0, 2), (0.0, 5))]
    boltzmann = np.exp([3.0, 2.0, 5.0, 0.0])
    expected = 0.7 * boltzmann / boltzmann.sum() + 0.3 * np.array([1, 2, 2, 5]) / 10
    assert parent_weights(members, config) == pytest.approx(expected)


def test_a_tree_that_cannot_grow_says_so():
    class Wall(Potential):
        name = "wall"
        capabilities = Capabilities(stress=False)

        def evaluate(self, batch):
            return Labels(np.zeros(1), np.full((batch.n_atoms, 3), 100.0))

    plan, notes = SamplingConfig(steps=[RattleRelax(n=3, trees=1)], keep_starts=True), []
    assert len(run_sampling([copper()], plan, {"teacher": Wall()}, notes=notes)) == 1
    assert notes == ["Cu#0/rattle-relax-t0 ended with 0 of 3 children: its 31 evaluations are spent"]


def test_each_start_has_a_tree_before_any_has_two():
    potential, notes = Counting(), []
    starts = [copper(group=f"Cu{k}") for k in range(3)]
    limit = TimeLimit(lambda: 130.0 - potential.calls)
    frames = sample(starts, RattleRelax(n=4, trees=3), teacher=potential, notes=notes, limit=limit)
    trees = {frame.info["group"] for frame in frames}
    assert {f"Cu{k}/rattle-relax-t0" for k in range(3)} <= trees
    assert len(trees) < 9
    assert len(frames) == 4 * len(trees)
    assert potential.calls <= 131
    assert notes[-1].startswith(f"rattle-relax: there was time for {len(trees)} of 9 trees, all whole: ")


def test_cells_are_strained_as_stated():
    """Of amplitudes between 0 and s: the symmetric strain has diagonal s / sqrt(3) rms, sqrt(2) less beside it."""
    step = RattleRelax(
        n=300, trees=1, stdev_a=(0.01, 0.01), strain=0.03, relax_steps=1, beta=0, temperature_K=300
    )
    start = copper(1, 1, 1)
    cells = np.array([frame.cell.array for frame in sample(start, step, teacher=Counting())])
    strain = np.linalg.inv(start.cell.array) @ cells - np.eye(3)
    diagonal = np.sqrt((np.diagonal(strain, axis1=1, axis2=2) ** 2).mean())
    shear = np.sqrt((strain[:, [0, 0, 1], [1, 2, 2]] ** 2).mean())
    assert diagonal == pytest.approx(0.03 / np.sqrt(3), rel=0.12)
    assert shear == pytest.approx(0.03 / np.sqrt(6), rel=0.12)
