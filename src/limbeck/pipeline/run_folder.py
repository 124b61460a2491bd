"""The run folder: it belongs to one configuration, and nothing else in it is touched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from limbeck.core.files import write_whole
from limbeck.errors import InputError
from limbeck.pipeline.telling import Say
from limbeck.students.specification import PRESETS

HEADER = "# Limbeck run: the resolved configuration\n"
LABELS, TEST = "labels", "test"  #: label stores of a run: to train and validate on, and of the test set
_BEFORE_WORK = ("config.yaml", "state.json")
#: everything a run writes; --overwrite removes these and leaves the rest
_WRITTEN = (
    *_BEFORE_WORK,
    *("structures.extxyz", "validation.extxyz", "test.extxyz", "metrics.json"),
    *(LABELS, TEST, "sampling", "train", "rounds", "report.html"),
    # what limbeck finalize and learning-curve made of students that are replaced
    *("exports", "finalize.bench.json", "validation", "worst.extxyz", "finalize.json", ".finalize"),
    "learning-curve",
    *(f"{preset}.{end}" for preset in PRESETS for end in ("safetensors", "card.md")),
)
#: how long and with what a run works; going on with other values is the same run
_FREE = (
    "budget",
    "target_force_rmse_mev_per_a",
    "out",
    "labelling.workers",
    "labelling.threads",
    "labelling.device",
    "teacher.python",
    "teacher.trust",
    "training.threads",
    "training.tensorboard",
    "training.checkpoint_s",
)


def prepare_folder(folder: Path, resolved: str, *, overwrite: bool) -> None:
    """Make the run folder, or check that it belongs to this configuration.

    Parameters
    ----------
    overwrite: start over: what a run before wrote is removed, other files stay.
    resolved: the configuration as YAML. Time, place, processes and threads may differ from the
        folder's, so that a run can be moved and gone on with.

    Raises
    ------
    InputError: another configuration's results are there, files of something else, or the place is
        a file. LimbeckError: it cannot be written.
    """
    marker = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise InputError(
            "the run folder is a file",
            where=folder,
            wanted="a folder",
            remedy="choose another --out",
        )
    text = marker.read_text(encoding="utf-8", errors="replace") if marker.exists() else ""
    if not text.startswith(HEADER) and folder.exists() and any(folder.iterdir()):
        raise InputError(
            "the run folder holds files of something else",
            where=folder,
            wanted="an empty or new folder",
            remedy="choose another --out",
        )
    changed = _changed(yaml.safe_load(text) or {}, yaml.safe_load(resolved) or {}) if text else []
    if changed or overwrite:
        # A run that was refused before it did any work stands in nobody's way.
        worked = text and bool({entry.name for entry in folder.iterdir()} - set(_BEFORE_WORK))
        if worked and not overwrite:
            raise InputError(
                "the run folder belongs to another configuration",
                where=folder,
                got=f"other values of {', '.join(changed[:4])}",
                wanted="the same configuration, to go on with it",
                remedy="choose another --out, or --overwrite to replace it",
            )
        _remove_run(folder)
    write_whole(marker, HEADER + resolved)


def say_if_finished(folder: Path, say: Say) -> bool:
    """A run that has its results trains nothing more, whatever its budget is now; whether it is one."""
    finished = (folder / "metrics.json").exists()
    if finished:
        say(
            f"note: the run in {folder} is finished and its students stay as they are; remedy: --overwrite "
            "starts over, limbeck train --init STUDENT goes on from one in another folder"
        )
    return finished


def _remove_run(folder: Path) -> None:
    for name in _WRITTEN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, after = dict(_leaves(old)), dict(_leaves(new))
    keys = [key for key in {**after, **before} if before.get(key) != after.get(key)]
    return [key for key in keys if key not in _FREE]


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
