"""Which runs of a step are made where time is short: fewer, but whole ones."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

#: the time of an evaluation is a mean that forgets within this part of a run, so that it follows the load
_MEMORY = 0.25
_LEAST_MEMORY = 8  # evaluations


@dataclass(frozen=True)
class TimeLimit:
    """When a sampling must have ended.

    left_s: seconds until then; below 0 after it. The only clock that a sampling knows.
    planned_s: driver -> seconds that one of its evaluations was expected to take.
    labels: by then its frames must have labels too, from the Potential that drove them.
    """

    left_s: Callable[[], float]
    planned_s: Mapping[str, float] = field(default_factory=dict)
    labels: bool = False


@dataclass(frozen=True)
class Effort:
    """What a run takes.

    evaluations: of the Potential, at most. first: until it has its first frame.
    group: the runs of a group stand for each other (all starts at one temperature); each group should
        have one. labels: of its frames, which come later from the same Potential in the same time.
    """

    evaluations: int
    first: int
    group: int = 0
    labels: int = 0


class Turn:
    """A run at work: told of each evaluation, it says when the run must end."""

    def __init__(self, schedule: Schedule, index: int, left_s: float, left_at_end_s: float) -> None:
        self.index, self.taken = index, 0
        self._schedule, self._effort = schedule, schedule.efforts[index]
        self._last, self._left_at_end = left_s, left_at_end_s

    def tick(self) -> None:
        """An evaluation is done."""
        left = self._schedule.left_s()
        # what leads to the first is not like the others: dynamics evaluates its start as well
        seconds = self._last - left if self.taken else None
        self._schedule.took(seconds, self._effort.labels / self._effort.evaluations)
        self._last, self.taken = left, self.taken + 1

    def over(self) -> bool:
        """Whether it must end with the frames it has."""
        left = self._last - self._schedule.owed_s
        if left <= 0.0:
            return True
        missing = self._effort.first - self.taken
        # past its slice it goes on to its first frame, where the time of all others allows it
        return left <= self._left_at_end and (missing <= 0 or missing * self._schedule.seconds > left)

    @property
    def reached(self) -> bool:
        """Whether it came to its first frame."""
        return self.taken >= self._effort.first


class Schedule:
    """Hands out the runs of a step, to several threads, as long as they can be whole in the time left.

    Each run is weighed when its turn comes, by what evaluations take at that time, so that more or fewer
    are made when the load changes. The first run of each group comes before all others and is made
    shorter rather than left out: such runs share the time evenly, as far as each comes to a frame at all.

    efforts: of all runs. order: those to make, best first. covered: groups that have a run already.
    left_s: seconds left; None for no limit. owed: labels that earlier frames still need in that time.
    needed: no run may be left out.
    """

    def __init__(
        self,
        efforts: Sequence[Effort],
        order: Sequence[int],
        threads: int,
        left_s: Callable[[], float] | None,
        covered: frozenset[int] = frozenset(),
        owed: float = 0.0,
        needed: bool = False,
    ) -> None:
        self.efforts, self.threads, self.needed = efforts, threads, needed
        self.left_s = left_s or (lambda: math.inf)
        self._measured = left_s is not None
        self.seconds = 0.0  #: what an evaluation takes now; 0 before the first
        self.spent_s, self.evaluations, self.owed = 0.0, 0, owed
        self._reached = bool(covered)
        first = {efforts[k].group: k for k in reversed(order) if efforts[k].group not in covered}
        self._opening = set(first.values())
        self._todo = deque(sorted(order, key=lambda k: k not in self._opening))
        self._at_work = 0
        self._changed = threading.Condition()

    def take(self) -> Turn | None:
        """The next run to make, or None once none can be made whole; waits where that may change."""
        with self._changed:
            while self._todo:
                if self._fits(self._todo[0]):
                    self._at_work += 1
                    return self._begin(self._todo.popleft())
                if not self._at_work:
                    return None
                self._changed.wait()
            return None

    def finish(self, turn: Turn) -> None:
        """To be called after every turn, however it ended."""
        with self._changed:
            self._at_work -= 1
            self._reached |= turn.reached
            self._changed.notify_all()

    def give_up(self) -> None:
        """No further run is begun."""
        with self._changed:
            self._todo.clear()

    @property
    def owed_s(self) -> float:
        """What the labels of the frames so far will take."""
        return self.owed * self.seconds / self.threads

    def took(self, seconds: float | None, labels: float) -> None:
        """An evaluation took this long; this number of labels (a part of one) is owed for what it made."""
        with self._changed:
            if self._measured:
                self.owed += labels
            if not self._measured or seconds is None:
                return
            self.evaluations += 1
            self.spent_s += seconds
            memory = max(_LEAST_MEMORY, int(_MEMORY * max(e.evaluations for e in self.efforts)))
            self.seconds += (seconds - self.seconds) / min(self.evaluations, memory)

    def _fits(self, k: int) -> bool:
        if self.needed or not self._measured:
            return True
        effort, left = self.efforts[k], self.left_s() - self.owed_s
        if k not in self._opening:
            return left > 0.0 and (effort.evaluations + effort.labels / self.threads) * self.seconds <= left
        # where no run comes to a frame, each group has at least its run's last state
        return not self._reached or (left > 0.0 and effort.first * self.seconds <= left)

    def _begin(self, k: int) -> Turn:
        now, left_at_end = self.left_s(), -math.inf
        if k in self._opening and self._measured:
            waves = -(-len(self._opening) // self.threads)  # of those that run side by side
            left_at_end = (now - self.owed_s) * (1 - 1 / waves)
        self._opening.discard(k)
        return Turn(self, k, now, left_at_end)


def even_order(groups: Sequence[int], starts: Sequence[int]) -> list[int]:
    """Runs in an order whose every beginning covers the groups, and in each group the starts, evenly."""
    members: dict[int, dict[int, list[int]]] = {}
    for k, (group, start) in enumerate(zip(groups, starts, strict=True)):
        members.setdefault(group, {}).setdefault(start, []).append(k)
    rows = []
    for turned, by_start in enumerate(members.values()):
        spread = _scattered(list(by_start.values()))
        turned %= len(spread)  # groups begin with different starts
        rows.append(_by_turns(spread[turned:] + spread[:turned]))
    return _by_turns(_scattered(rows))


def _by_turns(rows: Sequence[Sequence[T]]) -> list[T]:
    """The first of each row, then the second of each."""
    longest = max(map(len, rows), default=0)
    return [row[k] for k in range(longest) for row in rows if k < len(row)]


def _scattered(items: Sequence[T]) -> list[T]:
    """In the order of their reversed binary digits: halves, quarters, eighths (van der Corput)."""
    return [items[k] for k in sorted(range(len(items)), key=lambda k: f"{k:064b}"[::-1])]
