"""From starting structures to labelled sets: sampling, labelling, and the interim student that drives MD."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms

from limbeck.config import DistillConfig
from limbeck.core.checks import check_structures
from limbeck.core.labels import LabelledSet
from limbeck.core.potential import Potential
from limbeck.errors import InputError, LimbeckError
from limbeck.labelling.audit import audit
from limbeck.labelling.remote import WorkerPotential
from limbeck.labelling.run import LabelReport, label
from limbeck.labelling.store import LabelStore
from limbeck.pipeline.clock import RunClock
from limbeck.pipeline.costs import INTERIM_PRESET
from limbeck.pipeline.folder import LABELS, TEST
from limbeck.pipeline.lessons import make_lesson, mended
from limbeck.pipeline.planning import LEAST_LABELS, Plan, is_student_driven
from limbeck.pipeline.students import save_student, train_student
from limbeck.pipeline.telling import Say
from limbeck.pipeline.training_data import LabelSource
from limbeck.progress import Progress
from limbeck.runtime.student import Student
from limbeck.sampling.config import SamplingConfig
from limbeck.sampling.run import run_sampling
from limbeck.sampling.schedule import TimeLimit
from limbeck.sampling.steps import Preparing
from limbeck.training.loop import Stop

STAGE = "labels-"  #: and a number: the labels from which an interim student learns
#: of a stage's time, what its dynamics may take beyond the plan: more trajectories than there will be labels
#: for cost little, and too few cost labels
_SLACK = 0.1


@contextmanager
def open_stores(folder: Path) -> Iterator[tuple[LabelStore, LabelStore]]:
    """The label stores of a run: that to train and validate on, and that of its test set.

    What an earlier version stored of the test set among the training labels is copied to where it belongs.
    """
    with LabelStore(folder / LABELS) as labels, LabelStore(folder / TEST) as test:
        labels.copy_earlier_test(test)
        yield labels, test


@dataclass
class Collector:
    """Samples and labels one run; every piece of work is keyed, so a second call repeats nothing.

    Labels to train on and those of the test set lie in stores, and come from collectors, of their own.

    Attributes
    ----------
    notes: trajectories that ended early, work that the budget cut short; each once.
    lost: frames without a label that can be trained on, and why; each once.
    """

    config: DistillConfig
    folder: Path
    teacher: WorkerPotential
    store: LabelStore
    clock: RunClock
    progress: Progress
    say: Say
    notes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def collect(self, starts: Sequence[Atoms], plan: Plan) -> LabelSource:
        """Frames of the plan, labelled; before each student-driven step an interim student learns from the rest.

        With a default sampling each stage has its share of the time: labels of a slow teacher leave the
        dynamics that follows its own. The labels are as the store holds them:
        :mod:`limbeck.pipeline.training_data` audits them.
        """
        sampling = plan.sampling
        potentials: dict[str, Potential] = {"teacher": self.teacher}
        known = 0
        student_driven = [k for k, step in enumerate(sampling.steps) if is_student_driven(step)]
        for count, k in enumerate(student_driven):
            before = sampling.model_copy(update={"steps": sampling.steps[:k]})
            if not any(not isinstance(step, Preparing) for step in before.steps):
                raise InputError(
                    "the first sampling step is driven by an interim student, which has nothing to learn from",
                    wanted="a rattle, strain or teacher-driven md step before it",
                )
            made_s, until = self._stage(plan, count)
            frames = self._frames(starts, before, potentials, "", self._limit(plan, made_s))
            labelled = self.label(frames, f"{STAGE}{count}", until, told=False, known=known)
            known = len(frames)
            potentials[sampling.names[k]] = self._interim_student(labelled, count, plan.interim_s)
        made_s, until = self._stage(plan, len(student_driven))
        frames = self._frames(starts, sampling, potentials, "", self._limit(plan, made_s))
        labelled, numbers = self._read(frames, "labels", until, known)
        return LabelSource(str(self.store.path), labelled, numbers)

    def _stage(self, plan: Plan, count: int) -> tuple[float, float] | tuple[None, None]:
        """Until when, in seconds spent, the dynamics and the labels of stage ``count`` may last.

        What is left when it begins is divided as the plan divides it, whatever came of the plan before.
        """
        until, stages = plan.labels_until_s, plan.stages_s[count:]
        if until is None:
            return None, None
        if not stages:  # a plan of an earlier version
            return until, until
        now = self.clock.spent_s
        left_s = max(0.0, until - now - (plan.interim_students - count) * plan.interim_s)
        stage_s = left_s * sum(stages[0]) / max(sum(map(sum, stages)), 1e-9)
        made_s = stage_s * min(1.0, stages[0][0] / max(sum(stages[0]), 1e-9) + _SLACK)
        ends = self.clock.once(f"stage_{count}_until_s", [now + made_s, now + stage_s])
        return float(ends[0]), float(ends[1])

    def _limit(self, plan: Plan, until_s: float | None, *, labels: bool = False) -> TimeLimit | None:
        if until_s is None:
            return None
        planned = {"teacher": plan.label_s * self.config.labelling.workers}
        return TimeLimit(lambda: until_s - self.clock.spent_s, planned, labels)

    def collect_test_set(self, starts: Sequence[Atoms], plan: Plan) -> LabelledSet:
        """Frames and labels of the test set, from trajectories of their own.

        With a budget its dynamics and labels end by ``plan.test_set_until_s``, whatever the teacher
        turns out to take: fewer trajectories, each temperature its share of them.
        """
        until = plan.test_set_until_s
        limit = self._limit(plan, until, labels=True)
        frames = self._frames(starts, plan.test, {"teacher": self.teacher}, f"{TEST}/", limit)
        return self.label(frames, TEST, until)

    def _frames(
        self,
        starts: Sequence[Atoms],
        sampling: SamplingConfig,
        potentials: dict[str, Potential],
        prefix: str,
        limit: TimeLimit | None,
    ) -> list[Atoms]:
        notes: list[str] = []
        frames = run_sampling(
            starts,
            sampling,
            potentials,
            self.clock.ticking(self.progress, "test set" if prefix else ""),
            cache_dir=self.folder / "sampling",
            parallel=self.config.labelling.workers,
            prefix=prefix,
            notes=notes,
            limit=limit,
        )
        _add(self.notes, notes)
        check_structures(frames, "sampled frames")
        return frames

    def label(
        self,
        frames: Sequence[Atoms],
        name: str,
        until_s: float | None = None,
        *,
        needed: bool = True,
        told: bool = True,
        known: int = 0,
    ) -> LabelledSet:
        """Labels of ``frames``, in their order; those not begun when ``until_s`` is spent go without.

        The first ``known`` had their turn before: what is left of them comes last. How far it came is a
        fact of the run: interrupted and called again, it labels the same frames.
        ``told``: whether what the audit leaves out is noted; else whoever trains on the labels does that.

        Raises
        ------
        LimbeckError: no label is usable, where one is ``needed``.
        """
        labelled, numbers = self._read(frames, name, until_s, known)
        labelled, replaced = mended(labelled)
        kept, dropped = audit(labelled, max_force_ev_per_a=self.config.labelling.max_force_ev_per_a)
        reasons = [f"{_prefix(name)}frame {numbers[d.index]} left out: {d.reason}" for d in dropped]
        if told:
            _add(self.notes, replaced)
            _add(self.lost, reasons)
        if needed and not len(kept):
            raise LimbeckError(
                "no label survived the audit",
                got=f"{len(reasons)} frames lost" + (f", the first: {reasons[0]}" if reasons else ""),
                remedy="look at the structures, or raise labelling.max_force_ev_per_a",
            )
        return labelled.select(kept)

    def _read(
        self, frames: Sequence[Atoms], name: str, until_s: float | None, known: int
    ) -> tuple[LabelledSet, np.ndarray]:
        """Labels of ``frames`` as the store holds them, and the number of each one's frame."""
        order, report = self._evaluate(frames, name, until_s, known)
        key_of = dict(zip(order.tolist(), report.keys, strict=True))
        failed = {int(order[f.index]): f.reason for f in report.failed}
        left_out = self.clock.once(
            name, sorted(k for k, key in key_of.items() if key not in self.store and k not in failed)
        )
        if left_out and not name.startswith(STAGE):  # a later stage may still come to them
            done = f"{len(frames) - len(left_out)} of {len(frames)} {_prefix(name)}frames"
            _add(self.notes, [f"labelling stopped at its share of the budget: {done} have labels"])
        _add(self.lost, [f"{_prefix(name)}frame {k} has no label: {r}" for k, r in sorted(failed.items())])
        # structures that were sampled twice have one label, that of the first
        frame_of = {key_of[k]: k for k in sorted(key_of, reverse=True) if key_of[k] in self.store}
        keys = sorted(frame_of, key=frame_of.__getitem__)
        return self.store.read(keys), np.array([frame_of[key] for key in keys], np.int64)

    def _evaluate(
        self, frames: Sequence[Atoms], name: str, until_s: float | None, known: int
    ) -> tuple[np.ndarray, LabelReport]:
        """Which frames were to be labelled, in what order, and the report."""
        tick = self.clock.ticking(self.progress, "test set" if name == TEST else "")
        order = np.arange(len(frames))
        if until_s is not None:
            # In random order where time may end before the frames do: every step keeps its share.
            order = np.random.default_rng(self.config.seed).permutation(len(frames))
            order = np.concatenate([order[order >= known], order[order < known]])
        deadline_s = None
        left_out = self.clock.get(name)
        if left_out is not None:
            order = np.setdiff1d(order, left_out)
        elif until_s is not None:
            least = [frames[int(k)] for k in order[:LEAST_LABELS]]
            label(least, self.teacher, self.store, progress=tick)
            deadline_s = max(0.0, until_s - self.clock.spent_s)
        chosen = [frames[int(k)] for k in order]
        return order, label(chosen, self.teacher, self.store, progress=tick, deadline_s=deadline_s)

    def _interim_student(self, labelled: LabelledSet, count: int, seconds: float) -> Student:
        digest = hashlib.sha256(
            labelled.labels.forces.tobytes()
            + labelled.labels.energy.tobytes()
            + str(self.config.seed).encode()
        ).hexdigest()[:12]
        path = self.folder / "sampling" / f"interim-{count}-{digest}.safetensors"
        if not path.exists():
            lesson = make_lesson(labelled, 0.1, self.config.seed, {}, {"name": self.teacher.name})
            record, trained = train_student(
                INTERIM_PRESET,
                lesson,
                self.config.training.model_copy(update={"epochs": None, "checks": 5}),
                Stop(budget_s=self.clock.once(f"interim_{count}_s", seconds)),
                path.with_suffix(""),
                seed=self.config.seed,
                progress=self.clock.ticking(self.progress, "interim student"),
            )
            save_student(path, record)
            self.say(
                f"interim student {count + 1}: {len(lesson.train)} labels, force RMSE "
                f"{trained.validation['force_rmse_mev_per_a']:.0f} meV/Å on {len(lesson.validation)} others"
            )
        interim = Student.load(path)
        interim.name = path.stem  # holds the hash of what it learned from, so trajectories are keyed by it
        return interim


def _prefix(name: str) -> str:
    return "test " if name == TEST else ""


def _add(texts: list[str], more: Sequence[str]) -> None:
    """Each text once, however often its work is looked at again."""
    texts += [text for text in dict.fromkeys(more) if text not in texts]
