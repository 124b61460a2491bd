"""Progress of long tasks: bars in a terminal, occasional lines elsewhere. Stages call a :class:`Progress`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TextIO

Say = Callable[[str], None]  #: shows a line to the user
_MOST_LINES = 5


class Progress(Protocol):
    """Called by a stage to report progress."""

    def __call__(self, task: str, done: int, total: int | None = None, text: str = "") -> None:
        """``done`` of ``total`` units (None: unknown) of ``task`` are finished; ``text`` adds values.

        A task begins with its first call and ends when ``done`` reaches ``total`` or another begins.
        """


def no_progress(task: str, done: int, total: int | None = None, text: str = "") -> None:
    """The default of stages called from Python: no output."""


def say_nothing(line: str) -> None:
    """For messages that were shown when the work was done."""


def say_some(say: Say, lines: Sequence[str], what: str) -> None:
    """The first few of ``lines``, and how many more there are of ``what``."""
    for line in lines[:_MOST_LINES]:
        say(line)
    if len(lines) > _MOST_LINES:
        say(f"... and {len(lines) - _MOST_LINES} more {what}")


def format_seconds(seconds: float) -> str:
    """``42 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_figure(value: float, digits: int = 3) -> str:
    """A number to ``digits`` significant digits, without a power of ten if large: ``1,470``, ``0.716``."""
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if "e+" in text else text


def process_start() -> float:
    """``time.monotonic()`` at the start of this process, from /proc; else now."""
    now = time.monotonic()
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as handle:
            ticks = int(handle.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return now
    # Sandboxes may count ticks from another start; no interpreter takes ten minutes to get here.
    return now - age if 0 <= age < 600 else now


class _Clock:
    """Time left for one task, from the units done since its first call (a resumed run starts with some)."""

    def __init__(self, task: str, done: int) -> None:
        self.task, self.first, self.start = task, done, time.monotonic()

    def left(self, done: int, total: int | None) -> float | None:
        if total is None or done <= self.first:
            return None
        return (time.monotonic() - self.start) * (total - done) / (done - self.first)


class LineProgress(AbstractContextManager["LineProgress"]):
    """Plain lines, at most one in ``every_s`` seconds a task, in addition to its first and last."""

    def __init__(self, stream: TextIO | None = None, every_s: float = 15.0) -> None:
        self.stream, self.every_s = stream, every_s
        self._clock: _Clock | None = None
        self._last = 0.0
        self._shown: int | None = None

    def __exit__(self, *_: object) -> None:
        self._clock = None

    def __call__(self, task: str, done: int, total: int | None = None, text: str = "") -> None:
        now = time.monotonic()
        if self._clock is None or self._clock.task != task:
            self._clock = _Clock(task, done)
        elif done == self._shown or (done != total and now - self._last < self.every_s):
            return
        self._last, self._shown = now, done
        count = f"{done}/{total}" if total is not None else str(done)
        left = self._clock.left(done, total)
        time_left = f"{format_seconds(left)} left" if left and done != total else ""
        line = "  ".join(part for part in (f"{task}: {count}", time_left, text) if part)
        # sys.stderr is looked up here, to follow later redirections
        print(line, file=self.stream or sys.stderr, flush=True)


class BarProgress(AbstractContextManager["BarProgress"]):
    """One rich bar a task on stderr, with the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=Console(stderr=True),
        )
        self._ids: dict[str, Any] = {}

    def __enter__(self) -> BarProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, task: str, done: int, total: int | None = None, text: str = "") -> None:
        if task not in self._ids:
            self._ids[task] = self._bars.add_task(task, total=total, text=text)
        self._bars.update(self._ids[task], completed=done, total=total, text=text)


def open_progress() -> LineProgress | BarProgress:
    """Bars where stderr is a terminal, plain lines otherwise; a context manager and a Progress."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()
