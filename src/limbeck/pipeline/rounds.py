"""The failure-driven loop: students run hot, compressed and stretched, and learn from where they fail.

Each round: every student's own dynamics from several starts, ended at the first unphysical or unfamiliar
frame; frames from just before it, and some on the way, go to the teacher and join the labels. A scout, a
student that trains on from there for a minute, goes on where they stopped, and frames of its dynamics are
labelled too, so that one round sees more than the first picoseconds of what is new. Then training goes on
from the students. Active learning by query by committee, as DP-GEN (Zhang et al. 2019, arXiv:1810.11890)
does it, with a physical check besides.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.config import DistillConfig
from limbeck.core.files import write_whole
from limbeck.core.hashing import hash_file
from limbeck.core.labels import LabelledSet, concatenate_labelled
from limbeck.core.structures import StructureBatch
from limbeck.dataset.split import split
from limbeck.pipeline.clock import RunClock
from limbeck.pipeline.costs import DYNAMICS_OVERHEAD_S, SCOUT_PRESET, seconds_per_call
from limbeck.pipeline.judging import Trial
from limbeck.pipeline.lessons import Lesson
from limbeck.pipeline.planning import FIRST_SHARE, LEAST_TRAINING_S, Plan, share_time
from limbeck.pipeline.recipes import timestep_fs
from limbeck.pipeline.students import save_student, train_student, untrained_student
from limbeck.pipeline.table import format_rounds
from limbeck.pipeline.telling import Say
from limbeck.progress import Progress
from limbeck.runtime.student import Student
from limbeck.sampling.cache import TrajectoryCache
from limbeck.sampling.config import MD, SamplingConfig
from limbeck.sampling.frames import read_frames, write_frames
from limbeck.sampling.run import NoFrames, run_sampling
from limbeck.training.loop import Stop
from limbeck.validation.ensemble import Ensemble
from limbeck.validation.metrics import Metrics, compute_metrics
from limbeck.validation.run import predict
from limbeck.validation.survival import Survival, strained_starts, survive

LATER_RATE = 0.5  #: of the peak learning rate, for training that goes on from a student
HOTTER = 1.25  #: over the highest sampled temperature, where no other is given
#: of a round's time: training gets at least so much, labels so much, and the runs at most so much unless
#: they are the last; where they would take longer, fewer are done
TRAINING_SHARE, LABELS_SHARE, RUNS_SHARE = 0.3, 0.15, 0.3
_REASONS = 3  #: so many are kept of a student's failures
_LEAST_TO_SPLIT = 10  #: fewer new labels than this all train
_COMPANION = {"ultra-tiny": "tiny"}  # of a preset that runs alone; else ultra-tiny

#: labels of frames, by a name that an interruption does not change; those without a label are left out
Label = Callable[[list[Atoms], str], LabelledSet]


def round_path(folder: Path, number: int, preset: str) -> Path:
    """The student file of a round."""
    return folder / "rounds" / str(number) / f"{preset}.safetensors"


@dataclass(frozen=True)
class Trialled:
    """One student in one round.

    Attributes
    ----------
    heldout, on_policy: errors on the held-out set, and on frames of its own dynamics before anything
        was wrong (None where none was labelled).
    runs, survived: of its own dynamics. shortest_ps, mean_ps: how long they lasted (None without runs).
    reasons: why runs ended, the first few.
    """

    heldout: Metrics
    on_policy: Metrics | None
    runs: int
    survived: int
    shortest_ps: float | None
    mean_ps: float | None
    reasons: list[str]


@dataclass(frozen=True)
class Round:
    """What one round saw. number: 0 is before any failure was learned from. labels: trained on."""

    number: int
    labels: int
    students: dict[str, Trialled]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Round:
        students = {name: Trialled(**values) for name, values in fields["students"].items()}
        return cls(fields["number"], fields["labels"], students)


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

    @property
    def temperature_k(self) -> float:
        """Of the students' runs."""
        return self.config.rounds.temperature_K or HOTTER * self.trial.hottest_k

    def run(self, lesson: Lesson) -> None:
        """Rounds until the targets are met or the time is up; ``rounds`` holds what each one saw."""
        settings = self.config.rounds
        # What is usual stays what it was before the first failure: else the limit would rise with each.
        known = lesson.validation.structures
        for number in range(settings.n + 1):
            if number:
                lesson = self._widened(lesson, number)
            self._train(lesson, number)
            seen = self._examined(lesson, known, number)
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
            seconds_per_call(untrained_student(p, structure, self.config.training.cutoff), structure, 3)
            + DYNAMICS_OVERHEAD_S
            for p in self.config.presets
        )
        return step_s * settings.starts * settings.duration_ps * 1000.0 / self._timestep_fs

    @property
    def _timestep_fs(self) -> float:
        return self.config.validation.timestep_fs or timestep_fs(self.starts)

    def _rounds_left(self, number: int) -> int:
        return self.config.rounds.n - number + 1

    def _time_is_up(self) -> bool:
        return self.config.budget is not None and self._left_s() < 2 * LEAST_TRAINING_S

    # ---- the students' own dynamics ----------------------------------------------------------------

    def _examined(self, lesson: Lesson, known: StructureBatch, number: int) -> Round:
        kept = self.folder / "rounds" / str(number) / "seen.json"
        hashes = {preset: hash_file(self._path(number, preset)) for preset in self.config.presets}
        if kept.exists():
            found = json.loads(kept.read_text(encoding="utf-8"))
            if found["hashes"] == hashes:
                return Round.from_dict(found["round"])
        students = {preset: Student.load(self._path(number, preset)) for preset in self.config.presets}
        members = [*students.values(), *self._companions(lesson, number)]
        settings = self.config.rounds
        judge = Ensemble(members, known, settings.spread_factor, settings.spread_share)
        key = "-".join(sorted(hashes.values()))
        runs = {p: self._runs(p, students[p], judge, f"{p}-{key}", number) for p in students}
        self._keep_frames(runs, number)
        seen = Round(
            number,
            len(lesson.train),
            {p: self._trialled(p, students[p], runs[p], number) for p in students},
        )
        write_whole(kept, json.dumps({"hashes": hashes, "round": seen.to_dict()}, indent=1))
        self.clock.save()
        return seen

    def _companions(self, lesson: Lesson, number: int) -> list[Student]:
        """A second opinion for a preset that runs alone: a small student, trained as a scout is."""
        if len(self.config.presets) > 1:
            return []
        preset = _COMPANION.get(self.config.presets[0], "ultra-tiny")
        path = self.folder / "rounds" / str(number) / f"companion-{preset}.safetensors"
        if not path.exists():
            record, _ = train_student(
                preset,
                lesson,
                self.config.training,
                self._short_stop(),
                path.with_suffix(""),
                seed=self.config.seed + 1000 + number,
                progress=self.clock.ticking(self.progress, f"round {number} companion"),
            )
            save_student(path, record)
        return [Student.load(path)]

    def _runs(self, preset: str, student: Student, judge: Ensemble, key: str, number: int) -> list[Survival]:
        settings = self.config.rounds
        starts = strained_starts(self.starts, settings.starts, settings.strain)
        timestep = self._timestep_fs
        total = round(settings.starts * settings.duration_ps * 1000 / timestep)
        done = 0
        task = self.clock.ticking(self.progress, f"round {number}")

        def on_step() -> None:
            nonlocal done
            done += 1
            if done % 100 == 0:
                task(f"{preset}'s own dynamics", min(done, total), total)

        until = self._runs_until(number, preset)
        return survive(
            student,
            starts,
            temperature_k=self.temperature_k,
            duration_ps=settings.duration_ps,
            timestep_fs=timestep,
            seed=self.config.seed + 31,
            name=f"round-{number}-{preset}",
            objection=judge.objection,
            cache=TrajectoryCache(self.folder / "rounds" / str(number) / "runs"),
            key=key,
            on_step=on_step,
            stop=lambda: until is not None and time.monotonic() > until,
        )

    def _runs_until(self, number: int, preset: str) -> float | None:
        """When the runs of a student must end."""
        if self.config.budget is None:
            return None
        last = number == self.config.rounds.n
        to_come = len(self.config.presets) - self.config.presets.index(preset)
        seconds = (1.0 if last else RUNS_SHARE) * self._left_s() / self._rounds_left(number) / to_come
        return time.monotonic() + max(seconds, LEAST_TRAINING_S)

    def _trialled(self, preset: str, student: Student, runs: Sequence[Survival], number: int) -> Trialled:
        heldout = self.trial.heldout
        frames = [f for run in runs for f in run.spread_out(self.config.rounds.frames_on_the_way)]
        on_policy = self._errors(student, self.label(frames, f"round-{number}-{preset}")) if frames else None
        reached = [run.reached_ps for run in runs]
        return Trialled(
            heldout=self._errors(student, heldout) or {},
            on_policy=on_policy,
            runs=len(runs),
            survived=sum(run.survived for run in runs),
            shortest_ps=min(reached, default=None),
            mean_ps=float(np.mean(reached)) if reached else None,
            reasons=[run.reason for run in runs if run.reason][:_REASONS],
        )

    @staticmethod
    def _errors(student: Student, labelled: LabelledSet) -> Metrics | None:
        if not len(labelled):
            return None
        return compute_metrics(labelled.structures, labelled.labels, predict(student, labelled.structures))

    # ---- what is learned from it -------------------------------------------------------------------

    def _keep_frames(self, runs: dict[str, list[Survival]], number: int) -> None:
        """What the next round learns from: frames on the way and just before each failure, and the last."""
        settings = self.config.rounds
        all_runs = [run for own in runs.values() for run in own]
        frames = [
            frame
            for run in all_runs
            for frame in (*run.spread_out(settings.frames_on_the_way), *run.last(settings.frames_at_failure))
        ]
        failures = [frame for run in all_runs for frame in run.last(1)]
        for name, chosen in (("frames", frames), ("failures", failures)):
            if chosen:
                write_frames(self._frames_path(number, name), chosen)

    def _frames_path(self, number: int, name: str) -> Path:
        return self.folder / "rounds" / str(number) / f"{name}.extxyz"

    def _widened(self, lesson: Lesson, number: int) -> Lesson:
        """``lesson`` and the labels of what the round before met and of what lies beyond."""
        path = self._frames_path(number - 1, "frames")
        if path.exists():
            lesson = self._joined(lesson, self.label(read_frames(path), f"round-{number}"))
        beyond = self._beyond(lesson, number)
        return self._joined(lesson, self.label(beyond, f"round-{number}-beyond")) if beyond else lesson

    def _joined(self, lesson: Lesson, more: LabelledSet) -> Lesson:
        """``lesson`` with more labels, cut by families of their own: what validated goes on to."""
        if not len(more):
            return lesson
        train, validation = more, lesson.validation
        if len(more) >= _LEAST_TO_SPLIT and isinstance(self.config.val, float):
            train, own = split(more, self.config.val, self.config.seed).parts(more)
            validation = concatenate_labelled([validation, own])
        return replace(lesson, train=concatenate_labelled([lesson.train, train]), validation=validation)

    def _beyond(self, lesson: Lesson, number: int) -> list[Atoms]:
        """Frames of a scout's dynamics from where the students stopped, the last frames of their failures."""
        settings, path = self.config.rounds, self._frames_path(number - 1, "failures")
        if not settings.frames_beyond or not path.exists():
            return []
        starts = read_frames(path)
        step = MD(
            name=f"beyond-{number}",
            temperature_K=self.temperature_k,
            frames=settings.frames_beyond,
            every_fs=1000.0 * settings.beyond_ps / settings.frames_beyond,
            equilibrate_fs=0.0,
            timestep_fs=timestep_fs(starts),
            driver="scout",
        )
        try:
            return run_sampling(
                starts,
                SamplingConfig(seed=self.config.seed + number, steps=(step,)),
                {"scout": self._scout(lesson, number)},
                self.clock.ticking(self.progress, f"round {number}"),
                cache_dir=path.parent / "beyond",
                parallel=self.config.labelling.workers,
            )
        except NoFrames:
            self.say("note: every run of the scout was unphysical at once; the labels before it must do")
            return []

    def _scout(self, lesson: Lesson, number: int) -> Student:
        """A student of the round before, trained on for a minute."""
        presets = self.config.presets
        preset = SCOUT_PRESET if SCOUT_PRESET in presets else presets[0]
        path = self.folder / "rounds" / str(number - 1) / f"scout-{preset}.safetensors"
        if not path.exists():
            self._train_one(lesson, preset, path, self._short_stop(), number, f"round {number} scout")
        scout = Student.load(path)
        scout.name = f"{path.stem}-{hash_file(path)[:12]}"  # trajectories are keyed by it
        return scout

    def _short_stop(self) -> Stop:
        if self.config.training.epochs is not None:
            return Stop(epochs=self.config.training.epochs)
        return Stop(budget_s=self.plan.scout_s)
