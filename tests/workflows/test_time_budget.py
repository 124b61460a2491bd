"""The arithmetic on a run's time, on a made-up clock, and that a budget bounds the whole command."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.progress import process_start
from limbeck.records.run_folder import RunFolder, RunState
from limbeck.records.time_budget import LEAST_TRAINING_S, TimeBudget, share
from limbeck.training.checkpoint import Progress
from limbeck.training.loop import Stop


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_counts_over_interruptions():
    clock = Clock()
    budget = TimeBudget(60.0, before_s=10.0, began=95.0, now=clock)
    assert (budget.spent_s, budget.left_s(), budget.left_s(7.0)) == (15.0, 45.0, 38.0)
    clock.now += 50.0
    assert budget.left_s() == -5.0
    assert budget.moment(3.0) == 153.0
    part = budget.part(4.0)
    clock.now += 1.0
    assert part.left_s() == 3.0


def test_without_a_budget_nothing_ends():
    budget = TimeBudget(None, now=Clock())
    assert budget.left_s(1e9) == budget.iteration_training_s(1, 3, 10.0) == math.inf
    assert budget.training_ends(("tiny", "original")) is None
    assert budget.moment(budget.iteration_runs_s(0, 3, 2)) is None
    assert budget.part(math.inf).left_s() == math.inf


def test_presets_share_what_is_left_when_each_begins():
    clock = Clock()
    budget = TimeBudget(100.0, now=clock)
    assert share(70.0, ("tiny", "ultra-tiny")) == {"tiny": 40.0, "ultra-tiny": 30.0}
    assert budget.training_s(("tiny", "ultra-tiny"), reserved_s=30.0) == 40.0
    clock.now += 50.0  # the first took longer
    assert budget.training_ends(("ultra-tiny",), reserved_s=30.0) == clock.now + 20.0
    clock.now += 60.0  # and a student is made in any case
    assert budget.training_ends(("ultra-tiny",)) == clock.now + LEAST_TRAINING_S


def test_stages_divide_the_time_left_as_planned():
    clock = Clock()
    budget = TimeBudget(200.0, now=clock)
    stages = ((10.0, 10.0), (20.0, 40.0))
    # 80 s beside the interim student's 20: a quarter, of which dynamics has its half and a little more
    assert budget.stage_ends(100.0, stages, 20.0) == pytest.approx((12.0, 20.0))
    clock.now += 70.0  # labels and student took longer: the last stage has all that is left
    assert budget.stage_ends(100.0, stages[1:], 0.0) == pytest.approx((70.0 + 30.0 * (1 / 3 + 0.1), 100.0))
    clock.now += 50.0
    assert budget.stage_ends(100.0, stages[1:], 0.0) == (120.0, 120.0)


@given(st.floats(60, 1e5), st.integers(1, 6), st.integers(1, 3), st.floats(0, 1e4), st.floats(0, 30))
def test_active_learning_stays_within_the_budget(seconds, last, students, runs_s, reserved_s):
    clock = Clock()
    budget = TimeBudget(seconds, now=clock)
    for number in range(last + 1):
        if number and budget.left_s(reserved_s) < 2 * LEAST_TRAINING_S:
            break
        own_s = budget.left_s(reserved_s) / (last - number + 1)
        training_s = budget.iteration_training_s(number, last, runs_s, reserved_s)
        assert training_s >= 0.3 * own_s * (1 - 1e-9)
        clock.now += training_s
        for k in range(students):
            allowed_s = budget.iteration_runs_s(number, last, students - k, reserved_s)
            assert allowed_s >= LEAST_TRAINING_S
            clock.now += min(runs_s / students, allowed_s)
    assert budget.left_s(reserved_s) >= -students * LEAST_TRAINING_S - 1e-6 * seconds


def test_training_until_a_moment_counts_what_happened_before(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    stop = Stop(until=150.0)
    assert stop.done(Progress(spent_s=0.0), 1) == 0.0
    clock.now = 125.0
    assert stop.done(Progress(spent_s=25.0), 1) == 0.5
    # resumed with 50 s done and 25 s left; and time lost beside the steps is lost
    assert stop.done(Progress(spent_s=50.0), 1) == pytest.approx(2 / 3)
    assert stop.done(Progress(spent_s=5.0), 1) == pytest.approx(1 / 6)
    clock.now = 150.0
    assert stop.done(Progress(spent_s=0.0), 1) == 1.0


def test_state_is_kept_over_interruptions(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    state = RunState(RunFolder(tmp_path), 60.0, began=70.0)
    assert state.once("stage", (1.0, 2.0)) == (1.0, 2.0)
    clock.now += 5.0
    again = RunState(RunFolder(tmp_path), 60.0)
    assert (again.once("stage", (7.0, 8.0)), again.get("plan")) == ([1.0, 2.0], None)
    assert again.time.left_s() == 30.0
    again.ticking(lambda *_: None)("labels", 1)  # no more than every ten seconds
    clock.now += 11.0
    assert RunState(RunFolder(tmp_path), None).time.spent_s == 30.0
    again.ticking(lambda *_: None)("labels", 2)
    assert RunState(RunFolder(tmp_path), None).time.spent_s == 41.0
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(InputError, match="state.json: damaged state of a run; .* remedy: delete it"):
        RunState(RunFolder(tmp_path), None)


def test_a_users_files_are_left_alone(tmp_path):
    (tmp_path / "config.yaml").write_text("bulk: Cu\n")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="the run folder holds files of something else"):
            RunFolder(tmp_path).prepare("bulk: Cu\n", overwrite=overwrite)
    assert (tmp_path / "config.yaml").read_text() == "bulk: Cu\n"


def test_overwrite_removes_what_a_run_wrote_and_no_more(tmp_path):
    run, said = RunFolder(tmp_path / "run"), []
    run.prepare("seed: 1\nbudget: 10m\nlabelling: {workers: 1}\n", overwrite=False)
    run.labels.mkdir()
    (run.labels / "shard-00000.lbk").write_bytes(b"x")
    (run.path / "notes.txt").write_text("mine")
    # another budget or place is the same run
    run.prepare("seed: 1\nbudget: 9m\nout: b\nlabelling: {workers: 2}\n", overwrite=False)
    with pytest.raises(InputError, match="got other values of seed;"):
        run.prepare("seed: 2\n", overwrite=False)
    assert run.labels.exists()
    run.prepare("seed: 2\n", overwrite=True)
    assert not run.labels.exists()
    assert (run.path / "notes.txt").read_text() == "mine"
    run.write_metrics({})
    run.prepare("seed: 2\n", overwrite=False)
    assert run.say_if_finished(said.append)
    assert "is finished and its students stay as they are; remedy: --overwrite starts over" in said[0]
    run.prepare("seed: 2\n", overwrite=True)
    assert not run.say_if_finished(said.append)


def test_process_start_is_before_the_first_import():
    code = (
        "import time; first = time.monotonic()\n"
        "from limbeck.progress import process_start\n"
        "print(first - process_start())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # the kernel counts in hundredths of a second
    assert -0.02 < float(done.stdout) < 30.0
    assert process_start() <= time.monotonic()


@pytest.mark.slow  # measures time, so it is no test for a shared machine
def test_a_small_budget_bounds_the_command(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "limbeck.cli", "distill", "--bulk", "Cu", "--teacher"]
    command += [
        "ase.calculators.emt:EMT",
        "--preset",
        "ultra-tiny,tiny",
        "--budget",
        "60s",
        "--out",
        str(out),
    ]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    took = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert took < 66
    metrics = json.loads((out / "metrics.json").read_text())
    errors = [metrics[p]["test"]["all"] for p in ("tiny", "ultra-tiny")]
    assert np.isfinite([e["force_rmse_mev_per_a"] for e in errors]).all()
    assert errors[1]["force_r2"] > 0.9
