"""From starting structures to labelled sets: sampling, labelling, and the interim student that drives MD."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms

from limbeck.core.checks import check_structures
from limbeck.core.labels import LabelledSet
from limbeck.core.potential import Potential
from limbeck.errors import InputError
from limbeck.labelling.run import LabelReport, label
from limbeck.planning.plan import INTERIM_PRESET, LEAST_LABELS, Plan, is_student_driven
from limbeck.records.label_store import LabelStore
from limbeck.runtime.student import Student
from limbeck.sampling import SamplingConfig, TimeLimit, run_sampling
from limbeck.sampling.steps import Preparing
from limbeck.training.loop import Stop
from limbeck.workflows.run import Run
from limbeck.workflows.students import save_student, train_student
from limbeck.workflows.training_data import (
    LabelSource,
    audit_named,
    check_some_kept,
    make_training_sets,
    repaired,
)

TEST_SET = "test"
_STAGE = "labels-"  #: and a number: the labels from which an interim student learns


@dataclass
class LabelledSampling:
    """Samples and labels one run; every piece of work is keyed, so a second call repeats nothing.

    Labels to train on and those of the test set lie in stores, and come from samplings, of their own.

    Attributes
    ----------
    notes: trajectories that ended early, work that the budget cut short; each once.
    lost: frames without a label that can be trained on, and why; each once.
    """

    run: Run
    store: LabelStore
    notes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def collect(self, starts: Sequence[Atoms], plan: Plan) -> LabelSource:
        """Frames of the plan, labelled; an interim student is trained before each step that it drives.

        With a default sampling each stage has its share of the time: labels of a slow teacher leave the
        dynamics that follows its own. The labels are as the store holds them:
        :mod:`limbeck.workflows.training_data` audits them.
        """
        sampling = plan.sampling
        potentials: dict[str, Potential] = {"teacher": self.run.teacher}
        known = 0
        student_driven = [k for k, step in enumerate(sampling.steps) if is_student_driven(step)]
        for count, end in enumerate([*student_driven, len(sampling.steps)]):
            part = sampling.model_copy(update={"steps": sampling.steps[:end]})
            is_last = count == len(student_driven)
            if not is_last and all(isinstance(step, Preparing) for step in part.steps):
                raise InputError(
                    "the first sampling step is driven by an interim student, but there are no labels yet",
                    wanted="a rattle, strain or teacher-driven md step before it",
                )
            made_until, until = self._stage_ends(plan, count)
            frames = self._frames(starts, part, potentials, "", self._limit(plan, made_until))
            if not is_last:
                labelled = self.label(frames, f"{_STAGE}{count}", until, told=False, known=known)
                known = len(frames)
                potentials[sampling.names[end]] = self._interim_student(labelled, count, plan.interim_s)
        labelled, numbers = self._read(frames, "labels", until, known)
        return LabelSource(str(self.store.path), labelled, numbers)

    def collect_test_set(self, starts: Sequence[Atoms], plan: Plan) -> LabelledSet:
        """Frames and labels of the test set, from trajectories of their own.

        With a budget its dynamics and labels end by ``plan.test_set_until_s``, whatever the teacher
        turns out to take: fewer trajectories, each temperature its share of them.
        """
        until = plan.test_set_until_s
        limit = self._limit(plan, until, labels=True)
        frames = self._frames(starts, plan.test, {"teacher": self.run.teacher}, f"{TEST_SET}/", limit)
        return self.label(frames, TEST_SET, until)

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
        labelled, replaced = repaired(labelled)
        named = [f"{_prefix(name)}frame {k}" for k in numbers]
        kept, reasons = audit_named(labelled, named, self.run.config.labelling.max_force_ev_per_a)
        if told:
            _add(self.notes, replaced)
            _add(self.lost, reasons)
        if needed:
            check_some_kept(kept, reasons)
        return labelled.select(kept)

    def _stage_ends(self, plan: Plan, count: int) -> tuple[float, float] | tuple[None, None]:
        """Until when, in seconds spent, the dynamics and the labels of stage ``count`` may last."""
        if plan.labels_until_s is None:
            return None, None
        training_s = (plan.interim_students - count) * plan.interim_s
        ends = self.run.state.time.stage_ends(plan.labels_until_s, plan.stages_s[count:], training_s)
        made, labelled = self.run.state.once(f"stage_{count}_until_s", ends)
        return float(made), float(labelled)

    def _limit(self, plan: Plan, until_s: float | None, *, labels: bool = False) -> TimeLimit | None:
        if until_s is None:
            return None
        planned = {"teacher": plan.label_s * self.run.config.labelling.workers}
        return TimeLimit(lambda: until_s - self.run.state.time.spent_s, planned, labels)

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
            self.run.ticking("test set" if prefix else ""),
            cache_dir=self.run.folder.sampling,
            parallel=self.run.config.labelling.workers,
            prefix=prefix,
            notes=notes,
            limit=limit,
        )
        _add(self.notes, notes)
        check_structures(frames, "sampled frames")
        return frames

    def _read(
        self, frames: Sequence[Atoms], name: str, until_s: float | None, known: int
    ) -> tuple[LabelledSet, np.ndarray]:
        """Labels of ``frames`` as the store holds them, and the number of each one's frame."""
        order, report = self._evaluate(frames, name, until_s, known)
        key_of = dict(zip(order.tolist(), report.keys, strict=True))
        failed = {int(order[f.index]): f.reason for f in report.failed}
        missing = sorted(k for k, key in key_of.items() if key not in self.store and k not in failed)
        left_out = self.run.state.once(name, missing)
        if left_out and not name.startswith(_STAGE):  # a later stage may still come to them
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
        run = self.run
        tick = run.ticking("test set" if name == TEST_SET else "")
        order = np.arange(len(frames))
        if until_s is not None:
            # In random order where time may end before the frames do: every step keeps its share.
            order = np.random.default_rng(run.config.seed).permutation(len(frames))
            order = np.concatenate([order[order >= known], order[order < known]])
        deadline_s = None
        left_out = run.state.get(name)
        if left_out is not None:
            order = np.setdiff1d(order, left_out)
        elif until_s is not None:
            label([frames[int(k)] for k in order[:LEAST_LABELS]], run.teacher, self.store, progress=tick)
            deadline_s = max(0.0, until_s - run.state.time.spent_s)
        chosen = [frames[int(k)] for k in order]
        return order, label(chosen, run.teacher, self.store, progress=tick, deadline_s=deadline_s)

    def _interim_student(self, labelled: LabelledSet, count: int, seconds: float) -> Student:
        config, labels = self.run.config, labelled.labels
        what = labels.forces.tobytes() + labels.energy.tobytes() + str(config.seed).encode()
        path = self.run.folder.interim_student(count, hashlib.sha256(what).hexdigest()[:12])
        if not path.exists():
            sets = make_training_sets(labelled, 0.1, config.seed, {}, {"name": self.run.teacher.name})
            record, trained = train_student(
                INTERIM_PRESET,
                sets,
                config.training.model_copy(update={"epochs": None, "checks": 5}),
                Stop(budget_s=self.run.state.once(f"interim_{count}_s", seconds)),
                path.with_suffix(""),
                seed=config.seed,
                progress=self.run.ticking("interim student"),
            )
            save_student(path, record)
            self.run.say(
                f"interim student {count + 1}: {len(sets.train)} labels, force RMSE "
                f"{trained.validation['force_rmse_mev_per_a']:.0f} meV/Å on {len(sets.validation)} others"
            )
        interim = Student.load(path)
        interim.name = path.stem  # holds the hash of what it learned from, so trajectories are keyed by it
        return interim


def _prefix(name: str) -> str:
    return "test " if name == TEST_SET else ""


def _add(texts: list[str], more: Sequence[str]) -> None:
    """Each text once, however often its work is looked at again."""
    texts += [text for text in dict.fromkeys(more) if text not in texts]
