"""A lesson in, a student file out: what `distill`, `train` and the interim student share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.artifact.file import StudentRecord, read_student, write_student
from limbeck.core.charge import ChargeState, spin_multiplicity, total_charge
from limbeck.core.checks import state_of_set
from limbeck.core.hashing import hash_json
from limbeck.core.labels import LabelledSet
from limbeck.core.machine import available_threads
from limbeck.dataset.statistics import fit_references, statistics
from limbeck.errors import InputError
from limbeck.pipeline.lessons import Lesson, make_baseline
from limbeck.pipeline.reach import limits
from limbeck.pipeline.telling import Say
from limbeck.progress import Progress, no_progress
from limbeck.runtime.student import Student
from limbeck.students.baseline import Baseline, zbl_radii
from limbeck.students.specification import (
    Architecture,
    flatten,
    initial_weights,
    preset_architecture,
    unflatten,
    with_cores,
    with_scale,
)
from limbeck.training.config import TrainingConfig
from limbeck.training.data import TrainingData, prepare
from limbeck.training.loop import Stop, Trained
from limbeck.validation.run import predict

__all__ = ["Lesson", "save_student", "say_idle_threads", "train_student", "untrained_student"]


def untrained_student(preset: str, atoms: Atoms, cutoff: float) -> Student:
    """A student with random weights for the elements of ``atoms``: as fast as it will be when trained."""
    architecture = preset_architecture(preset, tuple(sorted(set(atoms.numbers.tolist()))), cutoff=cutoff)
    weights = initial_weights(architecture, seed=0, mean_neighbours=50.0)
    baseline = Baseline(
        references=dict.fromkeys(architecture.elements, 0.0), zbl_radius=zbl_radii(architecture.elements, {})
    )
    card = {"preset": preset, **ChargeState(total_charge(atoms), spin_multiplicity(atoms)).on_card()}
    record = StudentRecord(
        architecture, baseline, {k: v.astype(np.float32) for k, v in weights.items()}, card
    )
    return Student(record)


@dataclass(frozen=True)
class _Beginning:
    """A student before its first step, its data prepared, and what its card says of both.

    ``note``: where the references come from. ``figures``: statistics of the training set.
    """

    architecture: Architecture
    baseline: Baseline
    weights: dict[str, np.ndarray]
    train: TrainingData
    validation: TrainingData
    figures: dict[str, Any]
    note: str


def say_idle_threads(config: TrainingConfig, train: LabelledSet, say: Say) -> None:
    """The core gives each structure of a batch to one thread; more threads than that wait."""
    threads = config.threads or available_threads()
    mean = max(train.structures.n_atoms / max(len(train), 1), 1.0)
    busy = max(round(config.atoms_a_batch / mean), 1)
    if config.device == "cpu" and config.batch_atoms is None and threads > busy:
        atoms = round(threads * mean)
        say(
            f"note: batches of {config.atoms_a_batch} atoms hold about {busy} structures, so "
            f"{threads - busy} of {threads} threads wait; --set training.batch_atoms={atoms} employs all, "
            "in larger steps"
        )


def train_student(
    preset: str,
    lesson: Lesson,
    config: TrainingConfig,
    stop: Stop,
    folder: Path,
    *,
    seed: int = 0,
    init: Path | None = None,
    same_origin: bool = False,
    progress: Progress = no_progress,
) -> tuple[StudentRecord, Trained]:
    """Train one preset; interrupted, the same call goes on where it was.

    ``init``: a student whose weights it starts from. ``same_origin``: that student learned from labels
    of the same teacher, so its energy references stay as they are.
    """
    from limbeck.training.trainer import Trainer  # only here: with it comes torch

    if init is None:
        begin = _from_scratch(preset, lesson, config, seed)
    else:
        begin = _from_student(preset, lesson, config, init, same_origin)
    architecture = begin.architecture
    dtype = np.float64 if config.precision == "float64" else np.float32

    def report(done: float, text: str) -> None:
        progress(f"training {preset}", round(1000 * done), 1000, text)

    trained = Trainer(
        architecture,
        begin.train,
        begin.validation,
        config,
        stop,
        folder,
        start=flatten(architecture, begin.weights, dtype),
        run_hash=_run_hash(begin, lesson, config, seed, from_student=init is not None),
        seed=seed,
        report=report,
    ).run()
    record = StudentRecord(
        architecture=architecture,
        baseline=begin.baseline,
        weights={k: v.copy() for k, v in unflatten(architecture, trained.flat).items()},
        card=_card(preset, lesson, config, begin, trained, seed),
    )
    return record, trained


def _from_scratch(preset: str, lesson: Lesson, config: TrainingConfig, seed: int) -> _Beginning:
    baseline, figures, note = make_baseline(lesson)
    architecture = preset_architecture(preset, tuple(baseline.references), cutoff=config.cutoff)
    train = prepare(lesson.train, baseline, architecture.cutoff)
    validation = prepare(lesson.validation, baseline, architecture.cutoff)
    scale = float(np.sqrt(np.mean(train.forces**2))) or 1.0
    architecture = with_cores(with_scale(architecture, scale), baseline.zbl_radius)
    weights = initial_weights(
        architecture,
        seed=seed,
        mean_neighbours=train.mean_neighbours,
        power=train.basis_power(architecture),
    )
    # isolated atoms are far below a condensed phase: the mean of the rest starts in the last bias
    shift = float((train.energy / train.structures.counts).mean())
    weights["readout.1.bias"] = np.array([shift / scale])
    return _Beginning(architecture, baseline, weights, train, validation, figures, note)


def _from_student(
    preset: str, lesson: Lesson, config: TrainingConfig, init: Path, same_origin: bool
) -> _Beginning:
    baseline, figures, _ = make_baseline(lesson)
    architecture = preset_architecture(preset, tuple(baseline.references), cutoff=config.cutoff)
    start = read_student(init)
    architecture, baseline = _adopt(start, architecture, lesson.train, init, same_origin)
    return _Beginning(
        architecture,
        baseline,
        start.weights,
        prepare(lesson.train, baseline, architecture.cutoff),
        prepare(lesson.validation, baseline, architecture.cutoff),
        figures,
        str(start.card.get("training", {}).get("references", ""))
        if same_origin
        else f"energy references of {init.name}, moved by least squares to the zero of these labels",
    )


def _run_hash(
    begin: _Beginning, lesson: Lesson, config: TrainingConfig, seed: int, *, from_student: bool
) -> str:
    """What a checkpoint must agree with to be gone on from; how long a run lasts is no part of it."""
    leave_out = {"threads", "tensorboard", "checkpoint_s", "epochs"}
    return hash_json(
        {
            "data": begin.figures["content_hash"],
            "validation": statistics(lesson.validation).content_hash,
            "architecture": begin.architecture.to_dict(),
            "config": config.model_dump(exclude=leave_out),
            "seed": seed,
            "init": flatten(begin.architecture, begin.weights).tobytes().hex() if from_student else None,
        }
    )


def _card(
    preset: str, lesson: Lesson, config: TrainingConfig, begin: _Beginning, trained: Trained, seed: int
) -> dict[str, Any]:
    return {
        "preset": preset,
        "teacher": lesson.teacher,
        **state_of_set(lesson.train.structures).on_card(),
        "limits": limits(begin.architecture, lesson.teacher.get("long_range")),
        "data": begin.figures,
        "training": {
            "split": lesson.how_split,
            "references": begin.note,
            "epochs": trained.progress.epoch,
            "steps": trained.progress.step,
            "labels_seen": trained.progress.labels_seen,
            "seconds": round(trained.progress.spent_s, 1),
            "seed": seed,
            "settings": config.model_dump(mode="json"),
        },
        "metrics": {"validation": trained.validation},
    }


def _adopt(
    start: StudentRecord, architecture: Architecture, train: LabelledSet, path: Path, same_origin: bool
) -> tuple[Architecture, Baseline]:
    """Architecture and baseline of the student that training starts from.

    Labels of another origin have another zero of energy: the references move by what is left
    between the labels and the student, fitted for each element.
    """
    wanted = (architecture.hidden_dim, architecture.interactions, architecture.rbf)
    have = (start.architecture.hidden_dim, start.architecture.interactions, start.architecture.rbf)
    if wanted != have:
        raise InputError(
            "the student to start from is of another preset",
            where=path,
            got="hidden_dim, interactions, rbf = " + ", ".join(map(str, have)),
            wanted=", ".join(map(str, wanted)),
            remedy="give the preset that it was trained as",
        )
    strange = [z for z in architecture.elements if z not in start.architecture.elements]
    if strange:
        raise InputError(
            "the student to start from does not know every element",
            where=path,
            got=f"Z = {strange} in the data",
            wanted=f"Z among {list(start.architecture.elements)}",
            remedy="start without --init",
        )
    state = state_of_set(train.structures)
    if start.state.differs(state.charge, state.spin):
        raise InputError(
            "the student to start from is of another total charge or spin",
            where=path,
            got=str(start.state),
            wanted=f"{state}, as the data",
            remedy="start without --init",
        )
    if same_origin:
        return start.architecture, start.baseline
    rest = train.labels.energy - predict(Student(start), train.structures).energy
    shift, _ = fit_references(replace(train, labels=replace(train.labels, energy=rest)))
    references = {z: e + shift.get(z, 0.0) for z, e in start.baseline.references.items()}
    return start.architecture, replace(start.baseline, references=references)


def save_student(path: Path, record: StudentRecord, **entries: Any) -> None:
    """Write a student file; ``entries`` replace those on its card."""
    write_student(
        path, StudentRecord(record.architecture, record.baseline, record.weights, record.card | entries)
    )
