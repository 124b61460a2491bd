"""What a run has spent of its time and has left: the only arithmetic on time of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

LEAST_TRAINING_S = 5.0
#: how training time is shared among presets: the larger ones are slower a step
PRESET_SHARES = {"original": 5.0, "tiny": 2.0, "ultra-tiny": 1.5}
#: of a stage's time, what its dynamics may take beyond the plan: more trajectories than there will be labels
#: for cost little, and too few cost labels
_SLACK = 0.1
#: of the training time, for what comes before the first iteration of active learning: with few labels,
#: students are soon as good as those labels make them
FIRST_SHARE = 0.3
#: of an iteration's time: training gets at least so much, labels so much, and the runs at most so much
#: unless they are the last; where they would take longer, fewer are done
_TRAINING_SHARE, _LABELS_SHARE, _RUNS_SHARE = 0.3, 0.15, 0.3


class TimeBudget:
    """The time of a run, over all its interruptions.

    Parameters
    ----------
    budget_s: for the whole command; None where training ends by epochs: nothing is bounded then, and what
        is left is infinite.
    before_s: spent by earlier runs in the same folder.
    began: the value of ``now`` that this run counts from; the present one unless given.
    now: the clock.
    """

    def __init__(
        self,
        budget_s: float | None,
        *,
        before_s: float = 0.0,
        began: float | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.budget_s, self._before_s = budget_s, before_s
        self.now = now or time.monotonic
        self.began = self.now() if began is None else began

    @property
    def spent_s(self) -> float:
        """Seconds of this and all earlier runs in the folder."""
        return self._before_s + self.now() - self.began

    def left_s(self, reserved_s: float = 0.0) -> float:
        """Seconds left beside those that are ``reserved_s`` for what follows; below 0 after the end."""
        return math.inf if self.budget_s is None else self.budget_s - self.spent_s - reserved_s

    def part(self, seconds: float) -> TimeBudget:
        """A budget of its own, from now on; without a bound where that is infinite."""
        return TimeBudget(seconds if math.isfinite(seconds) else None, now=self.now)

    def moment(self, seconds: float) -> float | None:
        """The value of ``now`` in that number of seconds; None where that is infinite."""
        return self.now() + seconds if math.isfinite(seconds) else None

    def training_s(self, presets: Sequence[str], reserved_s: float = 0.0) -> float:
        """What the first of the ``presets`` still to train gets of the time left."""
        return share(self.left_s(reserved_s), presets)[presets[0]]

    def training_ends(self, presets: Sequence[str], reserved_s: float = 0.0) -> float | None:
        """When training the first of the ``presets`` must end; it gets a little in any case."""
        return self.moment(max(self.training_s(presets, reserved_s), LEAST_TRAINING_S))

    def stage_ends(
        self, until_s: float, stages: Sequence[tuple[float, float]], training_s: float
    ) -> tuple[float, float]:
        """Until when, in seconds spent, the dynamics and the labels of the first of the ``stages`` may last.

        What is left when it begins is divided as the plan divides it, whatever came of the plan before.

        Parameters
        ----------
        until_s: seconds spent at which the last stage ends. stages: planned seconds of dynamics and of
            labels. training_s: of the interim students that learn between the stages.
        """
        now = self.spent_s
        making_s, labelling_s = stages[0]
        planned_s = max(making_s + labelling_s, 1e-9)
        stage_s = max(0.0, until_s - now - training_s) * planned_s / max(sum(map(sum, stages)), 1e-9)
        return now + stage_s * min(1.0, making_s / planned_s + _SLACK), now + stage_s

    def iteration_training_s(self, number: int, last: int, runs_s: float, reserved_s: float = 0.0) -> float:
        """What training may take in iteration ``number`` of active learning.

        ``runs_s``: what the runs of all students take where they last to the end.
        """
        if number == 0:
            return FIRST_SHARE * self.left_s(reserved_s)
        own_s = self.left_s(reserved_s) / (last - number + 1)
        return max(_TRAINING_SHARE * own_s, (1 - _LABELS_SHARE) * own_s - runs_s)

    def iteration_runs_s(self, number: int, last: int, students: int, reserved_s: float = 0.0) -> float:
        """What the runs of the next of ``students`` still to run may take in iteration ``number``."""
        own_s = self.left_s(reserved_s) / (last - number + 1)
        return max((1.0 if number == last else _RUNS_SHARE) * own_s / students, LEAST_TRAINING_S)


def share(seconds: float, presets: Sequence[str]) -> dict[str, float]:
    """Training time by preset."""
    whole = sum(PRESET_SHARES[p] for p in presets)
    return {p: seconds * PRESET_SHARES[p] / whole for p in presets}
