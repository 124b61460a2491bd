"""What limits a student: labels, training time or capacity, from how its error falls with each.

Errors fall as powers of the number of labels, of the computation and of the parameters while each is the
bottleneck, and level off where another one is (Hestness et al. 2017, arXiv:1712.00409; Kaplan et al.
2020, arXiv:2001.08361). So the rule asks of each resource what doubling it would still gain:

    s = -d ln(error) / d ln(resource)     least squares over the points nearest to the student
    gain = 1 - 2^-s                       the share of the error that a doubling takes away

Doublings are compared because twice the labels, twice the time and twice the parameters each cost about
twice as much. The largest gain names the limit if it exceeds what another seed alone changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESOURCES = ("labels", "time", "width")
LIMITS = {"labels": "data", "time": "budget", "width": "capacity"}
#: a gain below this is no more than another seed or another half of the labels changes
LEAST_GAIN = 0.05
#: a gain of this share of the largest is named beside it
CLOSE = 0.7
#: points nearest to the student decide: further away another resource may have been the bottleneck
NEAREST = 3
_DOUBLING = {"labels": "labels", "time": "the training time", "width": "the parameters"}


@dataclass(frozen=True)
class Limit:
    """Which resource limits the student.

    Attributes
    ----------
    limit: data, budget, capacity, none (all gains are small) or unknown (nothing was measured).
    gains, slopes: of each resource that was measured at two points or more. text: one sentence.
    """

    limit: str
    gains: Mapping[str, float]
    slopes: Mapping[str, float]
    text: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "limit": self.limit, "gain_of_doubling": dict(self.gains), "slopes": dict(self.slopes),
            "text": self.text, "least_gain": LEAST_GAIN,
        }  # fmt: skip


def fit_slope(resource: Sequence[float], error: Sequence[float]) -> float:
    """-d ln(error)/d ln(resource) by least squares; positive where more of it helps."""
    return -float(np.polyfit(np.log(resource), np.log(error), 1)[0])


def find_limit(
    name: str, force_rmse_mev_per_a: float, curves: Mapping[str, Sequence[tuple[float, float]]]
) -> Limit:
    """What limits the student called ``name``.

    Parameters
    ----------
    force_rmse_mev_per_a: its error. curves: resource -> (amount, force RMSE) of each point, the student's
        own among them; for ``width`` the amount is the number of parameters, and points above the
        student count alone where there are any: a narrower student says little of a wider one.
    """
    slopes = {}
    for resource in RESOURCES:
        points = sorted((x, e) for x, e in curves.get(resource, ()) if x > 0 and np.isfinite(e) and e > 0)
        nearest = points[-NEAREST:]  # the largest amounts, or of widths those from the student's own on
        if resource == "width":
            own = next((k for k, (_, error) in enumerate(points) if error == force_rmse_mev_per_a), 0)
            nearest = points[own:][:NEAREST] if len(points) >= own + 2 else points[-2:]
        if len({x for x, _ in nearest}) >= 2:
            slopes[resource] = fit_slope(*zip(*nearest, strict=True))
    gains = {resource: 1 - 2.0**-slope for resource, slope in slopes.items()}
    if not gains:
        return Limit("unknown", {}, {}, f"What limits {name} is not known: no curve has two points.")
    limit, text = _judge(name, force_rmse_mev_per_a, gains)
    return Limit(limit, gains, slopes, text)


def _judge(name: str, error: float, gains: Mapping[str, float]) -> tuple[str, str]:
    ordered = sorted(gains, key=lambda resource: -gains[resource])
    first = ordered[0]
    now = f"now {error:.1f} meV/Å"
    others = [f"{_DOUBLING[r]} by {_change(gains[r])}" for r in ordered[1:]]
    unmeasured = [_DOUBLING[r] for r in RESOURCES if r not in gains]
    beside = f"; doubling {', '.join(others)}" if others else ""
    beside += f" ({', '.join(unmeasured)}: not measured)" if unmeasured else ""
    if gains[first] < LEAST_GAIN:
        return "none", (
            f"None of labels, time and capacity limits {name} by itself: its force RMSE, {now}, has levelled "
            f"off; doubling {_DOUBLING[first]} changes it by {_change(gains[first])}{beside}."
        )
    close = [r for r in ordered[1:] if gains[r] >= max(CLOSE * gains[first], LEAST_GAIN)]
    and_close = f" (with {' and '.join(LIMITS[r] for r in close)} close behind)" if close else ""
    return LIMITS[first], (
        f"{LIMITS[first].capitalize()} limits {name}{and_close}: doubling {_DOUBLING[first]} changes its "
        f"force RMSE, {now}, by {_change(gains[first])}{beside}."
    )


def _change(gain: float) -> str:
    # a wider network that has hardly begun in the same time may be a thousand times worse
    return f"{-100 * gain:+.0f}%" if gain > -1 else "more than +100%"
