"""Labelled sets in, student files out: what `distill`, `train` and the scout share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from limbeck.artifact.file import StudentRecord, read_student, write_student
from limbeck.core.checks import check_structures
from limbeck.core.hashing import hash_json
from limbeck.core.labels import LabelledSet
from limbeck.dataset.statistics import fit_references, statistics
from limbeck.errors import InputError
from limbeck.progress import Progress, no_progress
from limbeck.runtime.student import Student
from limbeck.students.baseline import Baseline, zbl_radii
from limbeck.students.specification import (
    Architecture,
    flatten,
    initial_weights,
    preset_architecture,
    unflatten,
    with_scale,
)
from limbeck.training.config import TrainingConfig
from limbeck.training.data import prepare
from limbeck.training.loop import Stop, Trained, Trainer
from limbeck.validation.run import predict

#: how training time is shared among presets: the larger ones are slower a step
TIME_SHARE = {"original": 5.0, "tiny": 2.0, "ultra-tiny": 1.5}


@dataclass(frozen=True)
class Lesson:
    """What students learn from.

    Attributes
    ----------
    train, validation: labelled sets of which no family stands on both sides.
    references: atomic number -> eV where known (isolated atoms), None to fit them.
    how_split, teacher: for the card.
    """

    train: LabelledSet
    validation: LabelledSet
    references: dict[int, float] | None
    how_split: str
    teacher: dict[str, Any]


def untrained_student(preset: str, atoms: Atoms, cutoff: float) -> Student:
    """A student with random weights for the elements of ``atoms``: as fast as it will be when trained."""
    architecture = preset_architecture(preset, tuple(sorted(set(atoms.numbers.tolist()))), cutoff=cutoff)
    weights = initial_weights(architecture, seed=0, mean_neighbours=50.0)
    baseline = Baseline(
        references=dict.fromkeys(architecture.elements, 0.0), zbl_radius=zbl_radii(architecture.elements, {})
    )
    record = StudentRecord(
        architecture, baseline, {k: v.astype(np.float32) for k, v in weights.items()}, {"preset": preset}
    )
    return Student(record)


def make_baseline(lesson: Lesson) -> tuple[Baseline, dict[str, Any], str]:
    """References, ZBL below the shortest bonds seen, statistics of the training set, a note."""
    figures = statistics(lesson.train).to_dict()
    elements = tuple(sorted(int(z) for z in np.unique(lesson.train.structures.numbers)))
    note = "energy references from the teacher's isolated atoms"
    references = lesson.references
    if references is None or any(z not in references for z in elements):
        references, note = fit_references(lesson.train)
    shortest = {}
    for pair, distance in figures["shortest_pair_a"].items():
        a, b = sorted(atomic_numbers[symbol] for symbol in pair.split("-"))
        shortest[a, b] = float(distance)
    references = {z: float(references[z]) for z in elements}
    return Baseline(references=references, zbl_radius=zbl_radii(elements, shortest)), figures, note


def train_student(
    preset: str,
    lesson: Lesson,
    config: TrainingConfig,
    stop: Stop,
    folder: Path,
    *,
    seed: int = 0,
    init: Path | None = None,
    progress: Progress = no_progress,
) -> tuple[StudentRecord, Trained]:
    """Train one preset; interrupted, the same call goes on where it was."""
    baseline, figures, note = make_baseline(lesson)
    architecture = preset_architecture(preset, tuple(baseline.references), cutoff=config.cutoff)
    start_record = None
    if init is not None:
        start_record = read_student(init)
        architecture, baseline = _adopt(start_record, architecture, lesson.train, init)
        note = f"energy references of {init.name}, moved by least squares to the zero of these labels"
    train = prepare(lesson.train, baseline, architecture.cutoff)
    validation = prepare(lesson.validation, baseline, architecture.cutoff)
    if start_record is None:
        scale = float(np.sqrt(np.mean(train.forces**2))) or 1.0
        architecture = with_scale(architecture, scale)
        weights = initial_weights(
            architecture,
            seed=seed,
            mean_neighbours=train.mean_neighbours,
            power=train.basis_power(architecture),
        )
        # isolated atoms are far below a condensed phase: the mean of the rest starts in the last bias
        shift = float((train.energy / train.structures.counts).mean())
        weights["readout.1.bias"] = np.array([shift / scale])
    else:
        weights = start_record.weights
    dtype = np.float64 if config.precision == "float64" else np.float32
    run_hash = hash_json(
        {
            "data": figures["content_hash"],
            "validation": statistics(lesson.validation).content_hash,
            "architecture": architecture.to_dict(),
            "config": config.model_dump(exclude={"threads", "tensorboard", "checkpoint_s", "epochs"}),
            "seed": seed,
            "init": None if start_record is None else flatten(architecture, weights).tobytes().hex(),
        }
    )

    def report(done: float, text: str) -> None:
        progress(f"training {preset}", round(1000 * done), 1000, text)

    trainer = Trainer(
        architecture,
        train,
        validation,
        config,
        stop,
        folder,
        start=flatten(architecture, weights, dtype),
        run_hash=run_hash,
        seed=seed,
        report=report,
    )
    trained = trainer.run()
    card = {
        "preset": preset,
        "teacher": lesson.teacher,
        "data": figures,
        "training": {
            "split": lesson.how_split,
            "references": note,
            "epochs": trained.progress.epoch,
            "steps": trained.progress.step,
            "labels_seen": trained.progress.labels_seen,
            "seconds": round(trained.progress.spent_s, 1),
            "seed": seed,
            "settings": config.model_dump(mode="json"),
        },
        "metrics": {"validation": trained.validation},
    }
    record = StudentRecord(
        architecture=architecture,
        baseline=baseline,
        weights={k: v.copy() for k, v in unflatten(architecture, trained.flat).items()},
        card=card,
    )
    return record, trained


def _adopt(
    start: StudentRecord, architecture: Architecture, train: LabelledSet, path: Path
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
    rest = train.labels.energy - predict(Student(start), train.structures).energy
    shift, _ = fit_references(replace(train, labels=replace(train.labels, energy=rest)))
    references = {z: e + shift.get(z, 0.0) for z, e in start.baseline.references.items()}
    return start.architecture, replace(start.baseline, references=references)


def save_student(path: Path, record: StudentRecord, metrics: dict[str, Any] | None = None) -> None:
    """Write a student file; ``metrics`` replace those on its card."""
    card = record.card if metrics is None else record.card | {"metrics": metrics}
    write_student(path, StudentRecord(record.architecture, record.baseline, record.weights, card))


def check_validation(labelled: LabelledSet, val: LabelledSet, where: object) -> None:
    """Refuse a validation set of its own that does not go with the labels.

    Raises
    ------
    InputError: it is empty, holds an element that the labels lack, or has another total charge.
    """
    if not len(val):
        raise InputError("nothing to validate on", where=where, got="isolated atoms only")
    strange = sorted({int(z) for z in val.structures.numbers} - {int(z) for z in labelled.structures.numbers})
    if strange:
        raise InputError(
            "the validation set holds an element that the training labels do not",
            where=where,
            got=", ".join(chemical_symbols[z] for z in strange),
            wanted="the elements of the training labels",
        )
    check_structures([*labelled.structures.select([0]).to_atoms(), *val.structures.to_atoms()], str(where))
