"""`limbeck distill`: plan, sample, label, split, train, judge, tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from ase import Atoms

from limbeck.artifact.file import StudentRecord, read_student
from limbeck.benchmark.speed import seconds_per_step
from limbeck.config import (
    DistillConfig,
    ValidationConfig,
    config_from_values,
    format_budget,
    load_config,
    resolved_yaml,
)
from limbeck.core.devices import require_training
from limbeck.core.labels import LabelledSet
from limbeck.core.structures import StructureBatch
from limbeck.labelling.isolated import isolated_atom_energies
from limbeck.labelling.remote import WorkerPotential
from limbeck.labelling.store import LabelStore
from limbeck.pipeline.clock import RunClock
from limbeck.pipeline.costs import DYNAMICS_OVERHEAD_S, Costs, check_s, shortened
from limbeck.pipeline.examining import Round, round_path
from limbeck.pipeline.folder import LABELS, prepare_folder, say_if_finished
from limbeck.pipeline.judging import RUN, Trial, card_metrics, judge, read_judged, write_judged
from limbeck.pipeline.lessons import Lesson
from limbeck.pipeline.opening import (
    check_teacher_fits,
    open_configured,
    starting_structures,
)
from limbeck.pipeline.planning import (
    LEAST_TRAINING_S,
    Plan,
    one_end,
    plan,
    prepared,
    share_time,
    temperature_of,
)
from limbeck.pipeline.reach import measure_reach
from limbeck.pipeline.recipes import describe_system
from limbeck.pipeline.results import about_run, add_speeds, say_results, write_metrics
from limbeck.pipeline.rounds import RoundLoop
from limbeck.pipeline.sampling import Collector, open_stores
from limbeck.pipeline.students import save_student, say_idle_threads, train_student
from limbeck.pipeline.telling import Say, say_nothing, say_some
from limbeck.pipeline.training_data import LabelSource, Preparation, prepare_training_data
from limbeck.progress import Progress, format_seconds, no_progress
from limbeck.runtime.student import Student
from limbeck.sampling.frames import write_frames
from limbeck.teachers.support import check_supported
from limbeck.training.loop import Stop
from limbeck.validation.longrange import LongRangeReport

T = TypeVar("T")
_LATE = 1.25  # a stage that took longer than this multiple of its plan is remarked on


def distill(
    config: DistillConfig | Mapping[str, Any] | Path | str,
    out: Path | str | None = None,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress = no_progress,
    say: Say = print,
    began: float | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Distil a teacher into students; returns what metrics.json holds (or the plan, for a dry run).

    Interrupted at any moment, the same call in the same folder goes on.

    Parameters
    ----------
    config: a configuration, its values as a dict, or the path of a YAML file.
    out: the run folder, before that of the configuration. A dry run needs none and writes nothing.
    began: ``time.monotonic()`` from which the budget counts; now unless given.
    command: the command line, for the cards.

    Raises
    ------
    InputError: the structures, teacher, budget or folder do not fit. LimbeckError: work failed.
    """
    began = time.monotonic() if began is None else began
    config = _settled(as_config(config), say)
    require_training(config.training.device)
    spec = config.required_teacher()
    folder = None if dry_run else Path(out) if out is not None else config.run_folder()
    notes: list[str] = []
    starts = starting_structures(config, notes)
    for note in notes:
        say(f"note: {note}")
    check_teacher_fits(spec, starts)
    if folder is not None:
        prepare_folder(folder, resolved_yaml(config), overwrite=overwrite)
    finished = folder is not None and say_if_finished(folder, say)
    with open_configured(spec, config.labelling) as teacher:
        check_supported(teacher.card, StructureBatch.from_atoms(starts))
        if folder is None:
            system = describe_system(config, starts)
            dry = plan(config, starts, teacher, time.monotonic() - began)
            for line in _plan_lines(dry, system):
                say(line)
            return {"plan": dry.to_dict(), "system": system}
        clock = RunClock(folder, began)
        about = about_run(config.name, folder, command)
        quiet = say_nothing if finished else say
        ticking = no_progress if finished else progress
        return _Run(config, folder, teacher, clock, ticking, quiet, about, say).run(starts)


def _plan_lines(chosen: Plan, system: str) -> list[str]:
    """The plan for people, what it is for after the budget."""
    lines = chosen.lines()
    lines.insert(0 if chosen.budget_s is None else 1, system)
    return lines


def as_config(config: DistillConfig | Mapping[str, Any] | Path | str) -> DistillConfig:
    """The configuration that is given, or made of a dict's values or a YAML file."""
    if isinstance(config, DistillConfig):
        return config
    if isinstance(config, Mapping):
        return config_from_values(deepcopy(dict(config)))
    return load_config(config)


def _settled(config: DistillConfig, say: Say) -> DistillConfig:
    """The configuration with one end; says so where it gave two."""
    if config.budget is not None and config.training.epochs is not None:
        say(
            f"note: training ends after {config.training.epochs} epochs, which take the place of the "
            f"configuration's budget of {format_budget(config.budget)}"
        )
    return one_end(config)


@dataclass
class _Run:
    """One run in its folder: what its stages share. ``say_end``: for the results, as ``say`` may be mute."""

    config: DistillConfig
    folder: Path
    teacher: WorkerPotential
    clock: RunClock
    progress: Progress
    say: Say
    about: dict[str, Any]
    say_end: Say

    def run(self, starts: list[Atoms]) -> dict[str, Any]:
        chosen = self._plan(starts)
        write_frames(self.folder / "structures.extxyz", starts)
        with open_stores(self.folder) as (store, test_store):
            test_set, collector = self._collector(test_store), self._collector(store)
            test = self._timed(
                "the test set",
                chosen.test_set_s,
                lambda: test_set.collect_test_set(starts, chosen),
            )
            planned = chosen.labelling_s + chosen.interim_students * chosen.interim_s
            labels = self._timed("sampling and labelling", planned, lambda: collector.collect(starts, chosen))
        for note in (*test_set.notes, *collector.notes):
            self.say(f"note: {note}")
        lost = [*test_set.lost, *collector.lost]
        say_some(self.say, lost, "frames without a label")
        lesson = self._lesson(labels, test, starts)
        self.say(
            f"labels: {len(lesson.train)} to train on, {len(lesson.validation)} in the validation set, "
            f"{len(test)} in the test set"
        )
        say_idle_threads(self.config.training, lesson.train, self.say)
        write_frames(self.folder / "validation.extxyz", lesson.validation.to_atoms())
        write_frames(self.folder / "test.extxyz", test.to_atoms())
        hottest = self.config.validation.temperature_K or temperature_of(chosen.sampling, chosen.test)
        trial = Trial(lesson.validation, test, self.teacher, hottest, self.config.seed)
        rounds: list[Round] = []
        if self.config.rounds.n:
            loop = self._rounds(chosen, lesson, trial, starts)
            rounds = loop.rounds
        metrics = self._train_and_judge(chosen, lesson, trial, rounds) | {RUN: dict(self.about)}
        if rounds:
            metrics[RUN]["rounds"] = [seen.to_dict() for seen in rounds]
        add_speeds(metrics, self.folder, self.config.presets, trial)
        metrics[RUN]["teacher"]["long_range"] = lesson.teacher["long_range"]
        write_metrics(self.folder, metrics)
        say_results(metrics, self.folder, self.config.presets, trial, self.say_end)
        self.clock.save()
        return metrics

    def _plan(self, starts: list[Atoms]) -> Plan:
        kept = self.clock.get("plan")
        if kept is not None:
            self.say(f"going on after {format_seconds(self.clock.spent_s)}")
            return Plan.from_dict(kept)
        chosen = plan(self.config, starts, self.teacher, self.clock.spent_s)
        for line in _plan_lines(chosen, describe_system(self.config, starts)):
            self.say(line)
        self.clock.put("plan", chosen.to_dict())
        return chosen

    def _timed(self, what: str, planned_s: float, work: Callable[[], T]) -> T:
        began = time.monotonic()
        result = work()
        took = time.monotonic() - began
        if self.config.budget is not None and took > _LATE * planned_s + 1.0:
            self.say(
                f"note: {what} took {format_seconds(took)}, planned were {format_seconds(planned_s)}; "
                "what follows gets the rest of the budget"
            )
        self.clock.save()
        return result

    def _lesson(self, labels: LabelSource, test: LabelledSet, starts: Sequence[Atoms]) -> Lesson:
        config, teacher = self.config, self.teacher
        how = Preparation(
            config.val,
            config.seed,
            config.lint.ignore,
            config.keys.model_dump(),
            elements=tuple(sorted({int(z) for atoms in starts for z in atoms.numbers})),
            test=test,
            max_force_ev_per_a=config.labelling.max_force_ev_per_a,
        )
        card: dict[str, Any] = {"licence": teacher.card.licence, "citation": teacher.card.citation}
        lesson = prepare_training_data([labels], how, asdict(teacher.identity) | card, self.say)
        both = (lesson.train.structures.numbers, lesson.validation.structures.numbers)
        elements = sorted({int(z) for z in np.concatenate(both)})
        alone = self.clock.get("isolated_atoms_ev")
        if alone is None:
            found = isolated_atom_energies(teacher, elements)
            alone = self.clock.once("isolated_atoms_ev", {str(z): e for z, e in (found or {}).items()})
        references = {int(z): float(e) for z, e in alone.items()} or lesson.references
        known = lesson.teacher | {"long_range": self._reach(test)}
        return replace(lesson, references=references, teacher=known)

    def _reach(self, test: LabelledSet) -> list[dict[str, Any]]:
        """The teacher's forces beyond the students' reach; measured once a run."""
        kept = self.clock.get("long_range")
        if kept is None:
            kept = measure_reach(self.config, self.teacher, test, self.clock.spent_s)
            self.clock.put("long_range", kept)
            for report in kept:
                self.say(LongRangeReport(**report).text())
        return kept

    # ---- training and judging: what is left of the budget is shared anew before each preset --------

    def _collector(self, store: LabelStore) -> Collector:
        return Collector(self.config, self.folder, self.teacher, store, self.clock, self.progress, self.say)

    def _rounds(self, chosen: Plan, lesson: Lesson, trial: Trial, starts: list[Atoms]) -> RoundLoop:
        """The failure-driven loop, run to its end."""
        with LabelStore(self.folder / LABELS) as store:
            collector = self._collector(store)
            loop = RoundLoop(
                self.config,
                self.folder,
                chosen,
                trial,
                prepared(starts, chosen.sampling),
                partial(collector.label, needed=False),
                self.clock,
                self.progress,
                self.say,
            )
            loop.run(lesson)
        say_some(self.say, collector.lost, "frames without a label to train on")
        return loop

    def _train_and_judge(
        self, chosen: Plan, lesson: Lesson, trial: Trial, rounds: Sequence[Round]
    ) -> dict[str, Any]:
        """Train each preset, or take what ``rounds`` made of it, and judge it."""
        extra = {"rounds": [seen.to_dict() for seen in rounds]} if rounds else {}
        metrics: dict[str, Any] = {}
        slower = 1.0  # how much longer checks take than planned, from the presets before
        for k, preset in enumerate(self.config.presets):
            path = self.folder / f"{preset}.safetensors"
            kept = self.folder / "train" / preset / "judged.json"
            judged = read_judged(kept, path)
            if judged is None:
                if rounds:
                    record, training = self._from_rounds(preset, rounds)
                else:
                    record, training = self._train(chosen, lesson, k, slower)
                began = time.monotonic()
                settings = self._checks(chosen, trial, k, slower)
                judged = judge(Student.load(path), trial, settings)
                save_student(path, record, metrics=card_metrics(judged), run=self.about, **extra)
                judged[RUN] |= {"training": training, "file_kb": path.stat().st_size / 1e3}
                slower = max(slower, (time.monotonic() - began) / max(chosen.checking_s[preset], 0.1))
                write_judged(kept, path, judged)
            metrics[preset] = judged
            self.clock.save()
        return metrics

    def _from_rounds(self, preset: str, rounds: Sequence[Round]) -> tuple[StudentRecord, dict[str, Any]]:
        """The last round's student, saved as the run's; how long all its rounds trained."""
        records = [read_student(round_path(self.folder, seen.number, preset)) for seen in rounds]
        save_student(self.folder / f"{preset}.safetensors", records[-1])
        cards = [record.card["training"] for record in records]
        return records[-1], {key: sum(c[key] for c in cards) for key in ("seconds", "epochs", "labels_seen")}

    def _reserved_s(self, chosen: Plan, later: tuple[str, ...], slower: float) -> float:
        """Time to keep for the checks of ``later`` presets and for the end."""
        return slower * sum(chosen.checking_s[p] for p in later) + chosen.finishing_s

    def _train(
        self, chosen: Plan, lesson: Lesson, k: int, slower: float
    ) -> tuple[StudentRecord, dict[str, Any]]:
        """Train preset ``k`` and save it; what was trained, and how long."""
        config, preset, remaining = self.config, self.config.presets[k], self.config.presets[k:]
        until = None
        if config.budget is not None:
            left = config.budget - self.clock.spent_s - self._reserved_s(chosen, remaining, slower)
            share = share_time(remaining, left)[preset]
            if share < LEAST_TRAINING_S:
                planned = format_seconds(chosen.training_s.get(preset, 0.0))
                self.say(
                    f"note: the budget is nearly used up: {preset} trains "
                    f"for {format_seconds(LEAST_TRAINING_S)} instead of {planned}"
                )
            until = time.monotonic() + max(share, LEAST_TRAINING_S)
        record, trained = train_student(
            preset,
            lesson,
            config.training,
            Stop(epochs=config.training.epochs, until=until),
            self.folder / "train" / preset,
            seed=config.seed,
            progress=self.clock.ticking(self.progress),
        )
        save_student(self.folder / f"{preset}.safetensors", record)
        self.clock.save()
        return record, trained.figures()

    def _checks(self, chosen: Plan, trial: Trial, k: int, slower: float) -> ValidationConfig:
        """The checks that the time left allows for preset ``k``, the same as planned where it can."""
        preset, later = self.config.presets[k], self.config.presets[k + 1 :]
        factor = chosen.check_factor
        if self.config.budget is not None:
            left = self.config.budget - self.clock.spent_s - self._reserved_s(chosen, later, slower)
            left -= LEAST_TRAINING_S * len(later)
            factor = min(factor, self._affordable_factor(preset, trial, left))
        settings = shortened(self.config.validation, factor)
        if factor < min(1.0, chosen.check_factor):
            self.say(
                f"note: the budget is nearly used up: {preset} is checked on "
                f"{settings.onpolicy_frames} frames and {settings.nve_fs:g} fs of its own dynamics"
            )
        return settings

    def _affordable_factor(self, preset: str, trial: Trial, left_s: float) -> float:
        """By how much the checks of this student must be shortened to take ``left_s``."""
        starts = trial.test.structures.select([0]).to_atoms()
        student = Student.load(self.folder / f"{preset}.safetensors")
        step_s = seconds_per_step(student, starts[0]) + DYNAMICS_OVERHEAD_S
        label_s = seconds_per_step(trial.teacher, starts[0], calls=1)
        costs = Costs(label_s, {}, 1)
        return float(np.clip(left_s / check_s(self.config.validation, starts, step_s, costs), 0.05, 1.0))
