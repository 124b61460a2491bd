"""One model in this process, evaluated and timed; imports only what a teacher's process has: ASE, NumPy."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from limbeck.benchmark.memory import PeakMemory
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch

MOVE_A = 1e-2  #: every atom moves so far between calls, normally distributed: nothing may be kept
_VARIANTS = 4


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
    """A Potential in this process; a call cannot be interrupted, so a limit is noticed after it."""

    def __init__(
        self,
        potential: Potential,
        *,
        clock: Callable[[], float] = time.perf_counter,
        memory: PeakMemory | None = None,
    ) -> None:
        self.potential, self.clock, self.memory = potential, clock, memory
        self._variants: list[StructureBatch] = []
        self._calls = 0

    def prepare(self, batch: StructureBatch, limit_s: float) -> Prepared:
        self._variants = moved(batch)
        if self.memory is not None:
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
        batch = self._variants[self._calls % len(self._variants)]
        self._calls += 1
        began = self.clock()
        labels = self.potential.evaluate(batch)
        taken = self.clock() - began
        if not (np.isfinite(labels.forces).all() and np.isfinite(labels.energy).all()):
            raise Unmeasured("energies or forces are not finite")
        return taken


def moved(batch: StructureBatch, seed: int = 0) -> list[StructureBatch]:
    """The batch a few times, every atom moved a little."""
    rng = np.random.default_rng(seed)
    shape = batch.positions.shape
    return [
        replace(batch, positions=batch.positions + rng.normal(scale=MOVE_A, size=shape))
        for _ in range(_VARIANTS)
    ]
