"""From labels as they were read to what students learn from: one way for `train` and `distill`.

Labels are linted as they were read, with the validation set beside them: a wrong unit shows in what the
audit would leave out, and the numbers of frames are those of the files. Then the audit leaves labels out,
then structures of the test set are, and what remains is split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from limbeck.core.audit import audit
from limbeck.core.checks import check_structures, contacts
from limbeck.core.labels import LabelledSet, concatenate_labelled
from limbeck.core.scans import scan_mask
from limbeck.dataset.lint import Expected, find_copies
from limbeck.dataset.read import read_labelled, split_isolated_atoms
from limbeck.dataset.split import split
from limbeck.dataset.statistics import fit_references, shortest_pairs, statistics, without_scans
from limbeck.errors import InputError, LimbeckError
from limbeck.labelling.repair import repair_scans
from limbeck.progress import Say, say_some
from limbeck.students.baseline import Baseline, zbl_radii
from limbeck.workflows.lint import preflight

#: of a teacher's own labels, the share that may look wrong and is left out: a run of hours does not end
#: because a few of its frames are suspicious
SPARED = 0.02


@dataclass(frozen=True)
class TrainingSets:
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


@dataclass(frozen=True)
class LabelSource:
    """Labels as they were read, none left out.

    Attributes
    ----------
    name: of the file or store. frames: (S,) the numbers that messages give the labels, where those are
        not their places.
    """

    name: str
    labelled: LabelledSet
    frames: np.ndarray | None = None

    def names(self, several: bool = False) -> list[str]:
        """``label 3`` or ``frame 3``; with ``several`` sources ``label FILE:3``."""
        if self.frames is not None:
            return [f"frame {k}" for k in self.frames]
        return [f"label {self.name}:{k}" if several else f"label {k}" for k in self.labelled.frame]


@dataclass(frozen=True)
class Preparation:
    """How training data are prepared.

    Attributes
    ----------
    val: the share that validates, or a labelled file. seed: of the split.
    ignore: codes of findings to pass over. keys: names of labels in the validation file.
    elements: atomic numbers that the labels should hold. test: no label of its structures may train or
        validate.
    max_force_ev_per_a: for labels of the run's own teacher, whose units are known: larger forces are left
        out however many they are, and so are up to 2% of the structures that look wrong.
    """

    val: float | Path
    seed: int
    ignore: Sequence[str] = ()
    keys: Mapping[str, Any] = field(default_factory=dict)
    elements: tuple[int, ...] | None = None
    test: LabelledSet | None = None
    max_force_ev_per_a: float | None = None


def prepare_training_data(
    sources: Sequence[LabelSource], how: Preparation, teacher: dict[str, Any], say: Say
) -> TrainingSets:
    """Lint, audit, leave out the test set, split; what is left out is named and counted.

    ``teacher``: for the model card. Energies of isolated atoms among the labels become references.

    Raises
    ------
    InputError: lint finds an error, too few labels are left, or the validation set does not go with them.
    LimbeckError: a teacher's labels are all left out by the audit.
    """
    own_teacher = how.max_force_ev_per_a is not None
    whole, replaced = repaired(concatenate_labelled([source.labelled for source in sources]))
    say_some(say, replaced, "contact scans that are unphysical at short range")
    names = [name for source in sources for name in source.names(len(sources) > 1)]
    kept, reasons = audit_named(whole, names, how.max_force_ev_per_a)
    if own_teacher:
        check_some_kept(kept, reasons)
    val = _read_validation(how.val, how, whole, say) if isinstance(how.val, Path) else float(how.val)
    expected = Expected(
        how.elements,
        None,
        val if isinstance(val, LabelledSet) else None,
        copies_removed=True,
        max_force_ev_per_a=how.max_force_ev_per_a,
    )
    parts = np.split(np.arange(len(whole)), np.cumsum([len(source.labelled) for source in sources])[:-1])
    sets = [(source.name, whole.select(part)) for source, part in zip(sources, parts, strict=True)]
    spoiled = preflight(sets, how.ignore, say, expected, spare=SPARED if own_teacher else 0.0)
    say_some(say, reasons, "labels left out")
    labelled, references = split_isolated_atoms(whole.select(np.setdiff1d(kept, spoiled)))
    if how.test is not None:
        labelled = without_test(labelled, how.test, say)
    where = ", ".join(source.name for source in sources)
    if len(labelled) < 2:
        which = "that the audit keeps" if how.test is None else "that are not in the test set"
        raise InputError(
            "too few labels to train on", where=where, got=len(labelled), wanted=f"at least two {which}"
        )
    check_structures(labelled.to_atoms(), where)
    return make_training_sets(labelled, val, how.seed, references, teacher)


def without_test(labelled: LabelledSet, test: LabelledSet, say: Say, what: str = "labels") -> LabelledSet:
    """Without structures that are in the test set, or as near to one as a leak is; says how many."""
    copies = find_copies(labelled, test)
    if copies.any():
        n = f"{int(copies.sum())} of {len(labelled)} {what}"
        say(f"note: {n} are left out, because their structures are in the test set")
    return labelled.select(np.flatnonzero(~copies))


def _read_validation(path: Path, how: Preparation, training: LabelledSet, say: Say) -> LabelledSet:
    """The labels of the validation file: linted, audited, none of the test set."""
    own, replaced = repaired(read_labelled(path, **how.keys))
    say_some(say, replaced, "contact scans that are unphysical at short range")
    _check_validation(training, split_isolated_atoms(own)[0], path)
    preflight([(str(path), own)], how.ignore, say)
    kept, reasons = audit_named(own, LabelSource(str(path), own).names())
    say_some(say, reasons, "labels left out")
    own, _ = split_isolated_atoms(own.select(kept))
    if how.test is not None:
        own = without_test(own, how.test, say, f"labels of {path}")
    _check_validation(training, own, path)
    return own


def _check_validation(training: LabelledSet, val: LabelledSet, where: object) -> None:
    """Refuse a validation set of its own that is empty, or of other elements or another charge."""
    if not len(val):
        raise InputError(
            "nothing to validate on", where=where, got="isolated atoms and labels that were left out only"
        )
    unknown = np.setdiff1d(val.structures.numbers, training.structures.numbers)
    if len(unknown):
        raise InputError(
            "the validation set holds an element that the training labels do not",
            where=where,
            got=", ".join(chemical_symbols[z] for z in unknown),
            wanted="the elements of the training labels",
        )
    check_structures([*training.select([0]).to_atoms(), *val.to_atoms()], str(where))


def audit_named(
    labelled: LabelledSet, names: Sequence[str], max_force_ev_per_a: float | None = None
) -> tuple[np.ndarray, list[str]]:
    """Which labels the audit keeps, and why it leaves out the others."""
    limit = {} if max_force_ev_per_a is None else {"max_force_ev_per_a": max_force_ev_per_a}
    kept, dropped = audit(labelled, **limit)
    return kept, [f"{names[d.index]} left out: {d.reason}" for d in dropped]


def check_some_kept(kept: np.ndarray, reasons: Sequence[str]) -> None:
    """LimbeckError where the audit left out every label of the teacher."""
    if not len(kept):
        raise LimbeckError(
            "no label passed the audit",
            got=f"{len(reasons)} labels lost" + (f", the first: {reasons[0]}" if reasons else ""),
            remedy="look at the structures, or raise labelling.max_force_ev_per_a",
        )


def make_training_sets(
    labelled: LabelledSet,
    val: float | LabelledSet,
    seed: int,
    references: dict[int, float],
    teacher: dict[str, Any],
) -> TrainingSets:
    """``labelled`` cut by a fraction or against a set of its own; see :func:`limbeck.dataset.split`.

    Contact scans end where a student's ZBL is whole: see :func:`without_cores`.
    """
    labelled = without_cores(labelled)
    parts = split(labelled, val, seed)
    train, validation = parts.parts(labelled)
    return TrainingSets(train, validation, references or None, parts.how, teacher)


def audited(labelled: LabelledSet, say: Say) -> LabelledSet:
    """Without labels that are not finite or far too large (these are named); contact scans repaired."""
    labelled, replaced = repaired(labelled)
    say_some(say, replaced, "contact scans that are unphysical at short range")
    kept, reasons = audit_named(labelled, LabelSource("", labelled).names())
    say_some(say, reasons, "labels left out")
    return labelled.select(kept)


def repaired(labelled: LabelledSet) -> tuple[LabelledSet, list[str]]:
    """The set with unphysical short-range labels of close-contact scans replaced, and a sentence for each."""
    scans = scan_mask(labelled.config_type)
    if not scans.any():
        return labelled, []
    shortest = {} if scans.all() else shortest_pairs(without_scans(labelled).structures)
    labelled, repairs = repair_scans(labelled, shortest)
    return labelled, [str(repair) for repair in repairs]


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


def make_baseline(sets: TrainingSets) -> tuple[Baseline, dict[str, Any], str]:
    """References, ZBL below the shortest bonds seen, statistics of the training set, a note."""
    elements = _elements(sets.train)
    references, note = sets.references, "energy references from the teacher's isolated atoms"
    if references is None or any(z not in references for z in elements):
        references, note = fit_references(sets.train)
    references = {z: float(references[z]) for z in elements}
    baseline = Baseline(references=references, zbl_radius=radii_of(sets.train))
    return baseline, statistics(sets.train).to_dict(), note


def radii_of(labelled: LabelledSet) -> dict[tuple[int, int], float]:
    """ZBL radius of each pair of the set's elements, from the shortest distances of what is no scan."""
    shortest = {}
    for pair, distance in shortest_pairs(without_scans(labelled).structures).items():
        a, b = sorted(atomic_numbers[symbol] for symbol in pair.split("-"))
        shortest[a, b] = float(distance)
    return zbl_radii(_elements(labelled), shortest)


def _elements(labelled: LabelledSet) -> tuple[int, ...]:
    return tuple(int(z) for z in np.unique(labelled.structures.numbers))
