"""Training sets in, a student file out: what `distill`, `train` and interim students share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.artifact.file import StudentArtifact, read_student, write_student
from limbeck.core.checks import state_of_set
from limbeck.core.hashing import hash_json
from limbeck.core.labels import LabelledSet
from limbeck.core.machine import available_threads
from limbeck.dataset.statistics import fit_references, statistics
from limbeck.errors import InputError
from limbeck.progress import Progress, Say, no_progress
from limbeck.records.metrics import LongRangeReport
from limbeck.runtime.student import Student
from limbeck.students.baseline import Baseline
from limbeck.students.specification import (
    Architecture,
    flatten,
    initial_weights,
    preset_architecture,
    unflatten,
    with_cores,
)
from limbeck.training.config import TrainingConfig
from limbeck.training.data import TrainingData, prepare
from limbeck.training.loop import Stop, Trained
from limbeck.validation.run import predict
from limbeck.workflows.training_data import TrainingSets, make_baseline

__all__ = ["TrainingSets", "limits", "save_student", "say_idle_threads", "train_student"]


def say_idle_threads(config: TrainingConfig, train: LabelledSet, say: Say) -> None:
    """The core gives each structure of a batch to one thread; more threads than that wait."""
    threads = config.threads or available_threads()
    mean = max(train.structures.n_atoms / max(len(train), 1), 1.0)
    busy = max(round(config.atoms_a_batch / mean), 1)
    if config.device == "cpu" and config.batch_atoms is None and threads > busy:
        say(
            f"note: batches of {config.atoms_a_batch} atoms hold about {busy} structures, so "
            f"{threads - busy} of {threads} threads wait; --set training.batch_atoms={round(threads * mean)} "
            "employs all, in larger steps"
        )


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


def train_student(
    preset: str,
    sets: TrainingSets,
    config: TrainingConfig,
    stop: Stop,
    folder: Path,
    *,
    seed: int = 0,
    init: Path | None = None,
    same_origin: bool = False,
    progress: Progress = no_progress,
) -> tuple[StudentArtifact, Trained]:
    """Train one preset; interrupted, the same call resumes.

    ``init``: a student whose weights it starts from. ``same_origin``: that student learned from labels
    of the same teacher, so its energy references stay as they are.
    """
    begin = _begin(preset, sets, config, seed, init, same_origin)
    architecture = begin.architecture
    what = {
        # what a checkpoint must agree with; how long a run lasts is no part of it
        "data": begin.figures["content_hash"],
        "validation": statistics(sets.validation).content_hash,
        "architecture": architecture.to_dict(),
        "config": config.model_dump(exclude={"threads", "tensorboard", "checkpoint_s", "epochs"}),
        "seed": seed,
        "init": None if init is None else flatten(architecture, begin.weights).tobytes().hex(),
    }
    from limbeck.training.trainer import Trainer  # only here: it imports torch

    trained = Trainer(
        architecture,
        begin.train,
        begin.validation,
        config,
        stop,
        folder,
        start=flatten(
            architecture, begin.weights, np.float64 if config.precision == "float64" else np.float32
        ),
        run_hash=hash_json(what),
        seed=seed,
        report=lambda done, text: progress(f"training {preset}", round(1000 * done), 1000, text),
    ).run()
    card = {
        "preset": preset,
        "teacher": sets.teacher,
        **state_of_set(sets.train.structures).on_card(),
        "limits": limits(architecture, sets.teacher.get("long_range")),
        "data": begin.figures,
        "training": {
            "split": sets.how_split,
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
    weights = {name: weight.copy() for name, weight in unflatten(architecture, trained.flat).items()}
    return StudentArtifact(architecture, begin.baseline, weights, card), trained


def _begin(
    preset: str, sets: TrainingSets, config: TrainingConfig, seed: int, init: Path | None, same_origin: bool
) -> _Beginning:
    """A student with random weights, or with those of the student ``init``."""
    baseline, figures, note = make_baseline(sets)
    architecture = preset_architecture(preset, tuple(baseline.references), cutoff=config.cutoff)
    start = None if init is None else read_student(init)
    if init is not None and start is not None:
        _check_continues(start, architecture, sets.train, init)
        architecture, baseline = start.architecture, start.baseline
        if same_origin:
            note = str(start.card.get("training", {}).get("references", ""))
        else:
            baseline = _moved(start, sets.train)
            note = f"energy references of {init.name}, moved by least squares to the zero of these labels"
    train = prepare(sets.train, baseline, architecture.cutoff)
    validation = prepare(sets.validation, baseline, architecture.cutoff)
    if start is not None:
        return _Beginning(architecture, baseline, start.weights, train, validation, figures, note)
    scale = float(np.sqrt(np.mean(train.forces**2))) or 1.0
    architecture = with_cores(replace(architecture, energy_scale=scale), baseline.zbl_radius)
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


def _check_continues(
    start: StudentArtifact, architecture: Architecture, train: LabelledSet, path: Path
) -> None:
    """Refuse a student to start from that is of another preset, charge or spin, or misses an element."""
    have, wanted = ((a.hidden_dim, a.interactions, a.rbf) for a in (start.architecture, architecture))
    if wanted != have:
        raise InputError(
            "the student to start from is of another preset",
            where=path,
            got="hidden_dim, interactions, rbf = " + ", ".join(map(str, have)),
            wanted=", ".join(map(str, wanted)),
            remedy="give the preset that it was trained as",
        )
    unknown = [z for z in architecture.elements if z not in start.architecture.elements]
    if unknown:
        raise InputError(
            "the student to start from does not know every element",
            where=path,
            got=f"Z = {unknown} in the data",
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


def _moved(start: StudentArtifact, train: LabelledSet) -> Baseline:
    """The student's baseline for labels with another zero of energy.

    References move by what is left between the labels and the student, fitted for each element.
    """
    rest = train.labels.energy - predict(Student(start), train.structures).energy
    shift, _ = fit_references(replace(train, labels=replace(train.labels, energy=rest)))
    references = {z: e + shift.get(z, 0.0) for z, e in start.baseline.references.items()}
    return replace(start.baseline, references=references)


def receptive_field_a(architecture: Architecture) -> float:
    """How far the energy of an atom reaches, Å."""
    return architecture.cutoff * architecture.interactions


def limits(architecture: Architecture, reach: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    """What a card says of the interactions that its student cannot see.

    ``reach``: of the teacher, :class:`LongRangeReport` as dicts.
    """
    field = receptive_field_a(architecture)
    own = [LongRangeReport(**report) for report in reach or () if report["radius_a"] == field]
    # why it was not measured concerns the run (its metrics.json has it), not who uses the student
    return {
        "receptive_field_a": field,
        "long_range": own[0].text(reason=False) if own else "not measured",
    }


def save_student(path: Path, record: StudentArtifact, **entries: Any) -> None:
    """Write a student file; ``entries`` replace those on its card."""
    write_student(path, replace(record, card=record.card | entries))
