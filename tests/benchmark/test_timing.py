"""One way to time, what a calculator in dynamics does; a clock that only work moves makes every figure known."""

from __future__ import annotations

import ast
import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from limbeck.core import timing
from limbeck.core.labels import Labels
from limbeck.core.potential import Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.core.timing import (
    SWING_A,
    SWING_CALLS,
    Limits,
    LocalSubject,
    Timing,
    Unmeasured,
    measure_in_turns,
    seconds_per_label,
    seconds_per_step,
    speedup,
    time_in_turns,
)
from limbeck.errors import LimbeckError
from limbeck.runtime.backends import native
from limbeck.runtime.student import Student
from tests.students.tools import random_record

BATCH = StructureBatch.from_atoms([bulk("Si", cubic=True)] * 4)
PACKAGE = Path(__file__).parents[2] / "src" / "limbeck"
#: a stopwatch for speeds; the second works in a process without a Potential
STOPWATCHES = {"core/timing.py", "export/runner.py"}


class Clock:
    """Seconds that pass only when something takes them."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Costly(Potential):
    """Zero forces at a known cost for each call; ``log`` lists whose turn it was, ``seen`` the positions."""

    capabilities = Capabilities()

    def __init__(self, name="model", clock=None, cost_s=lambda batch: 1.0, log=None) -> None:
        self.name, self.clock, self.cost_s = name, clock or Clock(), cost_s
        self.log, self.seen = [] if log is None else log, []
        self.bad_after: int | None = None
        self.cold_s = 0.0  #: more where another model of the same log was called before

    def evaluate(self, batch: StructureBatch) -> Labels:
        cold = self.log[-1:] != [self.name]
        self.log.append(self.name)
        self.seen.append(batch.positions.copy())
        self.clock.now += self.cost_s(batch) + (self.cold_s if cold else 0.0)
        bad = self.bad_after is not None and self.log.count(self.name) > self.bad_after
        return Labels(np.zeros(len(batch)), np.full((batch.n_atoms, 3), np.nan if bad else 0.0))


def run(costs, *, bad_after=None, cold=None, **limits):
    """(results, log) of models that take so many seconds for every call, a number or a function of the log."""
    clock, log = Clock(), []
    potentials = [
        Costly(name, clock, lambda _, c=cost: c(log) if callable(c) else c, log)
        for name, cost in costs.items()
    ]
    potentials[0].bad_after = bad_after
    potentials[-1].cold_s = cold or 0.0
    opens = [partial(LocalSubject, potential, clock=clock) for potential in potentials]
    results = measure_in_turns(opens, BATCH, Limits(clock=clock, **limits))
    return [result for result, _ in results], log


def test_models_alternate_block_by_block_after_the_warm_up():
    (a, b), log = run({"a": 0.1, "b": 0.5}, rounds=4, enough_s=100.0)
    assert log == ["a", "a", "b", "b"] + ["a", "b"] * 4
    assert a.seconds == pytest.approx([0.1] * 4)
    assert b.seconds == pytest.approx([0.5] * 4)


def test_fast_calls_come_in_blocks_whose_first_does_not_count():
    (_, fast), log = run({"slow": 0.1, "fast": 0.01}, cold=0.04, rounds=4, enough_s=100.0)
    turns = [(name, len(list(group))) for name, group in itertools.groupby(log[4:])]
    assert turns == [("slow", 1), ("fast", 1 + 5)] * 4
    assert fast.seconds == pytest.approx([0.01] * 20)


def test_blocks_are_as_long_as_the_latest_calls_need():
    (found,), _ = run({"a": lambda log: 0.2 if len(log) < 3 else 0.01}, rounds=3, enough_s=100.0)
    assert [len(block) for block in found.rounds] == [1, 5, 5]  # by a warm-up of 0.2 s, then by 0.01 s


def test_enough_seconds_end_a_model_and_not_the_others():
    (a, b), _ = run({"a": 2.0, "b": 0.1}, rounds=10, enough_s=4.0, row_s=100.0)
    assert (len(a.seconds), len(b.seconds)) == (3, 10)  # three at least, though two took four seconds


def test_a_model_too_slow_for_its_row_says_so():
    (slow, fast), _ = run({"slow": 6.0, "fast": 0.1}, row_s=20.0)
    assert slow.too_slow
    assert str(slow) == "a call takes 6 s: 3 and a warm-up do not fit into 20 s"
    assert isinstance(fast, Timing)
    (slower,), log = run({"slower": 25.0}, row_s=20.0)
    assert str(slower) == "the first call takes longer than 20 s"
    assert log == ["slower"]


def test_the_row_limit_counts_the_warm_up_and_keeps_what_was_measured():
    (a,), log = run({"a": 3.0}, row_s=20.0, enough_s=100.0)
    # two calls of warm-up (6 s), then 3 s each; the fifth would end at 21 s and does not count
    assert log == ["a"] * 7
    assert len(a.seconds) == 4


def test_the_deadline_ends_everything():
    (a, b), _ = run({"a": 4.0, "b": 4.0}, deadline=10.0, budget_s=10.0)
    assert str(a) == str(b) == "the benchmark's time, 10 s, was used up"
    assert not a.too_slow
    (none,), log = run({"a": 1.0}, deadline=0.0, budget_s=5.0)
    assert (str(none), log) == ("the benchmark's time, 5 s, was used up", [])


def test_a_model_that_fails_leaves_the_others():
    (bad, good), _ = run({"bad": 0.1, "good": 0.1}, bad_after=6)
    assert str(bad) == "energies or forces are not finite"
    assert isinstance(good, Timing)


def test_a_model_that_cannot_be_opened_is_a_reason_and_all_are_closed():
    closed = []

    class Closing(LocalSubject):
        def close(self):
            closed.append(self.potential.name)

    def broken():
        raise Unmeasured("not installed")

    there = Costly("there", cost_s=lambda batch: 0.1)
    opens = [broken, lambda: Closing(there, clock=there.clock)]
    (none, _), (found, _) = measure_in_turns(opens, BATCH, Limits(clock=there.clock))
    assert str(none) == "not installed"
    assert isinstance(found, Timing)
    assert closed == ["there"]


def prepared(model: Costly, atoms, **options) -> LocalSubject:
    subject = LocalSubject(model, clock=model.clock, **options)
    subject.prepare(StructureBatch.from_atoms(atoms), 100.0)
    return subject


def test_one_structure_moves_on_in_small_steps_and_comes_back():
    start, model = bulk("Si", cubic=True) * (2, 2, 2), Costly()
    prepared(model, [start]).time(SWING_CALLS - 2, 1e9)
    path = np.array([*model.seen, model.seen[0]])  # (calls, N, 3)
    steps = np.linalg.norm(np.diff(path, axis=0), axis=2)
    assert 0 < steps.max() < 0.03  # of an atom at 1500 K in 1 fs: 0.012 Å by each of three components
    assert steps[-1].max() < 0.03  # the last call is a step away from the first
    assert np.linalg.norm(path - start.positions, axis=2).max() == pytest.approx(SWING_A)


def test_still_atoms_are_evaluated_at_every_call():
    model = Costly()
    assert prepared(model, [bulk("Si", cubic=True)], still=True).time(3, 100.0) == [1.0] * 3
    assert len(model.seen) == 5
    assert np.ptp(model.seen, axis=0).max() == 0.0


def test_every_call_of_a_batch_sees_atoms_that_moved():
    model = Costly()
    prepared(model, [bulk("Si", cubic=True)] * 2).time(4, 100.0)
    for before, after in itertools.pairwise(model.seen):
        assert (before != after).all()
        assert abs(before - after).max() < 0.1


def test_a_student_keeps_its_list_as_in_dynamics(monkeypatch):
    """Counted by hand: silicon at 300 to 1500 K, 1 fs a step, makes 2 to 10 lists in 100 steps."""
    searches = []
    search = native.NativeSystem._search
    monkeypatch.setattr(
        native.NativeSystem, "_search", lambda self, *what: searches.append(1) or search(self, *what)
    )
    subject = LocalSubject(Student(random_record("ultra-tiny", (14,), dtype=np.float32), threads=1))
    subject.prepare(StructureBatch.from_atoms([bulk("Si", cubic=True) * (2, 2, 2)]), 1e9)
    subject.time(2 * SWING_CALLS, 1e9)
    assert 0.02 < len(searches) / (2 * SWING_CALLS) < 0.10


def test_memory_counts_from_when_the_calculator_is_there():
    """Its imports are tens of megabytes that every user of the student has already."""
    happened = []

    class Memory:
        def start(self):
            happened.append("start")

        def grown_mb(self):
            return 1.0

    class Model(Costly):
        def make_calculator(self):
            happened.append("calculator")
            return super().make_calculator()

    prepared(Model(), [bulk("Si")], memory=Memory())
    assert happened == ["calculator", "start"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that only work moves, in place of the machine's."""
    made = Clock()
    monkeypatch.setattr(timing, "LocalSubject", partial(LocalSubject, clock=made))
    return made


def test_known_latencies_come_out_though_each_turn_begins_cold(clock):
    log = []
    teacher, student = Costly("t", clock, lambda _: 0.1, log), Costly("s", clock, lambda _: 0.0002, log)
    student.cold_s = 0.001  # six times as long, as after a teacher's call
    slow, fast = time_in_turns([teacher, student], bulk("Si", cubic=True))
    assert slow.median_s == pytest.approx(0.1)
    assert fast.seconds == pytest.approx(np.full(len(fast.seconds), 0.0002))
    assert len(fast.rounds) > 3


def test_a_slow_teacher_is_called_three_times(clock):
    teacher = Costly("teacher", clock, lambda _: 60.0)
    (found,) = time_in_turns([teacher], bulk("Si"))
    assert found.seconds == pytest.approx([60.0])
    assert teacher.log == ["teacher"] * 3


def test_forces_that_are_not_finite_have_no_speed(clock):
    broken = Costly("broken", clock)
    broken.bad_after = 0
    with pytest.raises(LimbeckError, match="broken: no speed could be measured; got energies or forces"):
        time_in_turns([broken], bulk("Si"))


def test_costs_of_a_step_and_of_labels_given_at_once(clock):
    two_workers = Costly("teacher", clock, lambda batch: 0.1 + 0.2 * len(batch))
    assert seconds_per_step(two_workers, bulk("Si")) == pytest.approx(0.3)
    assert seconds_per_label(two_workers, bulk("Si"), 4) == pytest.approx(0.9 / 4)


def test_speed_up_is_the_median_of_ratios_within_a_round():
    # the machine is ten times slower in the second round: the ratio within it stays 4
    student, teacher = ((1.0, 1.0), (10.0, 10.0), (1.0,)), ((4.0,), (40.0,), (5.0,))
    assert speedup(teacher, student) == pytest.approx(4.0)
    # rounds that the teacher had no more time for are left out
    assert speedup(teacher[:1], student) == pytest.approx(4.0)
    np.testing.assert_array_equal(Timing(student).seconds, [1.0, 1.0, 10.0, 10.0, 1.0])


def stopwatches(package: Path) -> set[str]:
    """Modules that name ``perf_counter``, however they import it."""
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [getattr(node, "attr", None), getattr(node, "id", None), getattr(node, "name", None)]
            if "perf_counter" in names:
                found.add(path.relative_to(package).as_posix())
    return found


def test_one_routine_times_potentials(tmp_path):
    assert stopwatches(PACKAGE) == STOPWATCHES
    for name, text in {
        "a": "from time import perf_counter",
        "b": "import time\nx = time.perf_counter()",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "c.py").write_text("import time\nbegan = time.monotonic()\n")
    assert stopwatches(tmp_path) == {"a.py", "b.py"}  # a second stopwatch would be found
