"""Learning rate and loss weights as functions of the fraction of the run that is done."""

from __future__ import annotations

import math


def learning_rate(done: float, peak: float, warmup: float) -> float:
    """Linear warm-up, then half a cosine down to one thousandth of the peak at ``done`` = 1."""
    done = min(max(done, 0.0), 1.0)
    if done < warmup:
        return peak * max(done / warmup, 0.01)
    fall = (done - warmup) / (1 - warmup)
    return peak * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * fall)))


def energy_weight(done: float, ends: tuple[float, float]) -> float:
    """Geometric from the first to the second value over the last half of the run."""
    first, last = ends
    if first <= 0 or last <= 0:
        return last if done > 0.5 else first
    rise = min(max(2 * done - 1, 0.0), 1.0)
    return first * (last / first) ** rise
