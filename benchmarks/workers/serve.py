"""Common part of the benchmark workers; imports only the standard library.

A worker reads one JSON request per line from standard input and answers each with one line:
``{"do": "describe"}``, ``{"do": "open", "model": ..., "case": ...}`` and
``{"do": "time", "model": ..., "case": ..., "seconds": ...}``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Opened:
    """A step to time, and facts about the model."""

    step: Callable[[], object]
    facts: dict[str, Any] = field(default_factory=dict)


#: model and case -> step to time
OpenModel = Callable[[str, dict[str, Any]], Opened]


def serve(open_model: OpenModel, describe: Callable[[], dict[str, Any]]) -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # keep the output of packages out of the protocol
    os.dup2(2, 1)
    opened: dict[tuple[str, str], Opened] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "describe":
            answer = describe()
        else:
            key = (request["model"], request["case"]["name"])
            if key not in opened:
                opened[key] = open_model(request["model"], request["case"])
            if request["do"] == "open":
                answer = opened[key].facts
            else:
                answer = time_block(opened[key].step, request["seconds"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def time_block(step: Callable[[], object], seconds: float) -> dict[str, Any]:
    """Steps for about ``seconds``, at least three, after one warm-up step that refills the caches."""
    step()
    steps, began, cpu = 0, time.perf_counter(), time.process_time()
    while steps < 3 or time.perf_counter() - began < seconds:
        step()
        steps += 1
    # not the median: on a busy machine a short step often escapes an interruption, a long one never does
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"steps": steps, "step_s": wall / steps, "cpu_s": cpu / steps}
