"""The stages as commands of their own: sample, label, train, validate."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from limbeck.config import DistillConfig, LabelKeys, LabelRunConfig, TrainRunConfig, dump_yaml
from limbeck.core.checks import check_structures
from limbeck.core.files import write_whole
from limbeck.core.labels import LabelledSet, concatenate_labelled
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.dataset.read import read_labelled, split_isolated_atoms
from limbeck.dataset.split import split
from limbeck.errors import InputError
from limbeck.labelling.audit import audit
from limbeck.labelling.remote import open_teacher
from limbeck.labelling.run import label
from limbeck.labelling.store import LabelStore
from limbeck.pipeline.clock import RunClock
from limbeck.pipeline.defaults import default_sampling
from limbeck.pipeline.folder import prepare_folder
from limbeck.pipeline.planning import LEAST_TRAINING_S, share_time
from limbeck.pipeline.sampling import starting_structures
from limbeck.pipeline.students import Lesson, check_validation, save_student, train_student
from limbeck.pipeline.table import format_table
from limbeck.progress import Progress, format_seconds, no_progress
from limbeck.runtime.student import Student
from limbeck.sampling.config import MD
from limbeck.sampling.frames import write_frames
from limbeck.sampling.run import run_sampling
from limbeck.sampling.starts import read_structures
from limbeck.teachers.custom import is_custom
from limbeck.teachers.registry import get_card
from limbeck.teachers.support import check_supported
from limbeck.training.loop import Stop
from limbeck.validation.run import validate

Say = Callable[[str], None]
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

    Steps driven by a scout need labels, so they belong to `distill` and are refused here.
    """
    if out.exists() and not overwrite:
        raise InputError(
            "the file is there already", where=out, remedy="choose another --out, or --overwrite"
        )
    starts = starting_structures(config)
    sampling = config.sampling
    if sampling is None:
        made = default_sampling(starts, 200, config.seed)
        quiet = [s for s in made.steps if not isinstance(s, MD)]
        driven = [s.model_copy(update={"driver": "teacher"}) for s in made.steps if isinstance(s, MD)]
        sampling = made.model_copy(update={"steps": (*quiet, *(driven[:1] if config.teacher else []))})
    if any(isinstance(s, MD) and s.driver == "scout" for s in sampling.steps):
        raise InputError(
            "a step is driven by a scout, which learns from labels",
            wanted="driver: teacher",
            remedy="use limbeck distill, or change the driver",
        )
    notes: list[str] = []
    potentials: dict[str, Potential] = {}
    if config.teacher is not None and any(isinstance(s, MD) for s in sampling.steps):
        if not is_custom(config.teacher.name):
            check_supported(get_card(config.teacher.name), StructureBatch.from_atoms(starts))
        potentials["teacher"] = open_teacher(
            config.teacher.name,
            options=config.teacher.options,
            workers=config.labelling.workers,
            threads=config.labelling.threads,
            device=config.labelling.device,
        )
    try:
        frames = run_sampling(
            starts,
            sampling,
            potentials,
            progress,
            cache_dir=out.with_name(f".{out.name}.sampling"),
            parallel=config.labelling.workers,
            notes=notes,
        )
    finally:
        for potential in potentials.values():
            potential.close()
    write_frames(out, frames)
    # finished trajectories were kept beside the file for the case of an interruption
    shutil.rmtree(out.with_name(f".{out.name}.sampling"), ignore_errors=True)
    for note in notes:
        say(f"note: {note}")
    say(f"wrote {len(frames)} frames to {out}")
    return len(frames)


def run_label(
    config: LabelRunConfig,
    frames: Path,
    out: Path,
    *,
    progress: Progress = no_progress,
    say: Say = print,
) -> dict[str, Any]:
    """`limbeck label`: a teacher's labels for frames of a file, into a store that goes on."""
    structures = read_structures(frames)
    check_structures(structures, str(frames))
    settings = config.labelling
    with (
        open_teacher(
            config.teacher.name,
            options=config.teacher.options,
            workers=settings.workers,
            threads=settings.threads,
            device=settings.device,
        ) as teacher,
        LabelStore(out) as store,
    ):
        report = label(structures, teacher, store, progress=progress)
        for failure in report.failed:
            say(f"no label for frame {failure.index}: {failure.reason}")
        kept, dropped = audit(
            store.read([k for k in dict.fromkeys(report.keys) if k in store]),
            max_force_ev_per_a=settings.max_force_ev_per_a,
        )
    for drop in dropped:
        say(f"label {drop.index} will be left out of training: {drop.reason}")
    say(
        f"{report.labelled} new labels, {report.present} were there, {len(report.failed)} failed, "
        f"in {format_seconds(report.seconds)}; store: {out}"
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
) -> dict[str, Any]:
    """`limbeck train`: students from labels, a teacher's or one's own; returns metrics.json.

    ``began``: ``time.monotonic()`` from which the budget counts; now unless given.
    """
    began = time.monotonic() if began is None else began
    config = config.with_end()
    epochs = config.training.epochs
    keys = config.keys.model_dump()
    labelled = concatenate_labelled([read_labelled(path, **keys) for path in data])
    labelled, references = split_isolated_atoms(labelled)
    if not len(labelled):
        raise InputError("no structures but isolated atoms", where=data[0], remedy="add labelled structures")
    labelled = _audited(labelled, say)
    if len(labelled) < 2:
        raise InputError(
            "too few labels", where=data[0], got=len(labelled), wanted="at least two that the audit keeps"
        )
    check_structures(labelled.structures.to_atoms(), ", ".join(map(str, data)))
    val: LabelledSet | float
    if isinstance(config.val, Path):
        val, _ = split_isolated_atoms(read_labelled(config.val, **keys))
        val = _audited(val, say)
        check_validation(labelled, val, config.val)
    else:
        val = float(config.val)
    settings = dump_yaml({"data": [str(Path(d).absolute()) for d in data], **config.model_dump(mode="json")})
    prepare_folder(out, settings, overwrite=overwrite)
    clock = RunClock(out, began)
    parts = split(labelled, val, config.seed)
    train, validation = parts.parts(labelled)
    known = {int(z) for z in train.structures.numbers} <= set(references)
    lesson = Lesson(
        train,
        validation,
        references if known else None,
        parts.how,
        {"name": "labels of " + ", ".join(Path(d).name for d in data)},
    )
    say(f"{len(train)} structures to train on, {len(validation)} to validate ({parts.how})")
    write_frames(out / "validation.extxyz", validation.to_atoms())
    metrics: dict[str, Any] = {}
    rows = []

    def tick(task: str, done: int, total: int | None = None, text: str = "") -> None:
        clock.tick()
        progress(task, done, total, text)

    for k, preset in enumerate(config.presets):
        until = None
        if epochs is None:
            remaining = config.presets[k:]
            left = float(config.budget or 0) - clock.spent_s - _AFTER_TRAINING_S * len(remaining)
            until = time.monotonic() + max(share_time(remaining, left)[preset], LEAST_TRAINING_S)
        record, trained = train_student(
            preset,
            lesson,
            config.training,
            Stop(epochs=epochs, until=until),
            out / "train" / preset,
            seed=config.seed,
            init=config.init,
            progress=tick,
        )
        path = out / f"{preset}.safetensors"
        save_student(path, record)
        report = validate(Student.load(path), validation)
        metrics[preset] = {"validation": report.metrics, "training": {"seconds": trained.progress.spent_s}}
        save_student(path, record, {"validation": report.metrics["all"]})
        rows.append(
            {"model": preset, "parameters": record.architecture.n_parameters, **report.metrics["all"]}
            | {"file_kb": path.stat().st_size / 1e3}
        )
    write_whole(out / "metrics.json", json.dumps(metrics, indent=1))
    clock.save()
    say("")
    say(format_table(rows))
    say(f"(errors on {len(validation)} validation structures) results in {out}")
    return metrics


def _audited(labelled: LabelledSet, say: Say) -> LabelledSet:
    """Without the labels that are not finite or far too large; each is named."""
    kept, dropped = audit(labelled)
    for drop in dropped:
        say(f"label {drop.index} left out: {drop.reason}")
    return labelled.select(kept)


def run_validate(
    student: str,
    data: Path,
    *,
    keys: LabelKeys | None = None,
    plots: Path | None = None,
    device: str = "cpu",
    progress: Progress = no_progress,
    say: Say = print,
) -> dict[str, Any]:
    """`limbeck validate`: a student against reference labels; returns metrics, split -> all | by_*."""
    loaded = Student.load(student, device=device)
    labelled = read_labelled(data, **(keys or LabelKeys()).model_dump())
    labelled, _ = split_isolated_atoms(labelled)
    if not len(labelled):
        raise InputError("nothing to validate on", where=data, got="isolated atoms only")
    report = validate(loaded, labelled, progress=progress)
    overall = report.metrics["all"]
    say(format_table([{"model": loaded.name, "parameters": loaded.n_parameters, **overall}]))
    for group in ("by_temperature", "by_element"):
        for name, figures in report.metrics.get(group, {}).items():
            r2 = figures["force_r2"]
            say(
                f"  {group[3:]} {name}: force RMSE {figures['force_rmse_mev_per_a']:.1f} meV/Å, "
                f"R² {'-' if r2 is None else format(r2, '.4f')}"
            )
    say("worst frames:")
    for worst in report.worst[:5]:
        say(
            f"  frame {worst.index} {worst.family or ''}: force RMSE {worst.force_rmse_mev_per_a:.1f} meV/Å, "
            f"atom {worst.worst_atom} ({worst.worst_element}) off by "
            f"{worst.worst_force_error_mev_per_a:.0f} meV/Å"
        )
    if plots is not None:
        from limbeck.validation.plots import write_plots

        for path in write_plots(report, labelled, plots):
            say(f"wrote {path}")
    return {loaded.name: {"data": report.metrics}}
