"""One way to time: what a step costs is what a calculator in dynamics does, and nothing else has a stopwatch."""

from __future__ import annotations

import ast
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from limbeck.benchmark import speed
from limbeck.benchmark.speed import seconds_per_label, seconds_per_step, time_in_turns
from limbeck.core.structures import StructureBatch
from limbeck.core.timing import SWING_CALLS, LocalSubject
from limbeck.errors import LimbeckError
from limbeck.runtime.backends import native
from limbeck.runtime.student import Student
from tests.benchmark.fakes import Clock, Costly
from tests.students.tools import random_record

PACKAGE = Path(__file__).parents[2] / "src" / "limbeck"
#: a stopwatch for speeds; the second works in a process that imports no Limbeck
STOPWATCHES = {"benchmark/runner.py", "export/runner.py"}


def stopwatches(package: Path) -> set[str]:
    """Modules that name ``perf_counter``, however they import it."""
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [getattr(node, "attr", None), getattr(node, "id", None), getattr(node, "name", None)]
            if "perf_counter" in names:
                found.add(path.relative_to(package).as_posix())
    return found


def test_one_routine_times_potentials():
    assert stopwatches(PACKAGE) == STOPWATCHES


def test_a_second_stopwatch_is_found(tmp_path):
    (tmp_path / "a.py").write_text("from time import perf_counter\n")
    (tmp_path / "b.py").write_text("import time\nbegan = time.perf_counter()\n")
    (tmp_path / "c.py").write_text("import time\nbegan = time.monotonic()\n")
    assert stopwatches(tmp_path) == {"a.py", "b.py"}


@pytest.fixture
def clock(monkeypatch):
    """A clock that only work moves, in place of the machine's."""
    made = Clock()
    monkeypatch.setattr(speed, "LocalSubject", partial(LocalSubject, clock=made))
    return made


def test_known_latencies_come_out_though_each_turn_begins_cold(clock):
    log = []
    teacher = Costly("teacher", clock, lambda _: 0.1, log)
    student = Costly("student", clock, lambda _: 0.0002, log)
    student.cold_s = 0.001  # six times as long, as after a teacher's call
    slow, fast = time_in_turns([teacher, student], bulk("Si", cubic=True))
    assert slow.median_s == pytest.approx(0.1)
    assert fast.seconds == pytest.approx(np.full(len(fast.seconds), 0.0002))
    assert len(fast.rounds) > 3


def test_a_slow_teacher_is_called_three_times(clock):
    teacher = Costly("teacher", clock, lambda _: 60.0)
    (timing,) = time_in_turns([teacher], bulk("Si"))
    assert timing.seconds == pytest.approx([60.0])
    assert teacher.log == ["teacher"] * 3


def test_forces_that_are_not_finite_have_no_speed(clock):
    broken = Costly("broken", clock, lambda _: 0.1)
    broken.bad_after = 0
    with pytest.raises(LimbeckError, match="broken: no speed could be measured; got energies or forces"):
        time_in_turns([broken], bulk("Si"))


def test_costs_of_a_step_and_of_labels_given_at_once(clock):
    two_workers = Costly("teacher", clock, lambda batch: 0.1 + 0.2 * len(batch))
    assert seconds_per_step(two_workers, bulk("Si")) == pytest.approx(0.3)
    assert seconds_per_label(two_workers, bulk("Si"), 4) == pytest.approx(0.9 / 4)


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

    model = Model("model", Clock(), lambda _: 1.0)
    LocalSubject(model, clock=model.clock, memory=Memory()).prepare(
        StructureBatch.from_atoms([bulk("Si")]), 9.0
    )
    assert happened == ["calculator", "start"]
