"""A training run as seen from outside: where it is, when it ends, what comes of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np


@dataclass
class Progress:
    """Where a run is. ``spent_s`` counts training time only and survives interruption.

    ``restarts``: how often the gradient was not finite and training went back to its best weights;
    ``optimizer_steps``: steps since then. ``training_loss``: mean over the batches before the last check.
    """

    step: int = 0
    epoch: int = 0
    batch_in_epoch: int = 0
    labels_seen: int = 0
    spent_s: float = 0.0
    checks_done: int = 0
    best_score: float = float("inf")
    best_step: int = 0
    restarts: int = 0
    optimizer_steps: int = 0
    finished: bool = False
    training_loss: float | None = None


@dataclass(frozen=True)
class Stop:
    """When a run ends: after ``epochs``, at the moment ``until``, or after ``budget_s`` of training.

    ``until`` is a value of ``time.monotonic()``. Whatever happened before or happens beside the steps
    (an interruption, checkpoints), the schedule ends with it.
    """

    epochs: int | None = None
    budget_s: float | None = None
    until: float | None = None

    def done(self, progress: Progress, batches_per_epoch: float) -> float:
        """Fraction of the run that is done."""
        if self.epochs is not None:
            return (progress.epoch + progress.batch_in_epoch / max(batches_per_epoch, 1)) / self.epochs
        if self.until is not None:
            left = self.until - time.monotonic()
            return progress.spent_s / (progress.spent_s + left) if left > 0 else 1.0
        return progress.spent_s / max(self.budget_s or 0.0, 1e-9)


@dataclass(frozen=True)
class Trained:
    """Outcome of a run: the weights of the best check, and what was seen."""

    flat: np.ndarray
    progress: Progress
    validation: dict[str, float]

    def figures(self) -> dict[str, float]:
        """How long it trained and how closely it fits its labels, for metrics.json."""
        progress = self.progress
        loss = {} if progress.training_loss is None else {"training_loss": progress.training_loss}
        return {
            "seconds": progress.spent_s, "epochs": progress.epoch, "labels_seen": progress.labels_seen
        } | loss  # fmt: skip
