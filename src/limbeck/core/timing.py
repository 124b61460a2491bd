"""One model in this process, evaluated and timed; imports only what a teacher's process has: ASE, NumPy.

One structure is evaluated as a step of dynamics does it: by the model's own ASE calculator, atoms a little
farther each time, so that a student keeps its neighbour list as long as it holds. Structures of a batch
do not follow each other: their lists are made anew in each call. Every speed that Limbeck prints is
measured here; ``export/runner.py`` alone has a clock of its own, in a process that imports no Limbeck.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from limbeck.benchmark.memory import PeakMemory
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch

MOVE_A = 1e-2  #: every atom of a batch moves so far between calls, normally distributed: nothing may be kept
_VARIANTS = 4
#: one structure: the atoms swing, the one that goes farthest by so much to either side, in so many calls.
#: Lists kept with the usual skin are then made anew about every 20 calls; dynamics of silicon at 300 to
#: 1500 K, 1 fs a step, makes them every 50 to every 10.
SWING_A, SWING_CALLS = 0.3, 80


class Unmeasured(Exception):
    """There is no timing, and the text says why.

    ``too_slow``: larger batches need not be tried.
    """

    def __init__(self, reason: str, *, too_slow: bool = False) -> None:
        super().__init__(reason)
        self.too_slow = too_slow


@dataclass(frozen=True)
class Prepared:
    """What the first evaluations of a batch tell: their time (s), all and the last, and memory (MB)."""

    spent_s: float
    last_s: float
    peak_memory_mb: float | None


class Subject(ABC):
    """One model that can be timed; raises Unmeasured where ``limit_s``, for what is asked, is not kept."""

    parameters: int | None = None

    def wait(self, limit_s: float) -> None:  # noqa: B027  (what is in this process is there)
        """Return once the model is loaded."""

    @abstractmethod
    def prepare(self, batch: StructureBatch, limit_s: float) -> Prepared:
        """Take the batch and warm up on it."""

    @abstractmethod
    def time(self, calls: int, limit_s: float) -> list[float]:
        """Seconds of each of so many evaluations of the batch, its atoms moved before each."""

    def close(self) -> None:  # noqa: B027  (most hold nothing to release)
        """Release what it holds; safe to call twice."""


class LocalSubject(Subject):
    """A Potential in this process; a call cannot be interrupted, so a limit is noticed after it.

    ``still``: atoms of one structure stay where they are (it is evaluated again all the same).
    """

    def __init__(
        self,
        potential: Potential,
        *,
        clock: Callable[[], float] = time.perf_counter,
        memory: PeakMemory | None = None,
        still: bool = False,
    ) -> None:
        self.potential, self.clock, self.memory, self.still = potential, clock, memory, still
        self._case: _Step | _Batch | None = None
        self._calls = 0

    def prepare(self, batch: StructureBatch, limit_s: float) -> Prepared:
        one = len(batch) == 1
        self._case = _Step(self.potential, batch, self.still) if one else _Batch(self.potential, batch)
        self._calls = 0
        if self.memory is not None:  # from here, so that what a calculator imports is no part of it
            self.memory.start()
        first = self._evaluate()
        # the first call may load code or plan; what a second one takes says more
        last = self._evaluate() if 4 * first < limit_s else first
        peak = None if self.memory is None else self.memory.grown_mb()
        return Prepared(first + (last if self._calls > 1 else 0.0), last, peak)

    def time(self, calls: int, limit_s: float) -> list[float]:
        seconds = [self._evaluate() for _ in range(calls)]
        if sum(seconds) > limit_s:
            raise Unmeasured(f"took longer than {limit_s:.3g} s", too_slow=True)
        return seconds

    def _evaluate(self) -> float:
        """Seconds of one evaluation: energies, forces and stress as they come, neighbour lists included."""
        assert self._case is not None
        self._case.move(self._calls)
        self._calls += 1
        began = self.clock()
        energy, forces = self._case.evaluate()
        taken = self.clock() - began
        if not (np.isfinite(forces).all() and np.isfinite(energy).all()):
            raise Unmeasured("energies or forces are not finite")
        return taken


class _Step:
    """One structure that moves as in dynamics, by the calculator that drives dynamics."""

    def __init__(self, potential: Potential, batch: StructureBatch, still: bool) -> None:
        (self._atoms,) = batch.to_atoms()
        self._calculator = potential.make_calculator()
        self._start = self._atoms.positions.copy()
        swing = np.random.default_rng(0).normal(size=self._start.shape)
        farthest = np.linalg.norm(swing, axis=1).max(initial=1e-9)
        self._swing = swing * (0.0 if still else SWING_A / farthest)

    def move(self, call: int) -> None:
        self._atoms.positions = self._start + np.sin(2 * np.pi * call / SWING_CALLS) * self._swing

    def evaluate(self) -> tuple[float, np.ndarray]:
        self._calculator.calculate(self._atoms)  # everything there is, even where nothing has moved
        return self._calculator.results["energy"], self._calculator.results["forces"]


class _Batch:
    """Structures that do not follow each other."""

    def __init__(self, potential: Potential, batch: StructureBatch) -> None:
        self._potential, self._variants = potential, moved(batch)
        self._now = batch

    def move(self, call: int) -> None:
        self._now = self._variants[call % _VARIANTS]

    def evaluate(self) -> tuple[np.ndarray, np.ndarray]:
        labels = self._potential.evaluate(self._now)
        return labels.energy, labels.forces


def moved(batch: StructureBatch, seed: int = 0) -> list[StructureBatch]:
    """The batch a few times, every atom moved a little."""
    rng = np.random.default_rng(seed)
    shape = batch.positions.shape
    return [
        replace(batch, positions=batch.positions + rng.normal(scale=MOVE_A, size=shape))
        for _ in range(_VARIANTS)
    ]
