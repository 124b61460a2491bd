"""`limbeck distill`: plan, sample, label, split, train, evaluate, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from ase import Atoms

from limbeck.artifact.file import StudentArtifact, read_student
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
from limbeck.core.timing import seconds_per_step
from limbeck.labelling.run import isolated_atom_energies
from limbeck.planning.plan import (
    DYNAMICS_OVERHEAD_S,
    Costs,
    Plan,
    plan,
    prepared,
    shortened,
    temperature_of,
)
from limbeck.planning.recipes import describe_system
from limbeck.planning.start import check_teacher_fits, open_configured, starting_structures
from limbeck.progress import Progress, Say, format_seconds, no_progress, say_nothing, say_some
from limbeck.records.metrics import LongRangeReport
from limbeck.records.run_folder import RUN, RunFolder, RunState
from limbeck.records.time_budget import LEAST_TRAINING_S, TimeBudget
from limbeck.runtime.student import Student
from limbeck.sampling import write_frames
from limbeck.teachers.registry import check_supported
from limbeck.training.loop import Stop
from limbeck.workflows.active_learning import ActiveLearning, Iteration
from limbeck.workflows.evaluation import (
    EvaluationData,
    about_run,
    add_speeds,
    card_metrics,
    evaluate_student,
    measure_reach,
    say_results,
)
from limbeck.workflows.run import Run
from limbeck.workflows.sample_and_label import LabelledSampling
from limbeck.workflows.students import save_student, say_idle_threads, train_student
from limbeck.workflows.training_data import LabelSource, Preparation, TrainingSets, prepare_training_data

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

    Interrupted at any moment, the same call in the same folder resumes.

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
    config = _with_one_end(as_config(config), say)
    require_training(config.training.device)
    spec = config.required_teacher()
    folder = None if dry_run else RunFolder(out if out is not None else config.run_folder())
    notes: list[str] = []
    starts = starting_structures(config, notes)
    for note in notes:
        say(f"note: {note}")
    check_teacher_fits(spec, starts)
    if folder is not None:
        folder.prepare(resolved_yaml(config), overwrite=overwrite)
    finished = folder is not None and folder.say_if_finished(say)
    with open_configured(spec, config.labelling) as teacher:
        check_supported(teacher.card, StructureBatch.from_atoms(starts))
        if folder is None:
            system = describe_system(config, starts)
            dry = plan(config, starts, teacher, TimeBudget(config.budget, began=began))
            for line in dry.lines(system):
                say(line)
            return {"plan": dry.to_dict(), "system": system}
        state = RunState(folder, config.budget, began)
        quiet, ticking = (say_nothing, no_progress) if finished else (say, progress)
        run = Run(config, folder, teacher, state, ticking, quiet)
        return _distill(run, starts, about_run(config.name, folder, command), say)


def as_config(config: DistillConfig | Mapping[str, Any] | Path | str) -> DistillConfig:
    """The configuration that is given, or made of a dict's values or a YAML file."""
    if isinstance(config, DistillConfig):
        return config
    if isinstance(config, Mapping):
        return config_from_values(deepcopy(dict(config)))
    return load_config(config)


def _with_one_end(config: DistillConfig, say: Say) -> DistillConfig:
    """The configuration with one end, epochs before a budget; says so where it gave two."""
    if config.budget is not None and config.training.epochs is not None:
        say(
            f"note: training ends after {config.training.epochs} epochs, which take the place of the "
            f"configuration's budget of {format_budget(config.budget)}"
        )
        return config.model_copy(update={"budget": None})
    return config.with_end()


def _distill(run: Run, starts: list[Atoms], about: dict[str, Any], say_end: Say) -> dict[str, Any]:
    """The stages of a run, one after another. ``say_end``: for the results, as the run may be mute."""
    config, folder = run.config, run.folder
    chosen = _plan(run, starts)
    write_frames(folder.structures, starts)
    test, labels = _sample_and_label(run, starts, chosen)
    sets = _training_sets(run, labels, test, starts)
    run.say(
        f"labels: {len(sets.train)} to train on, {len(sets.validation)} in the validation set, "
        f"{len(test)} in the test set"
    )
    say_idle_threads(config.training, sets.train, run.say)
    write_frames(folder.validation, sets.validation.to_atoms())
    write_frames(folder.test, test.to_atoms())
    hottest = config.validation.temperature_K or temperature_of(chosen.sampling, chosen.test)
    evaluation = EvaluationData(sets.validation, test, run.teacher, hottest, config.seed)
    iterations = (
        _active_learning(run, chosen, sets, evaluation, starts) if config.active_learning.iterations else []
    )
    presets = _Presets(run, chosen, sets, evaluation, about, iterations)
    metrics: dict[str, Any] = {preset: presets.finish(preset) for preset in config.presets}
    metrics[RUN] = dict(about)
    if iterations:
        metrics[RUN]["active_learning"] = [asdict(seen) for seen in iterations]
    # called again, a finished run has cost no more
    cost_s = run.state.once("cost_s", run.state.time.spent_s)
    add_speeds(metrics, folder, config.presets, evaluation, cost_s)
    metrics[RUN]["teacher"]["long_range"] = sets.teacher["long_range"]
    folder.write_metrics(metrics)
    say_results(metrics, folder, config.presets, evaluation, say_end)
    run.state.save()
    return metrics


def _plan(run: Run, starts: list[Atoms]) -> Plan:
    """The plan, made once a run."""
    kept = run.state.get("plan")
    if kept is not None:
        run.say(f"going on after {format_seconds(run.state.time.spent_s)}")
        return Plan.from_dict(kept)
    chosen = plan(run.config, starts, run.teacher, run.state.time)
    for line in chosen.lines(describe_system(run.config, starts)):
        run.say(line)
    run.state.put("plan", chosen.to_dict())
    return chosen


def _sample_and_label(run: Run, starts: list[Atoms], chosen: Plan) -> tuple[LabelledSet, LabelSource]:
    """The test set, and what trains and validates."""
    with run.folder.stores() as (store, test_store):
        test_set, sampling_and_labelling = LabelledSampling(run, test_store), LabelledSampling(run, store)
        test = _timed(
            run, "the test set", chosen.test_set_s, lambda: test_set.collect_test_set(starts, chosen)
        )
        planned_s = chosen.labelling_s + chosen.interim_students * chosen.interim_s
        labels = _timed(
            run, "sampling and labelling", planned_s, lambda: sampling_and_labelling.collect(starts, chosen)
        )
    for note in (*test_set.notes, *sampling_and_labelling.notes):
        run.say(f"note: {note}")
    say_some(run.say, [*test_set.lost, *sampling_and_labelling.lost], "frames without a label")
    return test, labels


def _timed(run: Run, what: str, planned_s: float, work: Callable[[], T]) -> T:
    began_s = run.state.time.spent_s
    result = work()
    took = run.state.time.spent_s - began_s
    if run.config.budget is not None and took > _LATE * planned_s + 1.0:
        run.say(
            f"note: {what} took {format_seconds(took)}, planned were {format_seconds(planned_s)}; "
            "what follows gets the rest of the budget"
        )
    run.state.save()
    return result


def _training_sets(run: Run, labels: LabelSource, test: LabelledSet, starts: Sequence[Atoms]) -> TrainingSets:
    """Lint and split; the teacher's isolated atoms and its forces beyond the students' reach, once a run."""
    config, teacher, state = run.config, run.teacher, run.state
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
    sets = prepare_training_data([labels], how, asdict(teacher.identity) | card, run.say)
    if state.get("isolated_atoms_ev") is None:
        both = (sets.train.structures.numbers, sets.validation.structures.numbers)
        found = isolated_atom_energies(teacher, sorted({int(z) for z in np.concatenate(both)})) or {}
        state.put("isolated_atoms_ev", {str(z): e for z, e in found.items()})
    if state.get("long_range") is None:
        state.put("long_range", measure_reach(config, teacher, test, state.time))
        for report in state.get("long_range"):
            run.say(LongRangeReport(**report).text())
    references = {int(z): float(e) for z, e in state.get("isolated_atoms_ev").items()}
    known = sets.teacher | {"long_range": state.get("long_range")}
    return replace(sets, references=references or sets.references, teacher=known)


def _active_learning(
    run: Run, chosen: Plan, sets: TrainingSets, evaluation: EvaluationData, starts: list[Atoms]
) -> list[Iteration]:
    with run.folder.stores() as (store, _):
        sampling_and_labelling = LabelledSampling(run, store)
        label = partial(sampling_and_labelling.label, needed=False)
        learning = ActiveLearning(run, chosen, evaluation, prepared(starts, chosen.sampling), label)
        iterations = learning.iterate(sets)
    say_some(run.say, sampling_and_labelling.lost, "frames without a label to train on")
    return iterations


class _Presets:
    """Trains each preset and evaluates it; what is left of the budget is shared anew before each."""

    def __init__(
        self,
        run: Run,
        chosen: Plan,
        sets: TrainingSets,
        evaluation: EvaluationData,
        about: dict[str, Any],
        iterations: Sequence[Iteration],
    ) -> None:
        self.run, self.plan, self.sets, self.evaluation = run, chosen, sets, evaluation
        self.about, self.iterations = about, iterations
        self.slower = 1.0  # how much longer checks take than planned, from the presets before

    def finish(self, preset: str) -> dict[str, Any]:
        """Train the preset, or take what active learning made of it, and evaluate it; if not done before."""
        run, clock = self.run, self.run.state.time
        evaluated = run.folder.read_evaluation(preset)
        if evaluated is None:
            path = run.folder.student(preset)
            record, training = self._learned(preset) if self.iterations else self._train(preset)
            began_s = clock.spent_s
            evaluated = evaluate_student(Student.load(path), self.evaluation, self._checks(preset))
            extra = {"active_learning": [asdict(seen) for seen in self.iterations]} if self.iterations else {}
            save_student(path, record, metrics=card_metrics(evaluated), run=self.about, **extra)
            evaluated[RUN] |= {"training": training, "file_kb": path.stat().st_size / 1e3}
            planned_s = max(self.plan.checking_s[preset], 0.1)
            self.slower = max(self.slower, (clock.spent_s - began_s) / planned_s)
            run.folder.write_evaluation(preset, evaluated)
        run.state.save()
        return evaluated

    def _learned(self, preset: str) -> tuple[StudentArtifact, dict[str, Any]]:
        """The last iteration's student, saved as the run's; how long all its iterations trained."""
        folder = self.run.folder
        records = [read_student(folder.iteration(seen.number).student(preset)) for seen in self.iterations]
        save_student(folder.student(preset), records[-1])
        cards = [record.card["training"] for record in records]
        return records[-1], {key: sum(c[key] for c in cards) for key in ("seconds", "epochs", "labels_seen")}

    def _train(self, preset: str) -> tuple[StudentArtifact, dict[str, Any]]:
        """Train the preset and save it; what was trained, and how long."""
        run, config, clock = self.run, self.run.config, self.run.state.time
        remaining = config.presets[config.presets.index(preset) :]
        reserved_s = self.plan.reserved_s(remaining, self.slower)
        if clock.training_s(remaining, reserved_s) < LEAST_TRAINING_S:
            run.say(
                f"note: the budget is nearly used up: {preset} trains for {format_seconds(LEAST_TRAINING_S)} "
                f"instead of {format_seconds(self.plan.training_s.get(preset, 0.0))}"
            )
        record, trained = train_student(
            preset,
            self.sets,
            config.training,
            Stop(epochs=config.training.epochs, until=clock.training_ends(remaining, reserved_s)),
            run.folder.training(preset),
            seed=config.seed,
            progress=run.ticking(),
        )
        save_student(run.folder.student(preset), record)
        run.state.save()
        return record, trained.figures()

    def _checks(self, preset: str) -> ValidationConfig:
        """The checks that the time left allows, the same as planned where it can."""
        config, planned = self.run.config, min(1.0, self.plan.check_factor)
        later = config.presets[config.presets.index(preset) + 1 :]
        reserved_s = self.plan.reserved_s(later, self.slower) + LEAST_TRAINING_S * len(later)
        factor = planned
        if config.budget is not None:
            starts = self.evaluation.test.structures.select([0]).to_atoms()
            student = Student.load(self.run.folder.student(preset))
            step_s = seconds_per_step(student, starts[0]) + DYNAMICS_OVERHEAD_S
            costs = Costs(seconds_per_step(self.evaluation.teacher, starts[0], calls=1), {}, 1)
            needed_s = costs.check_s(config.validation, starts, step_s)
            left_s = self.run.state.time.left_s(reserved_s)
            factor = min(planned, float(np.clip(left_s / max(needed_s, 1e-9), 0.05, 1.0)))
        settings = shortened(config.validation, factor)
        if factor < planned:
            self.run.say(
                f"note: the budget is nearly used up: {preset} is checked on "
                f"{settings.onpolicy_frames} frames and {settings.nve_fs:g} fs of its own dynamics"
            )
        return settings
