"""Checkpoints: one safetensors file with the whole state of a run, to resume it exactly."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from limbeck import __version__
from limbeck.core.files import write_whole
from limbeck.errors import InputError
from limbeck.training.loop import Progress

#: raised by each change after which older checkpoints cannot be resumed
FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Arrays (flat, float32 or float64) and progress.

    ``arrays``: weights, ema, best, the optimizer's averages.  ``run``: hash of data, settings and preset.
    """

    arrays: dict[str, np.ndarray]
    progress: Progress
    run: str
    extra: dict[str, float] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file atomically."""
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
            progress, run, extra = dict(body["progress"]), str(body["run"]), dict(body["extra"])
            # without a number: of this format if the fields of its progress are
            known = {*progress, "training_loss"} == {one.name for one in fields(Progress)}
            version = body.get("format", FORMAT if known else FORMAT - 1)
            if version == FORMAT:
                return cls(arrays, Progress(**progress), run, extra)
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(
                "damaged checkpoint", where=path, got=str(error), remedy="delete it to train from the start"
            ) from error
        raise other_version(path, f"format {version} (Limbeck {body.get('limbeck', '0.1.0')})")


def other_version(path: Path, got: str) -> InputError:
    """The error for an intact checkpoint that this version cannot resume."""
    return InputError(
        "the checkpoint is of another version of Limbeck",
        where=path,
        got=got,
        wanted=f"format {FORMAT} (Limbeck {__version__})",
        remedy="resume with that version, or delete it to train from the start",
    )
