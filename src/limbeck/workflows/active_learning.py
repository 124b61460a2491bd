"""Active learning: students run hot, compressed and stretched, and learn from where they fail.

Each iteration runs MD with every student from several starts, until the first frame that is unphysical or
outside the training domain. The teacher labels frames from just before it, and some on the way. An interim
student, trained on these for a minute, continues from where the runs stopped, and frames of its MD are
labelled too, so that one iteration covers more than the first picoseconds beyond the training domain. Then
training continues. Query by committee, as in DP-GEN (Zhang et al. 2019, arXiv:1810.11890), with a physical
check in addition.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.core.files import write_whole
from limbeck.core.frames import TrajectoryCache
from limbeck.core.hashing import hash_file
from limbeck.core.labels import LabelledSet, concatenate_labelled
from limbeck.dataset.split import split
from limbeck.planning.plan import INTERIM_PRESET, Plan, untrained_step_s
from limbeck.planning.recipes import timestep_fs
from limbeck.records.metrics import Errors, read
from limbeck.records.run_folder import IterationFolder
from limbeck.records.time_budget import LEAST_TRAINING_S
from limbeck.runtime.student import Student
from limbeck.sampling import MD, SamplingConfig, read_frames, run_sampling, write_frames
from limbeck.sampling.run import NoFrames
from limbeck.training.loop import Stop
from limbeck.validation.ensemble import Ensemble
from limbeck.validation.metrics import compute_metrics
from limbeck.validation.run import predict
from limbeck.validation.stability import StabilityRun, run_stability, strained_starts
from limbeck.workflows.evaluation import EvaluationData
from limbeck.workflows.run import Run
from limbeck.workflows.students import save_student, train_student
from limbeck.workflows.table import format_iterations
from limbeck.workflows.training_data import TrainingSets, without_test

_LATER_RATE = 0.5  #: of the peak learning rate, for training that starts from a student
_LEAST_TO_SPLIT = 10  #: fewer new labels than this all train
_HOTTER = 1.25  #: over the highest sampled temperature, where no other is given
_REASONS = 3  #: the number kept of a student's failures
_MEMBER = {"ultra-tiny": "tiny"}  # of a preset that runs alone; else ultra-tiny

#: labels of frames, by a name that an interruption does not change; those without a label are left out
Label = Callable[[list[Atoms], str], LabelledSet]


@dataclass(frozen=True)
class StudentInIteration:
    """One student in one iteration.

    Attributes
    ----------
    test, on_policy: errors on the test set, and on frames of its own dynamics before anything
        was wrong (None where none was labelled).
    runs, stable: of its own dynamics. shortest_ps, mean_ps: how long they lasted (None without runs).
    reasons: why runs ended, the first few.
    """

    test: Errors
    on_policy: Errors | None
    runs: int
    stable: int
    shortest_ps: float | None
    mean_ps: float | None
    reasons: list[str]


@dataclass(frozen=True)
class Iteration:
    """What one iteration saw. number: 0 is before any failure was learned from. labels: trained on."""

    number: int
    labels: int
    students: dict[str, StudentInIteration]

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Iteration:
        """Inverse of ``dataclasses.asdict``."""
        students = {}
        for name, values in fields["students"].items():
            errors = {key: values[key] and read(Errors, values[key]) for key in ("test", "on_policy")}
            students[name] = StudentInIteration(**values | errors)
        return cls(fields["number"], fields["labels"], students)


@dataclass
class ActiveLearning:
    """The iterations of one run; the students, MD and figures of each are kept in its folder."""

    run: Run
    plan: Plan
    evaluation: EvaluationData
    starts: Sequence[Atoms]
    label: Label
    iterations: list[Iteration] = field(default_factory=list)

    def iterate(self, sets: TrainingSets) -> list[Iteration]:
        """Iterations until the targets are met or the time is up; what each one saw."""
        last = self.run.config.active_learning.iterations
        # What is usual stays what it was before the first failure: else the limit would rise with each.
        self.known = sets.validation.structures
        for number in range(last + 1):
            if number:
                sets = self._widened(sets, number)
            self._train(sets, number)
            seen = self._examine(sets, number)
            self.iterations.append(seen)
            self.run.say(format_iterations([asdict(seen)]))
            if self._met(seen):
                break
            if number < last and self._left_s() < 2 * LEAST_TRAINING_S:
                self.run.say("note: the budget leaves no time for another iteration")
                break
        return self.iterations

    def _met(self, seen: Iteration) -> bool:
        settings = self.run.config.active_learning
        return all(
            s.runs == settings.starts
            and s.stable >= settings.stable_share * s.runs
            and s.on_policy is not None
            and (s.on_policy.force_r2 or 0.0) >= settings.force_r2
            for s in seen.students.values()
        )

    def _folder(self, number: int) -> IterationFolder:
        return self.run.folder.iteration(number)

    @property
    def _reserved_s(self) -> float:
        """What follows the last iteration."""
        return self.plan.reserved_s(self.run.config.presets)

    def _left_s(self) -> float:
        return self.run.state.time.left_s(self._reserved_s)

    # ---- training ----------------------------------------------------------------------------------

    def _train(self, sets: TrainingSets, number: int) -> None:
        config, time = self.run.config, self.run.state.time
        own = time.part(
            time.iteration_training_s(
                number, config.active_learning.iterations, self._runs_s if number else 0.0, self._reserved_s
            )
        )
        for k, preset in enumerate(config.presets):
            stop = Stop(epochs=config.training.epochs, until=own.training_ends(config.presets[k:]))
            self._learn(self._folder(number).student(preset), preset, sets, stop, number)

    def _learn(
        self,
        path: Path,
        preset: str,
        sets: TrainingSets,
        stop: Stop,
        number: int,
        who: str = "",
        *,
        fresh: bool = False,
    ) -> None:
        """Make a student that is not there, from that of the iteration before unless ``fresh``."""
        if path.exists():
            return
        config = self.run.config
        training, before = config.training, None
        if number and not fresh:
            before = self._folder(number - 1).student(preset)
            training = training.model_copy(update={"learning_rate": _LATER_RATE * training.learning_rate})
        record, _ = train_student(
            preset,
            sets,
            training,
            stop,
            path.with_suffix(""),
            seed=config.seed + number + 1000 * fresh,
            init=before,
            same_origin=True,
            progress=self.run.ticking(f"iteration {number} {who}".strip()),
        )
        save_student(path, record)
        self.run.state.save()

    @cached_property
    def _runs_s(self) -> float:
        """What the runs of all students of an iteration take where they last to the end."""
        config, structure = self.run.config, self.starts[0]
        settings = config.active_learning
        step_s = sum(untrained_step_s(p, structure, config.training.cutoff) for p in config.presets)
        return step_s * settings.starts * settings.duration_ps * 1000.0 / self._timestep_fs

    @property
    def _short_stop(self) -> Stop:
        """The end of training that takes a minute: of interim students and committee members."""
        epochs = self.run.config.training.epochs
        return Stop(budget_s=self.plan.interim_s) if epochs is None else Stop(epochs=epochs)

    # ---- what the students do ------------------------------------------------------------------------

    @property
    def _temperature_k(self) -> float:
        return self.run.config.active_learning.temperature_K or _HOTTER * self.evaluation.hottest_k

    @property
    def _timestep_fs(self) -> float:
        return self.run.config.validation.timestep_fs or timestep_fs(self.starts)

    def _examine(self, sets: TrainingSets, number: int) -> Iteration:
        """Run the students of an iteration; the figures, and the frames that the next one learns from."""
        config, folder = self.run.config, self._folder(number)
        hashes = {preset: hash_file(folder.student(preset)) for preset in config.presets}
        if folder.seen.exists():
            found = json.loads(folder.seen.read_text(encoding="utf-8"))
            if found["hashes"] == hashes:
                return Iteration.from_dict(found["iteration"])
        students = {preset: Student.load(folder.student(preset)) for preset in config.presets}
        settings = config.active_learning
        committee = Ensemble(
            [*students.values(), *self._committee_members(sets, number)],
            self.known,
            settings.deviation_factor,
            settings.deviation_share,
        )
        key = "-".join(sorted(hashes.values()))
        runs = {p: self._runs(p, students[p], committee, f"{p}-{key}", number) for p in students}
        ended = [run for own in runs.values() for run in own]
        on_the_way, at_failure = settings.frames_on_the_way, settings.frames_at_failure
        frames = [f for run in ended for f in (*run.spread_out(on_the_way), *run.last(at_failure))]
        failures = [frame for run in ended for frame in run.last(1)]
        for path, chosen in ((folder.frames, frames), (folder.failures, failures)):
            if chosen:
                write_frames(path, chosen)
        found = {p: self._summarise(p, students[p], runs[p], number) for p in students}
        seen = Iteration(number, len(sets.train), found)
        write_whole(folder.seen, json.dumps({"hashes": hashes, "iteration": asdict(seen)}, indent=1))
        self.run.state.save()
        return seen

    def _committee_members(self, sets: TrainingSets, number: int) -> list[Student]:
        """A committee member for a preset that runs alone: a small student, trained as an interim one is."""
        config = self.run.config
        if len(config.presets) > 1:
            return []
        preset = _MEMBER.get(config.presets[0], "ultra-tiny")
        path = self._folder(number).student(f"committee-{preset}")
        self._learn(path, preset, sets, self._short_stop, number, "committee member", fresh=True)
        return [Student.load(path)]

    def _runs(
        self, preset: str, student: Student, committee: Ensemble, key: str, number: int
    ) -> list[StabilityRun]:
        config, time = self.run.config, self.run.state.time
        settings, timestep = config.active_learning, self._timestep_fs
        total = round(settings.starts * settings.duration_ps * 1000 / timestep)
        done = 0
        task = self.run.ticking(f"iteration {number}")

        def on_step() -> None:
            nonlocal done
            done += 1
            if done % 100 == 0:
                task(f"{preset}'s own dynamics", min(done, total), total)

        to_come = len(config.presets) - config.presets.index(preset)
        own = time.part(time.iteration_runs_s(number, settings.iterations, to_come, self._reserved_s))
        return run_stability(
            student,
            strained_starts(self.starts, settings.starts, settings.strain),
            temperature_k=self._temperature_k,
            duration_ps=settings.duration_ps,
            timestep_fs=timestep,
            seed=config.seed + 31,
            name=f"iteration-{number}-{preset}",
            objection=committee.objection,
            cache=TrajectoryCache(self._folder(number).runs),
            key=key,
            on_step=on_step,
            stop=lambda: own.left_s() < 0,
        )

    def _summarise(
        self, preset: str, student: Student, runs: Sequence[StabilityRun], number: int
    ) -> StudentInIteration:
        frames = [
            f for run in runs for f in run.spread_out(self.run.config.active_learning.frames_on_the_way)
        ]
        own = self.label(frames, f"iteration-{number}-{preset}") if frames else None
        reached = [run.reached_ps for run in runs]
        return StudentInIteration(
            test=_errors(student, self.evaluation.test) or Errors(),
            on_policy=None if own is None else _errors(student, own),
            runs=len(runs),
            stable=sum(run.stable for run in runs),
            shortest_ps=min(reached, default=None),
            mean_ps=float(np.mean(reached)) if reached else None,
            reasons=[run.reason for run in runs if run.reason][:_REASONS],
        )

    # ---- what is learned from it -------------------------------------------------------------------

    def _widened(self, sets: TrainingSets, number: int) -> TrainingSets:
        """``sets`` and the labels of what the iteration before met and of what lies beyond."""
        path = self._folder(number - 1).frames
        if path.exists():
            sets = self._joined(sets, self.label(read_frames(path), f"iteration-{number}"))
        beyond = self._beyond(sets, number)
        return self._joined(sets, self.label(beyond, f"iteration-{number}-beyond")) if beyond else sets

    def _joined(self, sets: TrainingSets, more: LabelledSet) -> TrainingSets:
        """``sets`` with more labels, split by their groups; the validation set keeps its structures."""
        config = self.run.config
        more = without_test(more, self.evaluation.test, self.run.say)
        if not len(more):
            return sets
        train, validation = more, sets.validation
        if len(more) >= _LEAST_TO_SPLIT and isinstance(config.val, float):
            train, own = split(more, config.val, config.seed).parts(more)
            validation = concatenate_labelled([validation, own])
        return replace(sets, train=concatenate_labelled([sets.train, train]), validation=validation)

    def _beyond(self, sets: TrainingSets, number: int) -> list[Atoms]:
        """Frames of MD driven by an interim student from the last frames of the students' failures."""
        config, before = self.run.config, self._folder(number - 1)
        settings = config.active_learning
        if not settings.frames_beyond or not before.failures.exists():
            return []
        starts = read_frames(before.failures)
        step = MD(
            name=f"beyond-{number}",
            temperature_K=self._temperature_k,
            frames=settings.frames_beyond,
            every_fs=1000.0 * settings.beyond_ps / settings.frames_beyond,
            equilibrate_fs=0.0,
            timestep_fs=timestep_fs(starts),
            driver="student",
        )
        try:
            return run_sampling(
                starts,
                SamplingConfig(seed=config.seed + number, steps=(step,)),
                {"student": self._interim_student(sets, number)},
                self.run.ticking(f"iteration {number}"),
                cache_dir=before.beyond,
                parallel=config.labelling.workers,
            )
        except NoFrames:
            self.run.say(
                "note: every run of the interim student was unphysical at once; the labels before it must do"
            )
            return []

    def _interim_student(self, sets: TrainingSets, number: int) -> Student:
        """A student of the iteration before, trained on for a minute."""
        presets = self.run.config.presets
        preset = INTERIM_PRESET if INTERIM_PRESET in presets else presets[0]
        path = self._folder(number - 1).student(f"interim-{preset}")
        self._learn(path, preset, sets, self._short_stop, number, "student")
        interim = Student.load(path)
        interim.name = f"{path.stem}-{hash_file(path)[:12]}"  # trajectories are keyed by it
        return interim


def _errors(student: Student, labelled: LabelledSet) -> Errors | None:
    if not len(labelled):
        return None
    return compute_metrics(labelled.structures, labelled.labels, predict(student, labelled.structures))
