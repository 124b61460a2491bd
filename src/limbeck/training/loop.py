"""Progress, end and result of a training run."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np


@dataclass
class Progress:
    """State of a run. ``spent_s`` counts training time only, over all interruptions.

    ``restarts``: times that the gradient was not finite and training returned to its best weights;
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
    """End of a run: after ``epochs``, at the time ``until``, or after ``budget_s`` of training.

    ``until`` is a value of ``time.monotonic()``; the schedule ends with it, whatever time interruptions and
    checkpoints take.
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
    """Result of a run: the weights of the best check, its progress and validation errors."""

    flat: np.ndarray
    progress: Progress
    validation: dict[str, float]

    def figures(self) -> dict[str, float]:
        """Duration and training loss, for metrics.json."""
        p = self.progress
        loss = {} if p.training_loss is None else {"training_loss": p.training_loss}
        return {"seconds": p.spent_s, "epochs": p.epoch, "labels_seen": p.labels_seen} | loss
