"""Where a run is and when it ends; checkpoints: one safetensors file that resumes it exactly."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from limbeck import __version__
from limbeck.core.files import write_whole
from limbeck.errors import InputError

#: of what a checkpoint holds; one more for each change after which older ones cannot be gone on from
FORMAT = 2


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


@dataclass(frozen=True)
class Checkpoint:
    """Arrays (flat, float32 or float64) and progress.

    ``arrays``: weights, ema, best, and what the optimizer averaged.  ``run``: hash of what the run trains on.
    """

    arrays: dict[str, np.ndarray]
    progress: Progress
    run: str
    extra: dict[str, float] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file whole."""
        from safetensors.numpy import save

        body = {
            "format": FORMAT, "limbeck": __version__, "progress": asdict(self.progress), "run": self.run,
            "extra": self.extra,
        }  # fmt: skip
        write_whole(path, save(self.arrays, metadata={"limbeck-checkpoint": json.dumps(body)}))

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint; a damaged file, and one of another version, raise InputError."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as handle:
                body = json.loads(handle.metadata()["limbeck-checkpoint"])
                arrays = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            told, run, extra = dict(body["progress"]), str(body["run"]), dict(body["extra"])
            # before they bore a number: of this format if they tell of a run as it does
            known = {*told, "training_loss"} == {one.name for one in fields(Progress)}
            version = body.get("format", FORMAT if known else FORMAT - 1)
            if version == FORMAT:
                return cls(arrays, Progress(**told), run, extra)
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(
                "damaged checkpoint", where=path, got=str(error), remedy="delete it to train from the start"
            ) from error
        raise other_version(path, f"format {version} (Limbeck {body.get('limbeck', '0.1.0')})")


def other_version(path: Path, got: str) -> InputError:
    """That a checkpoint is whole, and that this version cannot go on from it."""
    return InputError(
        "the checkpoint is of another version of Limbeck",
        where=path,
        got=got,
        wanted=f"format {FORMAT} (Limbeck {__version__})",
        remedy="go on with that version, or delete it to train from the start",
    )
