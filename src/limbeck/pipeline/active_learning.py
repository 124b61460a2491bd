"""The failure-driven loop: students run hot, compressed and stretched, and learn from where they fail.

Each round: every student's own dynamics from several starts, ended at the first unphysical or unfamiliar
frame; frames from just before it, and some on the way, go to the teacher and join the labels. An interim student, a
student that trains on from there for a minute, goes on where they stopped, and frames of its dynamics are
labelled too, so that one round sees more than the first picoseconds of what is new. Then training goes on
from the students. Active learning by query by committee, as DP-GEN (Zhang et al. 2019, arXiv:1810.11890)
does it, with a physical check besides.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from ase import Atoms

from limbeck.benchmark.speed import seconds_per_step
from limbeck.config import DistillConfig
from limbeck.core.hashing import hash_file
from limbeck.core.labels import LabelledSet, concatenate_labelled
from limbeck.dataset.split import split
from limbeck.pipeline.clock import RunClock
from limbeck.pipeline.costs import DYNAMICS_OVERHEAD_S, INTERIM_PRESET
from limbeck.pipeline.examining import Examiner, Label, Round, frames_path, round_path
from limbeck.pipeline.judging import Trial
from limbeck.pipeline.lessons import Lesson
from limbeck.pipeline.planning import FIRST_SHARE, LEAST_TRAINING_S, Plan, share_time
from limbeck.pipeline.recipes import timestep_fs
from limbeck.pipeline.students import save_student, train_student, untrained_student
from limbeck.pipeline.table import format_rounds
from limbeck.pipeline.telling import Say
from limbeck.pipeline.training_data import without_test
from limbeck.progress import Progress
from limbeck.runtime.student import Student
from limbeck.sampling.config import SamplingConfig
from limbeck.sampling.dynamics import MD
from limbeck.sampling.frames import read_frames
from limbeck.sampling.run import NoFrames, run_sampling
from limbeck.training.loop import Stop

LATER_RATE = 0.5  #: of the peak learning rate, for training that goes on from a student
#: of a round's time: training gets at least so much, labels so much, and the runs at most so much unless
#: they are the last; where they would take longer, fewer are done
TRAINING_SHARE, LABELS_SHARE, RUNS_SHARE = 0.3, 0.15, 0.3
_LEAST_TO_SPLIT = 10  #: fewer new labels than this all train


@dataclass
class RoundLoop:
    """The loop of one run in its folder; every round's students, runs and figures are kept there."""

    config: DistillConfig
    folder: Path
    plan: Plan
    trial: Trial
    starts: Sequence[Atoms]
    label: Label
    clock: RunClock
    progress: Progress
    say: Say
    rounds: list[Round] = field(default_factory=list)

    @cached_property
    def examiner(self) -> Examiner:
        """That runs the students of each round."""
        return Examiner(
            self.config,
            self.folder,
            self.trial,
            self.starts,
            self.label,
            self.clock,
            self.progress,
            self._short_stop(),
        )

    def run(self, lesson: Lesson) -> None:
        """Rounds until the targets are met or the time is up; ``rounds`` holds what each one saw."""
        settings = self.config.rounds
        # What is usual stays what it was before the first failure: else the limit would rise with each.
        known = lesson.validation.structures
        for number in range(settings.n + 1):
            if number:
                lesson = self._widened(lesson, number)
            self._train(lesson, number)
            seen = self.examiner.examine(lesson, known, number, partial(self._runs_until, number))
            self.rounds.append(seen)
            self.say(format_rounds([seen.to_dict()]))
            if self._met(seen):
                break
            if number < settings.n and self._time_is_up():
                self.say("note: the budget leaves no time for another round")
                break

    def _met(self, seen: Round) -> bool:
        settings = self.config.rounds
        return all(
            s.runs == settings.starts
            and s.survived >= settings.survival * s.runs
            and s.on_policy is not None
            and (s.on_policy["force_r2"] or 0.0) >= settings.force_r2
            for s in seen.students.values()
        )

    # ---- training ----------------------------------------------------------------------------------

    def _path(self, number: int, preset: str) -> Path:
        return round_path(self.folder, number, preset)

    def _train(self, lesson: Lesson, number: int) -> None:
        presets = self.config.presets
        ends = time.monotonic() + self._to_train_s(number)
        for k, preset in enumerate(presets):
            path = self._path(number, preset)
            if path.exists():
                continue
            until = None
            if self.config.budget is not None:
                now = time.monotonic()
                until = now + max(share_time(presets[k:], ends - now)[preset], LEAST_TRAINING_S)
            stop = Stop(epochs=self.config.training.epochs, until=until)
            self._train_one(lesson, preset, path, stop, number)

    def _train_one(
        self, lesson: Lesson, preset: str, path: Path, stop: Stop, number: int, task: str | None = None
    ) -> None:
        training = self.config.training
        before = self._path(number - 1, preset) if number else None
        if before is not None:
            training = training.model_copy(update={"learning_rate": LATER_RATE * training.learning_rate})
        record, _ = train_student(
            preset,
            lesson,
            training,
            stop,
            path.with_suffix(""),
            seed=self.config.seed + number,
            init=before,
            same_origin=True,
            progress=self.clock.ticking(self.progress, task or f"round {number}"),
        )
        save_student(path, record)
        self.clock.save()

    def _left_s(self) -> float:
        """Of the budget, without what follows the last round."""
        budget = self.config.budget or 0.0
        return budget - self.clock.spent_s - sum(self.plan.checking_s.values()) - self.plan.finishing_s

    def _to_train_s(self, number: int) -> float:
        """Of the time left, what training in this round may take."""
        left = self._left_s()
        if number == 0:
            return FIRST_SHARE * left
        share = left / self._rounds_left(number)
        return max(TRAINING_SHARE * share, share - self._runs_s - LABELS_SHARE * share)

    @cached_property
    def _runs_s(self) -> float:
        """What the runs of all students of a round take where they last to the end."""
        settings, structure = self.config.rounds, self.starts[0]
        step_s = sum(
            seconds_per_step(untrained_student(p, structure, self.config.training.cutoff), structure)
            + DYNAMICS_OVERHEAD_S
            for p in self.config.presets
        )
        return step_s * settings.starts * settings.duration_ps * 1000.0 / self.examiner.timestep_fs

    def _rounds_left(self, number: int) -> int:
        return self.config.rounds.n - number + 1

    def _time_is_up(self) -> bool:
        return self.config.budget is not None and self._left_s() < 2 * LEAST_TRAINING_S

    def _runs_until(self, number: int, preset: str) -> float | None:
        """When the runs of a student must end."""
        if self.config.budget is None:
            return None
        last = number == self.config.rounds.n
        to_come = len(self.config.presets) - self.config.presets.index(preset)
        seconds = (1.0 if last else RUNS_SHARE) * self._left_s() / self._rounds_left(number) / to_come
        return time.monotonic() + max(seconds, LEAST_TRAINING_S)

    # ---- what is learned from it -------------------------------------------------------------------

    def _widened(self, lesson: Lesson, number: int) -> Lesson:
        """``lesson`` and the labels of what the round before met and of what lies beyond."""
        path = frames_path(self.folder, number - 1, "frames")
        if path.exists():
            lesson = self._joined(lesson, self.label(read_frames(path), f"round-{number}"))
        beyond = self._beyond(lesson, number)
        return self._joined(lesson, self.label(beyond, f"round-{number}-beyond")) if beyond else lesson

    def _joined(self, lesson: Lesson, more: LabelledSet) -> Lesson:
        """``lesson`` with more labels, cut by groups of their own: what validated goes on to."""
        more = without_test(more, self.trial.test, self.say)
        if not len(more):
            return lesson
        train, validation = more, lesson.validation
        if len(more) >= _LEAST_TO_SPLIT and isinstance(self.config.val, float):
            train, own = split(more, self.config.val, self.config.seed).parts(more)
            validation = concatenate_labelled([validation, own])
        return replace(lesson, train=concatenate_labelled([lesson.train, train]), validation=validation)

    def _beyond(self, lesson: Lesson, number: int) -> list[Atoms]:
        """Frames of an interim student's dynamics from where the students stopped, the last frames of their failures."""
        settings, path = self.config.rounds, frames_path(self.folder, number - 1, "failures")
        if not settings.frames_beyond or not path.exists():
            return []
        starts = read_frames(path)
        step = MD(
            name=f"beyond-{number}",
            temperature_K=self.examiner.temperature_k,
            frames=settings.frames_beyond,
            every_fs=1000.0 * settings.beyond_ps / settings.frames_beyond,
            equilibrate_fs=0.0,
            timestep_fs=timestep_fs(starts),
            driver="student",
        )
        try:
            return run_sampling(
                starts,
                SamplingConfig(seed=self.config.seed + number, steps=(step,)),
                {"student": self._interim_student(lesson, number)},
                self.clock.ticking(self.progress, f"round {number}"),
                cache_dir=path.parent / "beyond",
                parallel=self.config.labelling.workers,
            )
        except NoFrames:
            self.say(
                "note: every run of the interim student was unphysical at once; the labels before it must do"
            )
            return []

    def _interim_student(self, lesson: Lesson, number: int) -> Student:
        """A student of the round before, trained on for a minute."""
        presets = self.config.presets
        preset = INTERIM_PRESET if INTERIM_PRESET in presets else presets[0]
        path = self.folder / "rounds" / str(number - 1) / f"interim-{preset}.safetensors"
        if not path.exists():
            self._train_one(lesson, preset, path, self._short_stop(), number, f"round {number} interim")
        interim = Student.load(path)
        interim.name = f"{path.stem}-{hash_file(path)[:12]}"  # trajectories are keyed by it
        return interim

    def _short_stop(self) -> Stop:
        if self.config.training.epochs is not None:
            return Stop(epochs=self.config.training.epochs)
        return Stop(budget_s=self.plan.interim_s)
