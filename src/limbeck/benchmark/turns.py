"""Several models on one batch, measured in turns, each within its limit of time.

A B A B, a block of calls each: whatever else the machine does meanwhile strikes all alike. A model finds
the core's caches and branch predictors as the one before left them, so that its first call takes two to
four times as long as those that follow (8 atoms of silicon; 50 ms of an empty loop have the same effect).
Dynamics pays that once; so the first call of a block of several does not count.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from limbeck.benchmark.rows import Timing
from limbeck.core.structures import StructureBatch
from limbeck.core.timing import Prepared, Subject, Unmeasured
from limbeck.progress import format_seconds

LEAST_CALLS = 3  #: fewer have no quartiles
_BLOCK_S = 0.05
_MOST_CALLS_A_BLOCK = 200
_LOADING_S = 600.0

_T = TypeVar("_T")
#: makes a model's Subject, whose loading may go on; raises Unmeasured where it cannot
Open = Callable[[], Subject]


@dataclass(frozen=True)
class Limits:
    """How long a measurement may take.

    Attributes
    ----------
    row_s: all calls of one model on one batch, the warm-up included; loading is not counted.
    rounds: at most. enough_s: calls that took so long in all are enough, where there are ``least_calls``.
    least_calls: fewer are no timing.
    deadline, clock: the time of ``clock`` at which the whole benchmark ends; budget_s: said in reasons.
    """

    clock: Callable[[], float]
    row_s: float = 20.0
    rounds: int = 15
    enough_s: float = 4.0
    least_calls: int = LEAST_CALLS
    deadline: float = math.inf
    budget_s: float = math.inf

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self.clock()

    def used_up(self) -> Unmeasured:
        """The reason of a row that the whole benchmark's time did not suffice for."""
        return Unmeasured(f"the benchmark's time, {format_seconds(self.budget_s)}, was used up")


@dataclass
class _Turn:
    """One model's part in a measurement."""

    subject: Subject
    prepared: Prepared
    spent_s: float
    blocks: list[tuple[float, ...]] = field(default_factory=list)

    @property
    def last_s(self) -> float:
        """What a call takes, by the latest calls."""
        return statistics.median(self.blocks[-1]) if self.blocks else self.prepared.last_s

    @property
    def calls(self) -> int:
        return sum(map(len, self.blocks))


def measure_in_turns(
    opens: Sequence[Open], batch: StructureBatch, limits: Limits
) -> list[tuple[Timing | Unmeasured, int | None]]:
    """The timing of each model, or why there is none; and its number of parameters where it was loaded.

    All are loaded side by side, and no call begins before all are loaded.
    """
    subjects: list[Subject] = []
    results: dict[int, Timing | Unmeasured] = {}
    at_work: dict[int, _Turn] = {}
    loaded: dict[int, Subject] = {}
    try:
        for k, make in enumerate(opens):
            try:
                loaded[k] = make()
            except Unmeasured as reason:
                results[k] = reason
            else:
                subjects.append(loaded[k])
        for k, subject in loaded.items():
            _try(results, k, functools.partial(_load, subject, limits))
        for k in [k for k in loaded if k not in results]:
            turn = _try(results, k, functools.partial(_begin, loaded[k], batch, limits))
            if turn is not None:
                at_work[k] = turn
        _take_turns(at_work, results, limits)
    finally:
        for subject in subjects:
            subject.close()
    return [(results[k], loaded[k].parameters if k in loaded else None) for k in range(len(opens))]


def _load(subject: Subject, limits: Limits) -> None:
    if limits.left() <= 0:
        raise limits.used_up()
    try:
        subject.wait(min(_LOADING_S, limits.left()))
    except Unmeasured as reason:
        raise limits.used_up() if limits.left() <= 0 else reason from None


def _begin(subject: Subject, batch: StructureBatch, limits: Limits) -> _Turn:
    """Warm up."""
    if limits.left() <= 0:
        raise limits.used_up()
    try:
        prepared = subject.prepare(batch, min(limits.row_s, limits.left()))
    except Unmeasured as reason:
        raise limits.used_up() if limits.left() <= 0 else reason from None
    if prepared.spent_s > limits.row_s:
        raise Unmeasured(f"the first call takes longer than {limits.row_s:.3g} s", too_slow=True)
    return _Turn(subject, prepared, prepared.spent_s)


def _take_turns(at_work: dict[int, _Turn], results: dict[int, Timing | Unmeasured], limits: Limits) -> None:
    for _ in range(limits.rounds):
        for k, turn in list(at_work.items()):
            try:
                done = _one_block(turn, limits)
            except Unmeasured as reason:
                results[k] = _settle(turn, limits, reason)
                done = True
            if done:
                results.setdefault(k, _settle(turn, limits, None))
                del at_work[k]
    for k, turn in at_work.items():
        results[k] = _settle(turn, limits, None)


def _one_block(turn: _Turn, limits: Limits) -> bool:
    """A block of calls; whether they are enough."""
    left = min(limits.row_s - turn.spent_s, limits.left())
    if left <= 0:
        return True
    calls = min(_MOST_CALLS_A_BLOCK, max(1, math.ceil(_BLOCK_S / max(turn.last_s, 1e-9))))
    cold = 1 if calls > 1 else 0  # of a call as long as a block, cold caches are a small part
    seconds = turn.subject.time(cold + calls, left)
    turn.blocks.append(tuple(seconds[cold:]))
    turn.spent_s += sum(seconds)
    timed = turn.spent_s - turn.prepared.spent_s
    return turn.calls >= limits.least_calls and timed >= limits.enough_s


def _settle(turn: _Turn, limits: Limits, reason: Unmeasured | None) -> Timing | Unmeasured:
    """The timing, as far as there are calls enough for one."""
    if reason is not None and not reason.too_slow:
        return reason
    if turn.calls >= limits.least_calls:
        return Timing(tuple(turn.blocks), turn.prepared.peak_memory_mb)
    if limits.left() <= 0:
        return limits.used_up()
    return Unmeasured(
        f"a call takes {turn.last_s:.3g} s: {limits.least_calls} and a warm-up do not fit into "
        f"{limits.row_s:.3g} s",
        too_slow=True,
    )


def _try(results: dict[int, Timing | Unmeasured], k: int, work: Callable[[], _T]) -> _T | None:
    """What ``work`` returns; None, with the reason noted, where it raises one."""
    try:
        return work()
    except Unmeasured as reason:
        results[k] = reason
        return None
