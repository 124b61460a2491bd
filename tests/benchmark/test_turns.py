"""Models take turns within their limits; a clock that only work moves makes every figure known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase.build import bulk

from limbeck.benchmark.rows import Timing
from limbeck.benchmark.turns import Limits, measure_in_turns
from limbeck.core.structures import StructureBatch
from limbeck.core.timing import SWING_A, SWING_CALLS, LocalSubject, Unmeasured, moved
from tests.benchmark.fakes import Clock, Costly

BATCH = StructureBatch.from_atoms([bulk("Si", cubic=True)] * 4)


def run(costs, limits=None, batch=BATCH, **changes):
    """(results, log) of models that take so many seconds for every call."""
    clock, log = Clock(), []
    limits = limits or {}
    potentials = [Costly(name, clock, lambda b, c=c: c, log) for name, c in costs.items()]
    for name, value in changes.items():
        next(p for p in potentials if p.name == name).bad_after = value
    opens = [lambda p=p: LocalSubject(p, clock=clock) for p in potentials]
    results = measure_in_turns(opens, batch, Limits(clock=clock, **limits))
    return [result for result, _ in results], log


def test_models_alternate_block_by_block_after_the_warm_up():
    (a, b), log = run({"a": 0.1, "b": 0.5}, {"rounds": 4, "enough_s": 100.0})
    assert log == ["a", "a", "b", "b"] + ["a", "b"] * 4
    assert (len(a.rounds), len(b.rounds)) == (4, 4)
    assert a.seconds == pytest.approx([0.1] * 4)
    assert b.seconds == pytest.approx([0.5] * 4)


def test_fast_calls_come_in_blocks():
    (a, _), log = run({"a": 0.01, "b": 0.5}, {"rounds": 3, "enough_s": 100.0})
    turns = [(name, len(list(group))) for name, group in itertools.groupby(log[4:])]
    assert turns == [("a", 1 + 5), ("b", 1)] * 3
    assert len(a.seconds) == 15


def test_the_first_call_after_another_model_does_not_count():
    clock, log = Clock(), []
    fast, slow = Costly("fast", clock, lambda _: 0.01, log), Costly("slow", clock, lambda _: 0.1, log)
    fast.cold_s = 0.04
    opens = [lambda p=p: LocalSubject(p, clock=clock) for p in (slow, fast)]
    (_, (found, _)) = measure_in_turns(opens, BATCH, Limits(clock=clock, rounds=4, enough_s=100.0))
    assert found.seconds == pytest.approx([0.01] * 20)
    assert log.count("fast") == 2 + 4 * 6


def test_blocks_are_as_long_as_the_latest_calls_need():
    clock, log = Clock(), []
    model = Costly("a", clock, lambda _: 0.2 if len(log) < 3 else 0.01, log)
    limits = Limits(clock=clock, rounds=3, enough_s=100.0)
    ((found, _),) = measure_in_turns([lambda: LocalSubject(model, clock=clock)], BATCH, limits)
    assert [len(block) for block in found.rounds] == [1, 5, 5]  # by a warm-up of 0.2 s, then by 0.01 s


def test_enough_seconds_end_a_model_and_not_the_others():
    (a, b), _ = run({"a": 2.0, "b": 0.1}, {"rounds": 10, "enough_s": 4.0, "row_s": 100.0})
    assert (len(a.seconds), len(b.seconds)) == (3, 10)  # three at least, though two took four seconds


def test_a_model_too_slow_for_its_row_says_so():
    (slow, fast), _ = run({"slow": 6.0, "fast": 0.1}, {"row_s": 20.0})
    assert isinstance(slow, Unmeasured)
    assert slow.too_slow
    assert str(slow) == "a call takes 6 s: 3 and a warm-up do not fit into 20 s"
    assert isinstance(fast, Timing)
    (slower,), log = run({"slower": 25.0}, {"row_s": 20.0})
    assert str(slower) == "the first call takes longer than 20 s"
    assert log == ["slower"]


def test_the_row_limit_counts_the_warm_up_and_keeps_what_was_measured():
    (a,), log = run({"a": 3.0}, {"row_s": 20.0, "enough_s": 100.0})
    # two calls of warm-up (6 s), then 3 s each; the fifth would end at 21 s and does not count
    assert log == ["a"] * 7
    assert len(a.seconds) == 4


def test_the_deadline_ends_everything():
    (a, b), _ = run({"a": 4.0, "b": 4.0}, {"deadline": 10.0, "budget_s": 10.0})
    assert str(a) == str(b) == "the benchmark's time, 10 s, was used up"
    assert not a.too_slow
    (none,), log = run({"a": 1.0}, {"deadline": 0.0, "budget_s": 5.0})
    assert (str(none), log) == ("the benchmark's time, 5 s, was used up", [])


def test_a_model_that_fails_leaves_the_others():
    (bad, good), _ = run({"bad": 0.1, "good": 0.1}, bad=6)
    assert str(bad) == "energies or forces are not finite"
    assert isinstance(good, Timing)


def test_a_model_that_cannot_be_opened_is_a_reason_and_all_are_closed():
    closed = []

    class Closing(LocalSubject):
        def close(self):
            closed.append(self.potential.name)

    def broken():
        raise Unmeasured("not installed")

    clock = Clock()
    there = Costly("there", clock, lambda batch: 0.1)
    results = measure_in_turns([broken, lambda: Closing(there, clock=clock)], BATCH, Limits(clock=clock))
    assert str(results[0][0]) == "not installed"
    assert isinstance(results[1][0], Timing)
    assert closed == ["there"]


class Recorder(Costly):
    """Keeps the positions it is asked about."""

    def __init__(self):
        super().__init__("recorder", Clock(), lambda _: 1.0)
        self.seen = []

    def evaluate(self, batch):
        self.seen.append(batch.positions.copy())
        return super().evaluate(batch)


def test_one_structure_moves_on_in_small_steps_and_comes_back():
    start = bulk("Si", cubic=True) * (2, 2, 2)
    model = Recorder()
    subject = LocalSubject(model, clock=model.clock)
    subject.prepare(StructureBatch.from_atoms([start]), 100.0)
    subject.time(SWING_CALLS - 2, 1e9)
    path = np.array([*model.seen, model.seen[0]])  # (calls, N, 3)
    steps = np.linalg.norm(np.diff(path, axis=0), axis=2)
    assert 0 < steps.max() < 0.03  # of an atom at 1500 K in 1 fs: 0.012 Å by each of three components
    assert steps[-1].max() < 0.03  # the last call is a step away from the first
    far = np.linalg.norm(path - start.positions, axis=2)
    assert far.max() == pytest.approx(SWING_A)


def test_still_atoms_are_evaluated_at_every_call():
    model = Recorder()
    subject = LocalSubject(model, clock=model.clock, still=True)
    subject.prepare(StructureBatch.from_atoms([bulk("Si", cubic=True)]), 100.0)
    assert subject.time(3, 100.0) == [1.0] * 3
    assert len(model.seen) == 5
    assert np.ptp(model.seen, axis=0).max() == 0.0


def test_every_call_of_a_batch_sees_atoms_that_moved():
    variants = moved(BATCH)
    for before, after in itertools.pairwise(variants):
        assert (before.positions != after.positions).all()
        assert abs(before.positions - after.positions).max() < 0.1
    assert len(variants) > 1
