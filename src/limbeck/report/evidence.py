"""The structures behind a report: labels trained on, those compared on, and each student's answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from ase import Atoms

from limbeck.core.checks import check_suits
from limbeck.core.labels import LabelledSet
from limbeck.core.reading import read_any
from limbeck.dataset.read import read_labelled, read_reference, split_isolated_atoms
from limbeck.errors import LimbeckError
from limbeck.progress import Progress, no_progress
from limbeck.report.reading import Run
from limbeck.runtime.student import Student
from limbeck.validation.doubt import doubt_labels
from limbeck.validation.run import ValidationReport, validate

MOST_ATOMS = 100_000  #: so many are compared at most; more change no figure that can be seen
T = TypeVar("T")


@dataclass(frozen=True)
class Evidence:
    """What figures are made of.

    Attributes
    ----------
    learned: labels that students learned from and that chose their best weights; None where they are
        not in the run folder.
    compared: the labelled set that students are compared on, None where its file is missing.
    what: how it is called. reports: preset -> predictions and errors on it.
    starts: starting structures. notes: what could not be read or is shown in part.
    """

    learned: LabelledSet | None
    compared: LabelledSet | None
    what: str
    reports: dict[str, ValidationReport]
    starts: list[Atoms]
    notes: tuple[str, ...]

    @property
    def sets(self) -> list[tuple[str, LabelledSet]]:
        """(name, set) of what is there, those learned from first."""
        named = (("training labels", self.learned), (f"{self.what} frames", self.compared))
        return [(name, labelled) for name, labelled in named if labelled is not None and len(labelled)]


def gather(run: Run, progress: Progress = no_progress, keys: Mapping[str, Any] | None = None) -> Evidence:
    """Read the structures of a run and evaluate its students on those they are compared on.

    ``keys``: names of the labels that were given, as :func:`~limbeck.dataset.read.read_labelled` takes them.
    """
    notes: list[str] = []
    learned = _attempt(partial(_learned, run, notes), notes)
    # labels that somebody named must be usable; a run's own may be missing
    read = partial(_compared, run, notes, keys or {})
    compared = _attempt(read, notes) if run.given is None else read()
    reports: dict[str, ValidationReport] = {}
    for preset in run.presets:
        if compared is not None and preset in run.students:
            report = _attempt(partial(_judge, run, preset, compared, progress), notes)
            if report is not None:
                reports[preset] = report
                if doubt := doubt_labels(compared.labels.forces, report.prediction.forces):
                    notes.append(f"{preset}: {doubt}")
    starts = _attempt(partial(_starts, run), notes) or []
    return Evidence(learned, compared, run.what, reports, starts, tuple(notes))


def _attempt(read: Callable[[], T], notes: list[str]) -> T | None:
    try:
        return read()
    except LimbeckError as error:
        notes.append(str(error))
        return None


def _learned(run: Run, notes: list[str]) -> LabelledSet | None:
    folder = run.folder / "labels"
    if not folder.is_dir():
        return None
    with warnings.catch_warnings(record=True) as told:  # of damaged shards, of a test set among the labels
        warnings.simplefilter("always")
        labelled, _ = split_isolated_atoms(read_labelled(folder))
    notes += [str(one.message) for one in told if issubclass(one.category, UserWarning)]
    finite = np.isfinite(labelled.labels.energy)
    lost = ~np.isfinite(labelled.labels.forces).all(axis=1)
    finite[labelled.structures.structure_of_atom[lost]] = False
    return labelled.select(np.flatnonzero(finite))


def _compared(run: Run, notes: list[str], keys: Mapping[str, Any]) -> LabelledSet | None:
    path = run.compared_on
    if run.given is not None:
        return read_reference(run.given, **keys)
    if not path.is_file():
        notes.append(f"{path.name} is not in the run folder, so there are no figures of errors")
        return None
    labelled, _ = split_isolated_atoms(read_labelled(path))
    total = labelled.structures.n_atoms
    if total <= MOST_ATOMS:
        return labelled
    order = np.random.default_rng(0).permutation(len(labelled))
    kept = max(1, int(np.searchsorted(np.cumsum(labelled.structures.counts[order]), MOST_ATOMS)))
    notes.append(f"figures of errors show {kept:,} of {len(labelled):,} structures, drawn at random")
    return labelled.select(np.sort(order[:kept]))


def _judge(run: Run, preset: str, compared: LabelledSet, progress: Progress) -> ValidationReport:
    student = Student.load(run.students[preset].path)
    check_suits(student.record.state, compared.structures, run.what)
    return validate(student, compared, progress=progress)


def _starts(run: Run) -> list[Atoms]:
    path = run.folder / "structures.extxyz"
    return read_any(path) if path.is_file() else []
