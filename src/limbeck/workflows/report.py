"""``limbeck report``: students evaluated on the structures they are compared on, then the page."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from limbeck.core.checks import check_suits
from limbeck.core.labels import LabelledSet
from limbeck.core.reading import read_any
from limbeck.dataset.read import read_labelled, read_reference, split_isolated_atoms
from limbeck.errors import InputError, LimbeckError
from limbeck.progress import Progress, no_progress
from limbeck.records.metrics import ValidationReport
from limbeck.report.page import Written, plotly_js, write_page
from limbeck.report.provenance import elements_of
from limbeck.report.reading import Evidence, Run, read_run
from limbeck.runtime.student import Student
from limbeck.validation.doubt import doubt_labels
from limbeck.validation.run import validate

MOST_ATOMS = 100_000  #: compared at most; more would not change the figures visibly
T = TypeVar("T")


def write_report(
    folder: Path | str,
    out: Path | str | None = None,
    *,
    target_force_rmse_mev_per_a: float | None = None,
    data: Path | None = None,
    keys: Mapping[str, Any] | None = None,
    results: Path | None = None,
    progress: Progress = no_progress,
) -> Written:
    """Write the page of a finished run, and beside it ``PRESET.card.md`` for each of its students.

    Parameters
    ----------
    out: the page; ``report.html`` in the run folder unless given.
    target_force_rmse_mev_per_a: what the recommendation must meet; else what the configuration wants.
    data: labels to evaluate the students on, instead of the run's test (else validation) structures.
    keys: names of these labels, as :func:`~limbeck.dataset.read.read_labelled` takes them.
    results: as :func:`~limbeck.report.reading.read_run` takes it.

    Raises
    ------
    InputError: no run folder, a run that is not finished, or data that cannot be used.
    MissingPackageError: plotly is not installed. LimbeckError: a file cannot be written.
    """
    run = read_run(folder, results)
    plotly_js()  # refused before anything is evaluated
    if data is not None:
        run = replace(run, given=data)
    evidence = gather(run, progress, keys)
    if data is not None:
        if not evidence.reports:
            raise InputError(
                "no student of the run can be evaluated on these labels",
                where=data,
                got="; ".join(evidence.notes) or "none that can be read",
                wanted=f"labels of {' '.join(elements_of(run))}",
            )
        run = run.evaluated_on(data, {name: one.metrics for name, one in evidence.reports.items()})
    return write_page(run, evidence, out, target_force_rmse_mev_per_a)


def gather(run: Run, progress: Progress = no_progress, keys: Mapping[str, Any] | None = None) -> Evidence:
    """Read the structures of a run and evaluate its students on those they are compared on.

    ``keys``: names of the labels that were given, as :func:`~limbeck.dataset.read.read_labelled` takes them.
    """
    notes: list[str] = []

    def attempt(work: Callable[[], T]) -> T | None:
        try:
            return work()
        except LimbeckError as error:
            notes.append(str(error))
            return None

    def starts() -> list[Any]:
        path = run.folder / "structures.extxyz"
        return read_any(path) if path.is_file() else []

    learned = attempt(lambda: _learned(run, notes))
    # labels that somebody named must be usable; a run's own may be missing
    if run.given is None:
        compared = attempt(lambda: _compared(run, notes))
    else:
        compared = read_reference(run.given, **keys or {})
    reports: dict[str, ValidationReport] = {}
    for preset in run.presets:
        if compared is None or preset not in run.students:
            continue
        report = attempt(lambda: _evaluate(run, preset, compared, progress))  # noqa: B023
        if report is not None:
            reports[preset] = report
            if doubt := doubt_labels(compared.labels.forces, report.prediction.forces):
                notes.append(f"{preset}: {doubt}")
    return Evidence(learned, compared, run.what, reports, attempt(starts) or [], tuple(notes))


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


def _compared(run: Run, notes: list[str]) -> LabelledSet | None:
    path = run.compared_on
    if not path.is_file():
        notes.append(f"{path.name} is not in the run folder, so there are no figures of errors")
        return None
    labelled, _ = split_isolated_atoms(read_labelled(path))
    if labelled.structures.n_atoms <= MOST_ATOMS:
        return labelled
    order = np.random.default_rng(0).permutation(len(labelled))
    kept = max(1, int(np.searchsorted(np.cumsum(labelled.structures.counts[order]), MOST_ATOMS)))
    notes.append(f"figures of errors show {kept:,} of {len(labelled):,} structures, drawn at random")
    return labelled.select(np.sort(order[:kept]))


def _evaluate(run: Run, preset: str, compared: LabelledSet, progress: Progress) -> ValidationReport:
    student = Student.load(run.students[preset].path)
    check_suits(student.record.state, compared.structures, run.what)
    return validate(student, compared, progress=progress)
