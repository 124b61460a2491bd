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
from ase.data import chemical_symbols

from limbeck.core.checks import check_structures
from limbeck.core.labels import LabelledSet, concatenate_labelled
from limbeck.dataset.lint import Expected, find_copies
from limbeck.dataset.read import read_labelled, split_isolated_atoms
from limbeck.errors import InputError, LimbeckError
from limbeck.labelling.audit import audit
from limbeck.pipeline.lessons import Lesson, make_lesson, mended
from limbeck.pipeline.linting import preflight
from limbeck.pipeline.telling import Say, say_some

#: of a teacher's own labels, the share that may look wrong and is left out: a run of hours does not end
#: because a few of its frames are strange
SPARED = 0.02


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

    def names(self, several: bool) -> list[str]:
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
) -> Lesson:
    """Lint, audit, leave out the test set, split; what is left out is named and counted.

    ``teacher``: for the model card. Energies of isolated atoms among the labels become references.

    Raises
    ------
    InputError: lint finds an error, too few labels are left, or the validation set does not go with them.
    LimbeckError: a teacher's labels are all left out by the audit.
    """
    whole, replaced = mended(concatenate_labelled([source.labelled for source in sources]))
    say_some(say, replaced, "contact scans with a hole")
    names = [name for source in sources for name in source.names(len(sources) > 1)]
    kept, reasons = _audit(whole, names, how.max_force_ev_per_a)
    if how.max_force_ev_per_a is not None and not len(kept):
        raise LimbeckError(
            "no label survived the audit",
            got=f"{len(reasons)} labels lost" + (f", the first: {reasons[0]}" if reasons else ""),
            remedy="look at the structures, or raise labelling.max_force_ev_per_a",
        )
    val = _read_validation(how.val, how, whole, say) if isinstance(how.val, Path) else float(how.val)
    held = val if isinstance(val, LabelledSet) else None
    expected = Expected(
        how.elements, None, held, copies_removed=True, max_force_ev_per_a=how.max_force_ev_per_a
    )
    parts = np.split(np.arange(len(whole)), np.cumsum([len(source.labelled) for source in sources])[:-1])
    spoiled = preflight(
        [(source.name, whole.select(part)) for source, part in zip(sources, parts, strict=True)],
        how.ignore,
        say,
        expected,
        spare=0.0 if how.max_force_ev_per_a is None else SPARED,
    )
    say_some(say, reasons, "labels left out")
    labelled, references = split_isolated_atoms(whole.select(np.setdiff1d(kept, spoiled)))
    if how.test is not None:
        labelled = without_test(labelled, how.test, say)
    where = ", ".join(source.name for source in sources)
    if len(labelled) < 2:
        wanted = "at least two" + (
            " that the audit keeps" if how.test is None else " that are not in the test set"
        )
        raise InputError("too few labels to train on", where=where, got=len(labelled), wanted=wanted)
    check_structures(labelled.to_atoms(), where)
    return make_lesson(labelled, val, how.seed, references, teacher)


def without_test(labelled: LabelledSet, test: LabelledSet, say: Say, what: str = "labels") -> LabelledSet:
    """Without structures that are in the test set, or as near to one as a leak is; says how many."""
    copies = find_copies(labelled, test)
    if copies.any():
        n = f"{int(copies.sum())} of {len(labelled)} {what}"
        say(f"note: {n} are left out, because their structures are in the test set")
    return labelled.select(np.flatnonzero(~copies))


def _read_validation(path: Path, how: Preparation, training: LabelledSet, say: Say) -> LabelledSet:
    """The labels of the validation file: linted, audited, none of the test set."""
    own, replaced = mended(read_labelled(path, **how.keys))
    say_some(say, replaced, "contact scans with a hole")
    _check_validation(training, split_isolated_atoms(own)[0], path)
    preflight([(str(path), own)], how.ignore, say)
    kept, reasons = _audit(own, LabelSource(str(path), own).names(False), how.max_force_ev_per_a)
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
    strange = sorted({int(z) for z in val.structures.numbers} - {int(z) for z in training.structures.numbers})
    if strange:
        raise InputError(
            "the validation set holds an element that the training labels do not",
            where=where,
            got=", ".join(chemical_symbols[z] for z in strange),
            wanted="the elements of the training labels",
        )
    check_structures([*training.select([0]).to_atoms(), *val.to_atoms()], str(where))


def _audit(
    labelled: LabelledSet, names: Sequence[str], max_force_ev_per_a: float | None
) -> tuple[np.ndarray, list[str]]:
    """Which labels the audit keeps, and why it leaves out the others."""
    limit = {} if max_force_ev_per_a is None else {"max_force_ev_per_a": max_force_ev_per_a}
    kept, dropped = audit(labelled, **limit)
    return kept, [f"{names[d.index]} left out: {d.reason}" for d in dropped]
