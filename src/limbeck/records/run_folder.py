"""The run folder: every path of a run, whom it belongs to, and what must survive an interruption."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from limbeck.core.files import write_whole
from limbeck.core.hashing import hash_file
from limbeck.errors import InputError, LimbeckError
from limbeck.progress import Progress, Say
from limbeck.records.label_store import LabelStore
from limbeck.records.time_budget import PRESET_SHARES, TimeBudget

HEADER = "# Limbeck run: the resolved configuration\n"
#: in metrics.json the key of facts that are no errors on a split; no preset and no split has the name
RUN = "run"
_BEFORE_WORK = ("config.yaml", "state.json")
#: everything a run writes; --overwrite removes these and leaves the rest
_WRITTEN = (
    *_BEFORE_WORK,
    *("structures.extxyz", "validation.extxyz", "test.extxyz", "metrics.json"),
    *("labels", "test", "sampling", "train", "active_learning", "report.html"),
    # what limbeck finalize and learning-curve made of students that are replaced
    *("exports", "finalize.bench.json", "validation", "worst.extxyz", "finalize.json", ".finalize"),
    "learning-curve",
    *(f"{preset}.{end}" for preset in PRESET_SHARES for end in ("safetensors", "card.md")),
)
#: how long and with what a run works; with other values it is the same run
_FREE = {
    *("budget", "target_force_rmse_mev_per_a", "out", "teacher.python", "teacher.trust"),
    *("labelling.workers", "labelling.threads", "labelling.device"),
    *("training.threads", "training.tensorboard", "training.checkpoint_s"),
}


class RunFolder:
    """Where the parts of a run lie; no name of a file is spelled elsewhere.

    Attributes
    ----------
    labels, test_labels: label stores: to train and validate on, and of the test set. sampling: finished
        trajectories. validation, test: the sets as extended XYZ.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path = Path(path)
        self.config, self.state = path / "config.yaml", path / "state.json"
        self.structures = path / "structures.extxyz"
        self.labels, self.test_labels = path / "labels", path / "test"
        self.validation, self.test = path / "validation.extxyz", path / "test.extxyz"
        self.sampling, self.metrics = path / "sampling", path / "metrics.json"

    def student(self, preset: str) -> Path:
        """The student file of a preset."""
        return self.path / f"{preset}.safetensors"

    def training(self, preset: str) -> Path:
        """Checkpoints and log of its training."""
        return self.path / "train" / preset

    def interim_student(self, number: int, digest: str) -> Path:
        """A student that drives dynamics of sampling."""
        return self.sampling / f"interim-{number}-{digest}.safetensors"

    def iteration(self, number: int) -> IterationFolder:
        """What an iteration of active learning keeps."""
        return IterationFolder(self.path / "active_learning" / str(number))

    @property
    def finished(self) -> bool:
        """Whether the run has its results: then it trains nothing more, whatever its budget is now."""
        return self.metrics.exists()

    @contextmanager
    def stores(self) -> Iterator[tuple[LabelStore, LabelStore]]:
        """The label stores, of training and of the test set.

        The test set of an earlier version, among the training labels, is copied to where it belongs.
        """
        with LabelStore(self.labels) as labels, LabelStore(self.test_labels) as test:
            labels.copy_earlier_test(test)
            yield labels, test

    def prepare(self, resolved: str, *, overwrite: bool) -> None:
        """Make the folder, or check that it belongs to this configuration.

        Parameters
        ----------
        overwrite: start over: what a run before wrote is removed, other files stay.
        resolved: the configuration as YAML. Time, place, processes and threads may differ from the
            folder's, so that a run can be moved and resumed.

        Raises
        ------
        InputError: another configuration's results are there, files of something else, or the place is
            a file. LimbeckError: it cannot be written.
        """
        folder = self.path
        if folder.exists() and not folder.is_dir():
            raise InputError(
                "the run folder is a file", where=folder, wanted="a folder", remedy="choose another --out"
            )
        text = self.config.read_text(encoding="utf-8", errors="replace") if self.config.exists() else ""
        present = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
        if present and not text.startswith(HEADER):
            raise InputError(
                "the run folder holds files of something else",
                where=folder,
                wanted="an empty or new folder",
                remedy="choose another --out",
            )
        changed = _changed(yaml.safe_load(text) or {}, yaml.safe_load(resolved) or {}) if text else []
        # A run that was refused before it did any work stands in nobody's way.
        if changed and not overwrite and present.difference(_BEFORE_WORK):
            raise InputError(
                "the run folder belongs to another configuration",
                where=folder,
                got=f"other values of {', '.join(changed[:4])}",
                wanted="the same configuration, to go on with it",
                remedy="choose another --out, or --overwrite to replace it",
            )
        if changed or overwrite:
            for name in _WRITTEN:
                path = folder / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        write_whole(self.config, HEADER + resolved)

    def say_if_finished(self, say: Say) -> bool:
        """Say that a finished run stays as it is; whether it is one."""
        if self.finished:
            say(
                f"note: the run in {self.path} is finished and its students stay as they are; remedy: "
                "--overwrite starts over, limbeck train --init STUDENT starts from one in another folder"
            )
        return self.finished

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json whole."""
        write_whole(self.metrics, json.dumps(metrics, indent=1))

    def write_evaluation(self, preset: str, found: dict[str, Any]) -> None:
        """Keep the evaluation of a preset's finished student file, so that it is not repeated."""
        kept = {"student": hash_file(self.student(preset)), "evaluated": found}
        write_whole(self.training(preset) / "evaluated.json", json.dumps(kept, indent=1))

    def read_evaluation(self, preset: str) -> dict[str, Any] | None:
        """The evaluation of exactly the student file that is there, or None."""
        try:
            kept = json.loads((self.training(preset) / "evaluated.json").read_text(encoding="utf-8"))
            found = dict(kept["evaluated"]) if kept["student"] == hash_file(self.student(preset)) else {}
        except (OSError, ValueError, KeyError, TypeError, LimbeckError):
            return None  # evaluated again, which is always right
        return found if {"validation", "test", RUN} <= set(found) else None


class IterationFolder:
    """Where an iteration of active learning keeps what it made.

    Attributes
    ----------
    frames: to learn from. failures: the last frame of each run that failed. seen: the figures.
    runs, beyond: finished trajectories of the students and of the interim student.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.seen = path, path / "seen.json"
        self.frames, self.failures = path / "frames.extxyz", path / "failures.extxyz"
        self.runs, self.beyond = path / "runs", path / "beyond"

    def student(self, name: str) -> Path:
        """The file of a preset's student, of the interim student or of a committee member."""
        return self.path / f"{name}.safetensors"


class RunState:
    """The seconds of a run and small facts that must survive (``state.json``).

    Time is written at most every ten seconds, so a kill loses no more than that of the count.

    Raises
    ------
    InputError: the file is damaged.
    """

    def __init__(self, folder: RunFolder, budget_s: float | None, began: float | None = None) -> None:
        self.path = folder.state
        before_s, self._facts = 0.0, {}
        if self.path.exists():
            try:
                kept = json.loads(self.path.read_text())
                before_s, self._facts = float(kept["spent_s"]), dict(kept["facts"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    "damaged state of a run",
                    where=self.path,
                    got=str(error),
                    remedy="delete it; labels and checkpoints are kept",
                ) from error
        self.time = TimeBudget(budget_s, before_s=before_s, began=began)
        self._saved = time.monotonic()

    def save(self) -> None:
        """Write facts and time now."""
        kept = {"spent_s": round(self.time.spent_s, 2), "facts": self._facts}
        write_whole(self.path, json.dumps(kept, indent=1))
        self._saved = time.monotonic()

    def ticking(self, progress: Progress, prefix: str = "") -> Progress:
        """``progress`` with ``prefix`` before its tasks, which also writes the time now and then."""

        def tick(task: str, done: int, total: int | None = None, text: str = "") -> None:
            if time.monotonic() - self._saved > 10:
                self.save()
            progress(f"{prefix} {task}".strip(), done, total, text)

        return tick

    def get(self, name: str) -> Any:
        """A fact, or None."""
        return self._facts.get(name)

    def once(self, name: str, value: Any) -> Any:
        """``value`` the first time a run asks, and the same again after an interruption."""
        if name not in self._facts:
            self.put(name, value)
        return self._facts[name]

    def put(self, name: str, value: Any) -> None:
        """Set a fact."""
        self._facts[name] = value
        self.save()


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
