"""What students learn from: labels that passed the audit, cut into training and validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from limbeck.core.checks import contacts
from limbeck.core.labels import LabelledSet
from limbeck.core.scans import scan_mask
from limbeck.dataset.split import split
from limbeck.dataset.statistics import fit_references, shortest_pairs, statistics, without_scans
from limbeck.labelling.audit import audit
from limbeck.labelling.contacts import judge_contacts
from limbeck.pipeline.telling import Say, say_some
from limbeck.students.baseline import Baseline, zbl_radii


@dataclass(frozen=True)
class Lesson:
    """What students learn from.

    Attributes
    ----------
    train, validation: labelled sets of which no group stands on both sides.
    references: atomic number -> eV where known (isolated atoms), None to fit them.
    how_split, teacher: for the card.
    """

    train: LabelledSet
    validation: LabelledSet
    references: dict[int, float] | None
    how_split: str
    teacher: dict[str, Any]


def make_lesson(
    labelled: LabelledSet,
    val: float | LabelledSet,
    seed: int,
    references: dict[int, float],
    teacher: dict[str, Any],
) -> Lesson:
    """``labelled`` cut by a fraction or against a set of its own; see :func:`limbeck.dataset.split`.

    Contact scans end where a student's ZBL is whole: see :func:`without_cores`.
    """
    labelled = without_cores(labelled)
    parts = split(labelled, val, seed)
    train, validation = parts.parts(labelled)
    return Lesson(train, validation, references or None, parts.how, teacher)


def audited(labelled: LabelledSet, say: Say) -> LabelledSet:
    """Without the labels that are not finite or far too large; those are named. Contact scans are mended."""
    labelled, replaced = mended(labelled)
    say_some(say, replaced, "contact scans with a hole")
    kept, dropped = audit(labelled)
    out = [f"label {labelled.frame[d.index]} left out: {d.reason}" for d in dropped]
    say_some(say, out, "labels left out")
    return labelled.select(kept)


def mended(labelled: LabelledSet) -> tuple[LabelledSet, list[str]]:
    """The set with the holes of its contact scans filled, and a sentence for each."""
    scans = scan_mask(labelled.config_type)
    if not scans.any():
        return labelled, []
    shortest = {} if scans.all() else shortest_pairs(without_scans(labelled).structures)
    labelled, holes = judge_contacts(labelled, shortest)
    return labelled, [str(hole) for hole in holes]


def without_cores(labelled: LabelledSet) -> LabelledSet:
    """The set without frames of contact scans in which atoms are closer than half their ZBL radius.

    A student is ZBL there; the rows of a network, far outside anything else that it sees, would only
    spoil its training.
    """
    scans = np.flatnonzero(scan_mask(labelled.config_type))
    if not len(scans):
        return labelled
    radii = radii_of(labelled)
    frames = labelled.structures.select(scans)
    i, j, distance, _ = contacts(frames, 0.5)  # radii are below the sum of covalent ones
    numbers = np.sort(frames.numbers[np.stack([i, j])], axis=0)  # (2, P)
    core = np.array([radii[int(a), int(b)] / 2 for a, b in numbers.T])
    close = frames.structure_of_atom[i[distance < core]]
    return labelled.select(np.setdiff1d(np.arange(len(labelled)), scans[close]))


def make_baseline(lesson: Lesson) -> tuple[Baseline, dict[str, Any], str]:
    """References, ZBL below the shortest bonds seen, statistics of the training set, a note."""
    figures = statistics(lesson.train).to_dict()
    elements = tuple(sorted(int(z) for z in np.unique(lesson.train.structures.numbers)))
    note = "energy references from the teacher's isolated atoms"
    references = lesson.references
    if references is None or any(z not in references for z in elements):
        references, note = fit_references(lesson.train)
    references = {z: float(references[z]) for z in elements}
    return Baseline(references=references, zbl_radius=radii_of(lesson.train)), figures, note


def radii_of(labelled: LabelledSet) -> dict[tuple[int, int], float]:
    """ZBL radius of each pair of the set's elements, from the shortest distances of what is no scan."""
    elements = tuple(sorted(int(z) for z in np.unique(labelled.structures.numbers)))
    shortest = {}
    for pair, distance in shortest_pairs(without_scans(labelled).structures).items():
        a, b = sorted(atomic_numbers[symbol] for symbol in pair.split("-"))
        shortest[a, b] = float(distance)
    return zbl_radii(elements, shortest)
