"""Stages as commands of their own: sample, label, train, validate."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limbeck.config import DistillConfig, LabelKeys, LabelRunConfig, TrainRunConfig, dump_yaml
from limbeck.core.audit import audit
from limbeck.core.checks import check_one_state, check_structures, check_suits
from limbeck.core.devices import require_training
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch, concatenate
from limbeck.dataset.read import read_labelled, read_reference
from limbeck.errors import InputError, LimbeckError
from limbeck.labelling.run import label
from limbeck.planning.plan import is_student_driven
from limbeck.planning.recipes import default_sampling, recipe_of
from limbeck.planning.start import check_teacher_fits, open_configured, relaxed_first, starting_structures
from limbeck.progress import Progress, Say, format_seconds, no_progress, say_nothing, say_some
from limbeck.records.label_store import LabelStore
from limbeck.records.metrics import ValidationReport
from limbeck.records.run_folder import RUN, RunFolder, RunState
from limbeck.runtime.student import Student
from limbeck.sampling import Relax, SamplingConfig, read_structures, run_sampling, write_frames
from limbeck.sampling.steps import Driven
from limbeck.teachers.registry import check_supported
from limbeck.training.loop import Stop
from limbeck.validation.doubt import doubt_labels
from limbeck.validation.run import validate
from limbeck.validation.worst import check_worst_file, worst_atoms, write_worst
from limbeck.workflows.evaluation import about_run
from limbeck.workflows.students import save_student, say_idle_threads, train_student
from limbeck.workflows.table import format_table
from limbeck.workflows.training_data import LabelSource, Preparation, prepare_training_data

DEFAULT_FRAMES = 200  #: about how many frames where the configuration says nothing of sampling
_AFTER_TRAINING_S = 1.0  # validation and files of one student


def run_sample(
    config: DistillConfig,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
    say: Say = print,
) -> int:
    """`limbeck sample`: frames from starting structures; MD where a teacher is given.

    Steps driven by an interim student need labels, so they belong to `distill` and are refused here.
    """
    if out.exists() and not overwrite:
        remedy = "choose another --out, or --overwrite"
        raise InputError("the file is there already", where=out, remedy=remedy)
    if out.suffix.lower() not in ("", ".extxyz", ".xyz"):
        wanted = "a name that ends in .extxyz or .xyz"
        raise InputError("frames are written as extended XYZ", where=out, wanted=wanted)
    notes: list[str] = []
    starts = starting_structures(config, notes)
    sampling = config.sampling or _without_interim_students(
        default_sampling(starts, recipe_of(config, starts), DEFAULT_FRAMES, config.seed), config
    )
    sampling = relaxed_first(config, sampling)
    if config.liquid is not None and not any(isinstance(s, Relax) for s in sampling.steps):
        notes.append("the boxes are as packed: with --teacher they are relaxed first")
    if any(map(is_student_driven, sampling.steps)):
        raise InputError(
            "a step is driven by an interim student, which learns from labels",
            wanted="driver: teacher",
            remedy="use limbeck distill, or change the driver",
        )
    # finished trajectories are kept beside the file for the case of an interruption
    cache = out.with_name(f".{out.name}.sampling")
    workers = config.labelling.workers
    potentials: dict[str, Potential] = {}
    with ExitStack() as stack:
        if config.teacher is not None and any(isinstance(s, Driven | Relax) for s in sampling.steps):
            check_teacher_fits(config.teacher, starts)
            teacher = stack.enter_context(open_configured(config.teacher, config.labelling))
            check_supported(teacher.card, StructureBatch.from_atoms(starts))
            potentials["teacher"] = teacher
        frames = run_sampling(
            starts, sampling, potentials, progress, cache_dir=cache, parallel=workers, notes=notes
        )
    write_frames(out, frames)
    shutil.rmtree(cache, ignore_errors=True)
    for note in notes:
        say(f"note: {note}")
    say(f"wrote {len(frames)} frames to {out}")
    return len(frames)


def _without_interim_students(sampling: SamplingConfig, config: DistillConfig) -> SamplingConfig:
    """Default sampling without interim students; a teacher drives the first of their steps instead."""
    quiet = [s for s in sampling.steps if not isinstance(s, Driven)]
    driven = [s.model_copy(update={"driver": "teacher"}) for s in sampling.steps if isinstance(s, Driven)]
    return sampling.model_copy(update={"steps": (*quiet, *(driven[:1] if config.teacher else []))})


def run_label(
    config: LabelRunConfig,
    frames: Path,
    out: Path,
    *,
    extxyz: Path | None = None,
    progress: Progress = no_progress,
    say: Say = print,
) -> dict[str, Any]:
    """`limbeck label`: a teacher's labels for frames of a file, into a store that resumes.

    ``extxyz``: all labels of the store are written there too, earlier ones included.

    Raises
    ------
    LimbeckError: the teacher failed on some frames; the labels of all others are stored.
    """
    if extxyz is not None and extxyz.resolve() == frames.resolve():
        raise InputError(
            "the labels would replace the file of their structures",
            where=extxyz,
            remedy="choose another --extxyz",
        )
    structures = read_structures(frames)
    check_structures(structures, str(frames))
    check_teacher_fits(config.teacher, structures)
    settings = config.labelling
    with open_configured(config.teacher, settings) as teacher, LabelStore(out) as store:
        if len(store):  # no student learns labels of two total charges or spins
            both = concatenate([StructureBatch.from_atoms(structures), store.read().structures])
            check_one_state(both, f"{store.path} and the new frames")
        report = label(structures, teacher, store, progress=progress)
        first = {key: i for i, key in reversed(list(enumerate(report.keys))) if key in store}
        kept, dropped = audit(store.read(list(first)), max_force_ev_per_a=settings.max_force_ev_per_a)
        exported = None if extxyz is None else store.export_extxyz(extxyz)
    frame_of = list(first.values())
    say_some(say, [f"no label for frame {f.index}: {f.reason}" for f in report.failed], "without a label")
    lost = [f"frame {frame_of[d.index]} will be left out of training: {d.reason}" for d in dropped]
    say_some(say, lost, "left out of training")
    say(
        f"{report.labelled} new labels, {report.present} were there, {len(report.failed)} failed, "
        f"in {format_seconds(report.seconds)}; store: {out}"
    )
    if exported is not None:
        say(f"wrote {exported} labels to {extxyz}")
    if report.failed:
        raise LimbeckError(
            "the teacher failed on some frames",
            where=frames,
            got=f"{len(report.failed)} of {report.total} without a label",
            remedy=f"mend or remove them; the other labels are in {out}",
        )
    return {"labelled": report.labelled, "present": report.present, "kept": len(kept)}


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
    config, folder = config.with_end(), RunFolder(out)
    tell = say_nothing if folder.finished and not overwrite else say
    keys = config.keys.model_dump()
    sources = [LabelSource(str(path), read_labelled(path, **keys)) for path in data]
    how = Preparation(config.val, config.seed, config.lint.ignore, keys)
    teacher = {"name": "labels of " + ", ".join(Path(d).name for d in data)}
    sets = prepare_training_data(sources, how, teacher, tell)
    settings = {"data": [str(Path(d).absolute()) for d in data], **config.model_dump(mode="json")}
    folder.prepare(dump_yaml(settings), overwrite=overwrite)
    folder.say_if_finished(say)
    tell(f"{len(sets.train)} structures to train on, {len(sets.validation)} to validate: {sets.how_split}")
    say_idle_threads(config.training, sets.train, tell)
    write_frames(folder.validation, sets.validation.to_atoms())
    about, state = about_run(None, folder, command), RunState(folder, config.budget, began)
    metrics: dict[str, Any] = {}
    for k, preset in enumerate(config.presets):
        remaining = config.presets[k:]
        until = state.time.training_ends(remaining, _AFTER_TRAINING_S * len(remaining))
        record, trained = train_student(
            preset,
            sets,
            config.training,
            Stop(epochs=config.training.epochs, until=until),
            folder.training(preset),
            seed=config.seed,
            init=config.init,
            progress=state.ticking(progress),
        )
        path = folder.student(preset)
        save_student(path, record)
        errors = validate(Student.load(path), sets.validation).metrics
        save_student(path, record, metrics={"validation": errors["all"]}, run=about)
        facts = {
            "parameters": record.architecture.n_parameters,
            "training": trained.figures(),
            "file_kb": path.stat().st_size / 1e3,
        }
        metrics[preset] = {"validation": errors, RUN: facts}
    rows = [{"model": p, **found[RUN], **found["validation"]["all"]} for p, found in metrics.items()]
    metrics[RUN] = about
    folder.write_metrics(metrics)
    state.save()
    say("")
    say(format_table(rows))
    say(f"(errors on {len(sets.validation)} validation structures) results in {out}")
    return metrics


def run_validate(
    student: str,
    data: Path,
    *,
    keys: LabelKeys | None = None,
    plots: Path | None = None,
    worst_file: Path | None = None,
    n_worst: int = 10,
    device: str = "cpu",
    progress: Progress = no_progress,
    say: Say = print,
) -> dict[str, Any]:
    """`limbeck validate`: a student against reference labels.

    ``worst_file``: the ``n_worst`` frames with the largest force errors are written there.

    Returns
    -------
    ``{student: {"data": all | by_*, "run": {"worst_frames": [...]}}}``, worst first.
    """
    if worst_file is not None:
        check_worst_file(worst_file, data)
    if plots is not None:
        from limbeck.core.plotting import check_matplotlib
        from limbeck.report.error_figures import write_plots

        check_matplotlib()
    loaded = Student.load(student, device=device)
    labelled = read_reference(data, **(keys or LabelKeys()).model_dump())
    check_suits(loaded.record.state, labelled.structures, data)
    report = validate(loaded, labelled, n_worst=n_worst, progress=progress)
    overall = report.metrics["all"]
    say(format_table([{"model": loaded.name, "parameters": loaded.n_parameters, **overall}]))
    _tell_groups(report, say)
    if doubt := doubt_labels(labelled.labels.forces, report.prediction.forces):
        say(f"note: {doubt}")
    if plots is not None:
        for path in write_plots(report, labelled, plots):
            say(f"wrote {path}")
    if worst_file is not None:
        write_worst(worst_file, worst_atoms(report, labelled, loaded.name))
        say(f"wrote the {len(report.worst)} worst frames to {worst_file}")
    worst = [asdict(frame) for frame in report.worst]
    return {loaded.name: {"data": report.metrics, RUN: {"worst_frames": worst}}}


def _tell_groups(report: ValidationReport, say: Say) -> None:
    for group in ("by_temperature", "by_element"):
        for name, figures in report.metrics.get(group, {}).items():
            r2 = figures["force_r2"]
            say(
                f"  {group[3:]} {name}: force RMSE {figures['force_rmse_mev_per_a']:.1f} meV/Å, "
                f"R² {'-' if r2 is None else format(r2, '.4f')}"
            )
    say("worst frames:")
    for worst in report.worst[:5]:
        group = f" ({worst.group})" if worst.group else ""
        say(
            f"  frame {worst.index}{group}: force RMSE {worst.force_rmse_mev_per_a:.1f} meV/Å, "
            f"atom {worst.worst_atom} ({worst.worst_element}) off by "
            f"{worst.worst_force_error_mev_per_a:.0f} meV/Å"
        )
