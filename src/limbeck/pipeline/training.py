"""`limbeck train`: students from labels of one's own, without a teacher."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.artifact.file import StudentRecord
from limbeck.config import TrainRunConfig, dump_yaml
from limbeck.core.devices import require_training
from limbeck.dataset.read import read_labelled
from limbeck.pipeline.clock import RunClock
from limbeck.pipeline.folder import prepare_folder, say_if_finished
from limbeck.pipeline.judging import RUN
from limbeck.pipeline.lessons import Lesson
from limbeck.pipeline.planning import LEAST_TRAINING_S, share_time
from limbeck.pipeline.results import about_run, write_metrics
from limbeck.pipeline.students import save_student, say_idle_threads, train_student
from limbeck.pipeline.table import format_table
from limbeck.pipeline.telling import Say, say_nothing
from limbeck.pipeline.training_data import LabelSource, Preparation, prepare_training_data
from limbeck.progress import Progress, no_progress
from limbeck.runtime.student import Student
from limbeck.sampling.frames import write_frames
from limbeck.training.loop import Stop, Trained
from limbeck.validation.run import validate

_AFTER_TRAINING_S = 1.0  # validation and files of one student


def run_train(
    config: TrainRunConfig,
    data: Sequence[Path],
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
    say: Say = print,
    began: float | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """`limbeck train`: students from labels, a teacher's or one's own; returns metrics.json.

    ``began``: ``time.monotonic()`` from which the budget counts; now unless given. ``command``: the
    command line, for the cards.
    """
    began = time.monotonic() if began is None else began
    require_training(config.training.device)
    config = config.with_end()
    tell = say_nothing if (out / "metrics.json").exists() and not overwrite else say
    keys = config.keys.model_dump()
    sources = [LabelSource(str(path), read_labelled(path, **keys)) for path in data]
    how = Preparation(config.val, config.seed, config.lint.ignore, keys)
    teacher = {"name": "labels of " + ", ".join(Path(d).name for d in data)}
    lesson = prepare_training_data(sources, how, teacher, tell)
    settings = dump_yaml({"data": [str(Path(d).absolute()) for d in data], **config.model_dump(mode="json")})
    prepare_folder(out, settings, overwrite=overwrite)
    say_if_finished(out, say)
    tell(
        f"{len(lesson.train)} structures to train on, {len(lesson.validation)} to validate: "
        f"{lesson.how_split}"
    )
    say_idle_threads(config.training, lesson.train, tell)
    write_frames(out / "validation.extxyz", lesson.validation.to_atoms())
    about = about_run(None, out, command)
    run = _Run(config, lesson, out, RunClock(out, began), progress, about)
    metrics = {preset: run.train(k) for k, preset in enumerate(config.presets)} | {RUN: about}
    write_metrics(out, metrics)
    run.clock.save()
    say("")
    say(format_table([_row(preset, metrics[preset]) for preset in config.presets]))
    say(f"(errors on {len(lesson.validation)} validation structures) results in {out}")
    return metrics


@dataclass
class _Run:
    """One run in its folder: what its presets share."""

    config: TrainRunConfig
    lesson: Lesson
    out: Path
    clock: RunClock
    progress: Progress
    about: dict[str, Any]

    def train(self, k: int) -> dict[str, Any]:
        """Train preset ``k``, write its file, and give its part of metrics.json."""
        record, trained = self._trained(k)
        path = self.out / f"{self.config.presets[k]}.safetensors"
        save_student(path, record)
        report = validate(Student.load(path), self.lesson.validation)
        save_student(path, record, metrics={"validation": report.metrics["all"]}, run=self.about)
        return {
            "validation": report.metrics,
            RUN: {
                "parameters": record.architecture.n_parameters,
                "training": trained.figures(),
                "file_kb": path.stat().st_size / 1e3,
            },
        }

    def _trained(self, k: int) -> tuple[StudentRecord, Trained]:
        config, preset, remaining = self.config, self.config.presets[k], self.config.presets[k:]
        until = None
        if config.budget is not None:
            left = config.budget - self.clock.spent_s - _AFTER_TRAINING_S * len(remaining)
            until = time.monotonic() + max(share_time(remaining, left)[preset], LEAST_TRAINING_S)
        return train_student(
            preset,
            self.lesson,
            config.training,
            Stop(epochs=config.training.epochs, until=until),
            self.out / "train" / preset,
            seed=config.seed,
            init=config.init,
            progress=self.clock.ticking(self.progress),
        )


def _row(preset: str, figures: dict[str, Any]) -> dict[str, Any]:
    return {"model": preset, **figures[RUN], **figures["validation"]["all"]}
