"""Where a larger student is no more accurate than a smaller one, and what limits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: a gain below this share of the error is no more than another seed changes
LEAST_GAIN = 0.05
#: a training loss up to this many times that of the smaller student is as low
_AS_LOW = 1.1


@dataclass(frozen=True)
class Sized:
    """A student's size and errors: force RMSE on the test set, meV/Å; training loss at the end, if known."""

    name: str
    parameters: int
    force_rmse: float
    training_loss: float | None = None


@dataclass(frozen=True)
class NoBetter:
    """A student that is no more accurate than a smaller one."""

    larger: Sized
    smaller: Sized

    @property
    def limit(self) -> str | None:
        """``labels`` where it fits the training labels as closely, else ``time``; None where not known."""
        larger, smaller = self.larger.training_loss, self.smaller.training_loss
        if larger is None or smaller is None:
            return None
        return "labels" if larger <= _AS_LOW * smaller else "time"

    def text(self) -> str:
        """What is so, why, and what to do."""
        larger, smaller = self.larger, self.smaller
        curve = f"limbeck learning-curve RUN --preset {larger.name}"
        why = {
            "labels": f"It fits the training labels as closely, so the number of labels limits it: use "
            f"{smaller.name}, or a larger --budget, which labels more ({curve} estimates the gain).",
            "time": f"It fits the training labels less closely, so training time limits it: use "
            f"{smaller.name}, or a larger --budget.",
            None: f"Labels or training time limit it ({curve} measures which): use {smaller.name}, or a "
            "larger --budget.",
        }[self.limit]
        gain = "no" if larger.force_rmse >= smaller.force_rmse else "hardly"
        return (
            f"{larger.name} ({larger.parameters:,} parameters) is {gain} more accurate than {smaller.name} "
            f"({smaller.parameters:,}): force RMSE {larger.force_rmse:.1f} and {smaller.force_rmse:.1f} "
            f"meV/Å. {why}"
        )


def no_better(students: Sequence[Sized]) -> list[NoBetter]:
    """Students that gain less than noise over the most accurate of the smaller ones, the largest first."""
    found = []
    for larger in sorted(students, key=lambda one: -one.parameters):
        smaller = [one for one in students if one.parameters < larger.parameters]
        best = min(smaller, key=lambda one: one.force_rmse, default=None)
        if best is not None and larger.force_rmse > (1 - LEAST_GAIN) * best.force_rmse:
            found.append(NoBetter(larger, best))
    return found
