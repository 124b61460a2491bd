"""A teacher that is slower than when it was timed: the test set leaves training its share.

Time is a number that the teacher moves on by a fixed cost at each evaluation; nothing waits.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from ase.build import bulk

from limbeck.config import DistillConfig
from limbeck.core.labels import Labels
from limbeck.core.potential import Capabilities
from limbeck.labelling.remote import WorkerPotential
from limbeck.labelling.store import LabelStore
from limbeck.pipeline import planning
from limbeck.pipeline.planning import Costs
from limbeck.pipeline.run_folder import Run, RunFolder, RunState
from limbeck.pipeline.sample_and_label import Collector
from limbeck.pipeline.time_budget import TimeBudget
from limbeck.progress import no_progress
from limbeck.teachers.card import TeacherIdentity

PLANNED_S, BUDGET_S = 0.5, 900.0


class SlowTeacher(WorkerPotential):
    """Every atom on a spring about its first place; says how long it took by moving the clock."""

    thread_safe = False

    def __init__(self, now: list[float], cost_s: float) -> None:
        self.name, self.card, self.n_parameters = "slow", None, None
        self.capabilities = Capabilities()
        self.identity = TeacherIdentity("slow", "1", "0" * 64)
        self.now, self.cost_s = now, cost_s
        self.places: np.ndarray | None = None

    def evaluate(self, batch):
        self.now[0] += self.cost_s * len(batch)
        if self.places is None:
            self.places = batch.positions[: batch.counts[0]].copy()
        away = batch.positions.reshape(len(batch), -1, 3) - self.places  # (S, N, 3)
        return Labels(2.0 * (away**2).sum(axis=(1, 2)), -4.0 * away.reshape(-1, 3))

    def stream(self, batch, stop=None):
        for s in range(len(batch)):
            if stop is not None and stop():
                return
            yield s, self.evaluate(batch.select([s]))


@pytest.fixture
def collected(monkeypatch, tmp_path):
    """collected(slowness) -> (plan, spent seconds, test set, notes): as `distill` would do it."""

    def _collect(slowness: float, **settings):
        now = [1000.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        steps = dict.fromkeys(("tiny", "ultra-tiny"), 1e-3)
        monkeypatch.setattr(planning, "measure", lambda *_: Costs(PLANNED_S, steps, 1))
        budget = None if "training" in settings else BUDGET_S
        config = DistillConfig(bulk="Cu", presets=("tiny",), budget=budget, **settings)
        starts = [bulk("Cu", cubic=True)]
        plan = planning.plan(config, starts, None, TimeBudget(budget))
        state = RunState(RunFolder(tmp_path), budget, began=now[0])
        with LabelStore(tmp_path / "labels") as store:
            teacher = SlowTeacher(now, slowness * PLANNED_S)
            run = Run(config, RunFolder(tmp_path), teacher, state, no_progress, print)
            collector = Collector(run, store)
            test = collector.collect_test_set(starts, plan)
        return plan, state.time.spent_s, test, collector.notes

    return _collect


def test_a_teacher_as_fast_as_planned_is_not_cut(collected):
    plan, spent, test, notes = collected(1.0)
    assert spent == pytest.approx(plan.test_set_s, rel=0.02)
    assert len(test) == plan.test_frames
    assert notes == []


@pytest.mark.parametrize("slowness", [3.0, 6.0, 15.0])
def test_a_slow_teacher_leaves_training_half_of_its_plan(collected, slowness):
    plan, spent, test, notes = collected(slowness)
    uncut = slowness * plan.test_set_s
    late = plan.test_set_until_s
    assert late == pytest.approx(plan.test_set_s + 0.5 * sum(plan.training_s.values()))
    # beyond it are the evaluation at work, and the first labels, of which there are always some
    assert spent <= min(uncut, late + slowness * PLANNED_S * planning.LEAST_LABELS)
    if uncut < late:
        assert notes == []
        assert len(test) == plan.test_frames
        return
    assert 0 < len(test) < plan.test_frames
    assert sum("there was time for" in note for note in notes) == 1
    assert notes[0].startswith("test md: ")
    # with one trajectory a temperature, each keeps frames; those from before the end of equilibration belong to no temperature
    temperatures = plan.test.steps[-1].temperatures
    assert len(np.unique(test.group)) == len(temperatures)
    reached = slowness < 15
    assert set(test.temperature_k[~np.isnan(test.temperature_k)]) == (set(temperatures) if reached else set())


def test_called_again_it_gives_the_same_set(collected):
    _, _, first, _ = collected(6.0)
    _, _, again, notes = collected(6.0)
    np.testing.assert_array_equal(again.structures.positions, first.structures.positions)
    np.testing.assert_array_equal(again.labels.energy, first.labels.energy)
    assert notes[0].startswith("test md: ")


def test_without_a_budget_nothing_is_cut(collected):
    plan, spent, test, notes = collected(6.0, training={"epochs": 5})
    assert plan.test_set_until_s is None
    assert (len(test), notes) == (plan.test_frames, [])
    assert spent == pytest.approx(6.0 * plan.test_set_s, rel=0.02)
