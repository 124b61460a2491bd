"""A model in a process of its own: timed there, ended when late, and its end told."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from ase.build import bulk

from limbeck.benchmark.memory import PeakMemory
from limbeck.benchmark.process import ProcessSubject
from limbeck.core.structures import StructureBatch
from limbeck.core.timing import Unmeasured
from limbeck.teachers.environments import OWN

BATCH = StructureBatch.from_atoms([bulk("Cu", cubic=True)] * 2)
WAIT_S = 60.0

MODULE = """\
import os, signal
from ase.calculators.emt import EMT

class Endless(EMT):
    def calculate(self, *args, **kwargs):
        while True:
            pass

class Killed(EMT):
    def calculate(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

class Raising(EMT):
    def calculate(self, *args, **kwargs):
        raise RuntimeError("no such luck")
"""


@pytest.fixture
def subject(tmp_path, monkeypatch):
    """subject(name of a module:callable) -> a loaded one; closed at the end."""
    (tmp_path / "odd_calculators.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    opened = []

    def _open(name: str) -> ProcessSubject:
        teacher = {"name": name, "options": {}, "trust": False}
        opening = {"teacher": teacher, "device": "cpu", "threads": 1}
        opened.append(ProcessSubject(OWN, opening, working_folder=True))
        opened[-1].wait(WAIT_S)
        return opened[-1]

    yield _open
    for one in opened:
        one.close()
        one.close()  # twice is safe


def test_calls_are_timed_in_the_process(subject):
    emt = subject("ase.calculators.emt:EMT")
    prepared = emt.prepare(BATCH, WAIT_S)
    seconds = emt.time(3, WAIT_S)
    assert len(seconds) == 3
    assert all(0 < one < WAIT_S for one in [*seconds, prepared.last_s])
    assert prepared.spent_s >= prepared.last_s
    assert prepared.peak_memory_mb >= 0


def test_a_call_that_does_not_end_is_ended(subject):
    endless = subject("odd_calculators:Endless")
    with pytest.raises(Unmeasured, match=r"^the first call takes longer than 0\.05 s$") as error:
        endless.prepare(BATCH, 0.05)
    assert error.value.too_slow
    assert endless._child.process.wait(WAIT_S) == -9


def test_how_a_process_ended_is_told(subject):
    with pytest.raises(
        Unmeasured, match="^its process ended with signal SIGKILL; memory may have run out$"
    ) as error:
        subject("odd_calculators:Killed").prepare(BATCH, WAIT_S)
    assert not error.value.too_slow
    with pytest.raises(Unmeasured, match="^RuntimeError: no such luck$"):
        subject("odd_calculators:Raising").prepare(BATCH, WAIT_S)
    with pytest.raises(Unmeasured, match="there_is_none"):
        subject("there_is_none:Calculator")


def test_a_worker_needs_ase_and_numpy_alone():
    code = "import sys, limbeck.benchmark.process; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "pydantic", "safetensors", "vesin", "rich", "typer", "yaml", "matplotlib"}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be set back on Linux alone")
def test_memory_counts_what_came_and_went():
    memory = PeakMemory()
    held = np.ones(4_000_000)  # 32 MB that were there before
    earlier = np.ones(20_000_000)  # an earlier peak hides nothing
    del earlier
    memory.start()
    assert memory.grown_mb() < 5.0
    for _ in range(2):
        block = np.ones(8_000_000)  # 64 MB, twice one after the other
        del block
    assert 60.0 < memory.grown_mb() < 75.0
    assert held.sum() == 4_000_000
