"""What a command tells its user besides progress: lines, and long lists cut short."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Say = Callable[[str], None]
_MOST_LINES = 5


def say_nothing(line: str) -> None:
    """For what was said when the work was done."""


def say_some(say: Say, lines: Sequence[str], what: str) -> None:
    """The first few of ``lines``, and how many more there are of ``what``."""
    for line in lines[:_MOST_LINES]:
        say(line)
    if len(lines) > _MOST_LINES:
        say(f"... and {len(lines) - _MOST_LINES} more {what}")
