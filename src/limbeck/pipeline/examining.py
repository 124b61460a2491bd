"""What one round of the failure-driven loop sees: each student's own dynamics, and its errors.

Every student runs from several starts until the first unphysical or unfamiliar frame. Kept are the
figures (``seen.json``) and the frames that the next round learns from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.config import DistillConfig
from limbeck.core.files import write_whole
from limbeck.core.hashing import hash_file
from limbeck.core.labels import LabelledSet
from limbeck.core.structures import StructureBatch
from limbeck.pipeline.clock import RunClock
from limbeck.pipeline.judging import Trial
from limbeck.pipeline.lessons import Lesson
from limbeck.pipeline.recipes import timestep_fs
from limbeck.pipeline.students import save_student, train_student
from limbeck.progress import Progress
from limbeck.runtime.student import Student
from limbeck.sampling.frames import TrajectoryCache, write_frames
from limbeck.training.loop import Stop
from limbeck.validation.ensemble import Ensemble
from limbeck.validation.metrics import Metrics, compute_metrics
from limbeck.validation.run import predict
from limbeck.validation.survival import Survival, strained_starts, survive

HOTTER = 1.25  #: over the highest sampled temperature, where no other is given
_REASONS = 3  #: so many are kept of a student's failures
_COMPANION = {"ultra-tiny": "tiny"}  # of a preset that runs alone; else ultra-tiny

#: labels of frames, by a name that an interruption does not change; those without a label are left out
Label = Callable[[list[Atoms], str], LabelledSet]
#: when the runs of a preset must end
Until = Callable[[str], float | None]


def round_path(folder: Path, number: int, preset: str) -> Path:
    """The student file of a round."""
    return folder / "rounds" / str(number) / f"{preset}.safetensors"


def frames_path(folder: Path, number: int, name: str) -> Path:
    """What a round kept to learn from: ``frames``, and ``failures``, the last of each run that failed."""
    return folder / "rounds" / str(number) / f"{name}.extxyz"


@dataclass(frozen=True)
class Trialled:
    """One student in one round.

    Attributes
    ----------
    test, on_policy: errors on the test set, and on frames of its own dynamics before anything
        was wrong (None where none was labelled).
    runs, survived: of its own dynamics. shortest_ps, mean_ps: how long they lasted (None without runs).
    reasons: why runs ended, the first few.
    """

    test: Metrics
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
class Examiner:
    """Runs the students of a round, in the run's folder."""

    config: DistillConfig
    folder: Path
    trial: Trial
    starts: Sequence[Atoms]
    label: Label
    clock: RunClock
    progress: Progress
    short: Stop  # of a companion's training

    @property
    def temperature_k(self) -> float:
        """Of the students' runs."""
        return self.config.rounds.temperature_K or HOTTER * self.trial.hottest_k

    @property
    def timestep_fs(self) -> float:
        """Of the students' runs."""
        return self.config.validation.timestep_fs or timestep_fs(self.starts)

    def examine(self, lesson: Lesson, known: StructureBatch, number: int, until: Until) -> Round:
        """What round ``number`` sees of the students in its folder.

        Parameters
        ----------
        known: structures that say how far students usually differ.
        until: when the runs of a preset must end (``time.monotonic``), None for never.
        """
        kept = self.folder / "rounds" / str(number) / "seen.json"
        hashes = {
            preset: hash_file(round_path(self.folder, number, preset)) for preset in self.config.presets
        }
        if kept.exists():
            found = json.loads(kept.read_text(encoding="utf-8"))
            if found["hashes"] == hashes:
                return Round.from_dict(found["round"])
        students = {
            preset: Student.load(round_path(self.folder, number, preset)) for preset in self.config.presets
        }
        members = [*students.values(), *self._companions(lesson, number)]
        settings = self.config.rounds
        judge = Ensemble(members, known, settings.spread_factor, settings.spread_share)
        key = "-".join(sorted(hashes.values()))
        runs = {p: self._runs(p, students[p], judge, f"{p}-{key}", number, until) for p in students}
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
        """A second opinion for a preset that runs alone: a small student, trained as an interim student is."""
        if len(self.config.presets) > 1:
            return []
        preset = _COMPANION.get(self.config.presets[0], "ultra-tiny")
        path = self.folder / "rounds" / str(number) / f"companion-{preset}.safetensors"
        if not path.exists():
            record, _ = train_student(
                preset,
                lesson,
                self.config.training,
                self.short,
                path.with_suffix(""),
                seed=self.config.seed + 1000 + number,
                progress=self.clock.ticking(self.progress, f"round {number} companion"),
            )
            save_student(path, record)
        return [Student.load(path)]

    def _runs(
        self, preset: str, student: Student, judge: Ensemble, key: str, number: int, until: Until
    ) -> list[Survival]:
        settings = self.config.rounds
        starts = strained_starts(self.starts, settings.starts, settings.strain)
        timestep = self.timestep_fs
        total = round(settings.starts * settings.duration_ps * 1000 / timestep)
        done = 0
        task = self.clock.ticking(self.progress, f"round {number}")

        def on_step() -> None:
            nonlocal done
            done += 1
            if done % 100 == 0:
                task(f"{preset}'s own dynamics", min(done, total), total)

        ends = until(preset)
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
            stop=lambda: ends is not None and time.monotonic() > ends,
        )

    def _trialled(self, preset: str, student: Student, runs: Sequence[Survival], number: int) -> Trialled:
        test = self.trial.test
        frames = [f for run in runs for f in run.spread_out(self.config.rounds.frames_on_the_way)]
        on_policy = self._errors(student, self.label(frames, f"round-{number}-{preset}")) if frames else None
        reached = [run.reached_ps for run in runs]
        return Trialled(
            test=self._errors(student, test) or {},
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
                write_frames(frames_path(self.folder, number, name), chosen)
