"""Checkpoints: one safetensors file with the whole state of a run, so that it can go on exactly."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from limbeck import __version__
from limbeck.core.files import write_whole
from limbeck.errors import InputError
from limbeck.training.loop import Progress

#: of what a checkpoint holds; one more for each change after which older ones cannot be gone on from
FORMAT = 2


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
