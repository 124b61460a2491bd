"""Lengths of time as people write them: ``90s``, ``20m``, ``1h30m``, or plain seconds."""

from __future__ import annotations

import math
import re

from limbeck.errors import InputError

_DURATION = re.compile(
    r"(?=.)(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?", re.ASCII
)
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def parse_budget(value: object) -> float:
    """Seconds, to the millisecond.

    Raises
    ------
    InputError: not a duration, or shorter than one second.
    """
    seconds = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (match := _DURATION.fullmatch("".join(value.lower().split()))):
        seconds = sum(float(number) * _SECONDS[unit] for unit, number in match.groupdict("0").items())
    if not math.isfinite(seconds):
        raise InputError("not a length of time", got=repr(value), wanted="such as 90s, 20m or 1h30m")
    if seconds < 1:
        raise InputError("the budget is too short", got=f"{seconds:g} s", wanted="one second or more")
    return round(seconds, 3)


def format_budget(seconds: float) -> str:
    """The shortest text that :func:`parse_budget` reads back exactly: ``20m``, ``1h30m``, ``90.5s``."""
    whole = int(seconds)
    if whole != seconds:
        return f"{seconds:.3f}".rstrip("0") + "s"
    parts = ((whole // 3600, "h"), (whole % 3600 // 60, "m"), (whole % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number)
