"""How long a Potential takes: one model, or several that take turns within their limits of time.

Every speed that Limbeck prints is measured here; ``export/runner.py`` alone has a clock of its own, in a
process without a Potential. What is imported is what a teacher's process has: ASE, NumPy.

One structure is evaluated as a step of dynamics does it: by the model's own ASE calculator, atoms a little
farther each time, so that a student keeps its neighbour list as long as it holds. Structures of a batch
do not follow each other: their lists are made anew in each call.

Several models go A B A B, a block of calls each: whatever else the machine does meanwhile strikes all alike.
A model finds the core's caches and branch predictors as the one before left them, so that its first call
takes two to four times as long as those that follow (8 atoms of silicon; 50 ms of an empty loop have the
same effect). Dynamics pays that once; so the first call of a block of several does not count.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from ase import Atoms

from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError
from limbeck.progress import format_seconds

MOVE_A = 1e-2  #: every atom of a batch moves so far between calls, normally distributed: nothing may be kept
_VARIANTS = 4
#: one structure: the atoms swing, the one that goes farthest by this much to either side, in as many calls.
#: Lists kept with the usual skin are then made anew about every 20 calls; dynamics of silicon at 300 to
#: 1500 K, 1 fs a step, makes them every 50 to every 10.
SWING_A, SWING_CALLS = 0.3, 80
_BLOCK_S = 0.05
_MOST_CALLS_A_BLOCK = 200
_LOADING_S = 600.0
#: of models that are open already: a call of many seconds need not be repeated, for its cold start is a
#: small part of it
ROUNDS, ENOUGH_S = 9, 1.0


class Unmeasured(Exception):
    """There is no timing, and the text says why.

    ``too_slow``: larger batches need not be tried.
    """

    def __init__(self, reason: str, *, too_slow: bool = False) -> None:
        super().__init__(reason)
        self.too_slow = too_slow


@dataclass(frozen=True)
class Timing:
    """Seconds of each evaluation of one model, round after round, and the memory that it took.

    Attributes
    ----------
    rounds: one block of evaluations for each round it took part in.
    peak_memory_mb: growth of its process's memory at its peak, from when the model was loaded; None
        where that cannot be told.
    """

    rounds: tuple[tuple[float, ...], ...]
    peak_memory_mb: float | None = None

    @property
    def seconds(self) -> np.ndarray:
        """All evaluations."""
        return np.concatenate([np.asarray(block, float) for block in self.rounds])

    @property
    def median_s(self) -> float:
        """Of one evaluation."""
        return float(np.median(self.seconds))


def break_even_steps(cost_s: float, teacher_s: float, student_s: float) -> int | None:
    """MD steps after which a distillation of ``cost_s`` is paid off, from the seconds per step.

    None where the student is not faster.
    """
    saved = teacher_s - student_s
    return math.ceil(cost_s / saved) if saved > 0 else None


def speedup(slow: Sequence[Sequence[float]], fast: Sequence[Sequence[float]]) -> float:
    """Median over the rounds that both took part in of the ratio of their median times.

    Rounds begin together, so what else the machine does strikes both alike.
    """
    return float(np.median([np.median(a) / np.median(b) for a, b in zip(slow, fast, strict=False)]))


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
        """Seconds of each of ``calls`` evaluations of the batch, its atoms moved before each."""

    def close(self) -> None:  # noqa: B027  (most hold nothing to release)
        """Release what it holds; safe to call twice."""


class Memory(Protocol):
    """Measures how much a piece of work takes."""

    def start(self) -> None: ...
    def grown_mb(self) -> float: ...


class LocalSubject(Subject):
    """A Potential in this process; a call cannot be interrupted, so a limit is noticed after it.

    ``still``: atoms of one structure stay where they are (it is evaluated again all the same).
    """

    def __init__(
        self, potential: Potential, *, clock: Callable[[], float] = time.perf_counter,
        memory: Memory | None = None, still: bool = False,
    ) -> None:  # fmt: skip
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
        self._potential, self._now = potential, batch
        rng = np.random.default_rng(0)
        moves = rng.normal(scale=MOVE_A, size=(_VARIANTS, *batch.positions.shape))
        self._variants = [replace(batch, positions=batch.positions + move) for move in moves]

    def move(self, call: int) -> None:
        self._now = self._variants[call % _VARIANTS]

    def evaluate(self) -> tuple[np.ndarray, np.ndarray]:
        labels = self._potential.evaluate(self._now)
        return labels.energy, labels.forces


@dataclass(frozen=True)
class Limits:
    """How long a measurement may take.

    Attributes
    ----------
    row_s: all calls of one model on one batch, the warm-up included; loading is not counted.
    rounds: at most. enough_s: calls that took so long in all are enough, where there are ``least_calls``.
    least_calls: fewer are no timing; fewer than three have no quartiles.
    deadline, clock: the time of ``clock`` at which the whole benchmark ends; budget_s: said in reasons.
    """

    clock: Callable[[], float] = time.monotonic
    row_s: float = 20.0
    rounds: int = 15
    enough_s: float = 4.0
    least_calls: int = 3
    deadline: float = math.inf
    budget_s: float = math.inf

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self.clock()

    def used_up(self) -> Unmeasured:
        """The reason of a row that the whole benchmark's time did not suffice for."""
        return Unmeasured(f"the benchmark's time, {format_seconds(self.budget_s)}, was used up")


class _Turn:
    """One model's part in a measurement, until there is a timing or a reason why not."""

    def __init__(self, batch: StructureBatch, limits: Limits) -> None:
        self.batch, self.limits = batch, limits
        self.subject: Subject | None = None
        self.prepared: Prepared | None = None
        self.spent_s = 0.0
        self.blocks: list[tuple[float, ...]] = []
        self.result: Timing | Unmeasured | None = None

    def attempt(self, part: Callable[[Subject], bool]) -> None:
        """Do a part, unless there is a result; it tells whether the measurement is complete."""
        if self.result is not None or self.subject is None:
            return
        try:
            if self.prepared is None and self.limits.left() <= 0:
                raise self.limits.used_up()
            if part(self.subject):
                self.settle()
        except Unmeasured as reason:
            self.settle(reason)

    def load(self, subject: Subject) -> bool:
        subject.wait(min(_LOADING_S, self.limits.left()))
        return False

    def warm_up(self, subject: Subject) -> bool:
        row_s = self.limits.row_s
        prepared = subject.prepare(self.batch, min(row_s, self.limits.left()))
        if prepared.spent_s > row_s:
            raise Unmeasured(f"the first call takes longer than {row_s:.3g} s", too_slow=True)
        self.prepared, self.spent_s = prepared, prepared.spent_s
        return False

    def run_block(self, subject: Subject) -> bool:
        assert self.prepared is not None
        left = min(self.limits.row_s - self.spent_s, self.limits.left())
        if left <= 0:
            return True
        calls = min(_MOST_CALLS_A_BLOCK, max(1, math.ceil(_BLOCK_S / max(self.last_s, 1e-9))))
        cold = 1 if calls > 1 else 0  # of a call as long as a block, cold caches are a small part
        seconds = subject.time(cold + calls, left)
        self.blocks.append(tuple(seconds[cold:]))
        self.spent_s += sum(seconds)
        timed = self.spent_s - self.prepared.spent_s
        return self.calls >= self.limits.least_calls and timed >= self.limits.enough_s

    @property
    def last_s(self) -> float:
        """What a call takes, by the latest calls."""
        assert self.prepared is not None
        return statistics.median(self.blocks[-1]) if self.blocks else self.prepared.last_s

    @property
    def calls(self) -> int:
        return sum(map(len, self.blocks))

    def settle(self, reason: Unmeasured | None = None) -> None:
        """The timing, as far as there are calls enough for one, else why there is none."""
        if self.prepared is None:
            assert reason is not None
            self.result = self.limits.used_up() if self.limits.left() <= 0 else reason
        elif reason is not None and not reason.too_slow:
            self.result = reason
        elif self.calls >= self.limits.least_calls:
            self.result = Timing(tuple(self.blocks), self.prepared.peak_memory_mb)
        elif self.limits.left() <= 0:
            self.result = self.limits.used_up()
        else:
            self.result = Unmeasured(
                f"a call takes {self.last_s:.3g} s: {self.limits.least_calls} and a warm-up do not fit into "
                f"{self.limits.row_s:.3g} s",
                too_slow=True,
            )


def measure_in_turns(
    opens: Sequence[Callable[[], Subject]], batch: StructureBatch, limits: Limits
) -> list[tuple[Timing | Unmeasured, int | None]]:
    """The timing of each model, or why there is none; and its number of parameters where it was loaded.

    All are loaded side by side, and no call begins before all are loaded.

    Parameters
    ----------
    opens: each makes a model's Subject, whose loading may go on; raises Unmeasured where it cannot.
    """
    turns = [_Turn(batch, limits) for _ in opens]
    try:
        for turn, make in zip(turns, opens, strict=True):
            try:
                turn.subject = make()
            except Unmeasured as reason:
                turn.result = reason
        for turn in turns:
            turn.attempt(turn.load)
        for turn in turns:
            turn.attempt(turn.warm_up)
        for _ in range(limits.rounds):
            for turn in turns:
                turn.attempt(turn.run_block)
        for turn in turns:
            turn.attempt(lambda subject: True)
    finally:
        for turn in turns:
            if turn.subject is not None:
                turn.subject.close()
    found = []
    for turn in turns:
        assert turn.result is not None
        found.append((turn.result, turn.subject.parameters if turn.subject else None))
    return found


def time_in_turns(potentials: Sequence[Potential], atoms: Atoms) -> list[Timing]:
    """Timings of steps of dynamics with each Potential, open already, taken in alternating blocks.

    ``limbeck bench`` gives each model a process of its own, so that memory can be told apart and slow ones
    ended. Here the models stay where they are: to load a teacher again takes longer than all of this. A
    teacher in a worker process answers through its pipe, which takes about 0.2 ms of a call.

    Raises
    ------
    LimbeckError: energies or forces that are not finite; what a Potential raises.
    """
    opens = [functools.partial(LocalSubject, potential) for potential in potentials]
    limits = Limits(row_s=math.inf, rounds=ROUNDS, enough_s=ENOUGH_S, least_calls=1)
    found = measure_in_turns(opens, StructureBatch.from_atoms([atoms]), limits)
    return require_timings([potential.name for potential in potentials], found)


def require_timings(
    names: Sequence[str], found: Sequence[tuple[Timing | Unmeasured, int | None]]
) -> list[Timing]:
    """The timings alone; LimbeckError where a model has none."""
    timings = []
    for name, (result, _) in zip(names, found, strict=True):
        if isinstance(result, Unmeasured):
            raise LimbeckError("no speed could be measured", where=name, got=str(result))
        timings.append(result)
    return timings


def seconds_per_step(potential: Potential, atoms: Atoms, calls: int = 3) -> float:
    """Seconds that a step of dynamics takes, the integrator's own not counted: a median after warm-up."""
    subject = LocalSubject(potential)
    subject.prepare(StructureBatch.from_atoms([atoms]), 0.0)
    return max(statistics.median(subject.time(calls, math.inf)), 1e-6)


def seconds_per_label(potential: Potential, atoms: Atoms, structures: int) -> float:
    """Seconds a structure of several (two or more) given at once, so that all workers are at work."""
    potential.evaluate(StructureBatch.from_atoms([atoms]))  # warms up
    batch = StructureBatch.from_atoms([atoms] * structures)
    return max(LocalSubject(potential).prepare(batch, 0.0).last_s / structures, 1e-6)
