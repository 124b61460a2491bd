"""Label structures with a teacher, resuming where an earlier run stopped; energies of isolated atoms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ase import Atoms

from limbeck.core.audit import Dropped
from limbeck.core.hashing import hash_structure
from limbeck.core.labels import Labels
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.labelling.remote import WorkerPotential
from limbeck.progress import Progress, no_progress
from limbeck.records.label_record import label_key, make_record
from limbeck.records.label_store import LabelStore
from limbeck.teachers.card import TeacherCard, TeacherIdentity
from limbeck.teachers.registry import check_charges, check_supported

_SYNC_S = 1.0  # between fsyncs; a power cut loses the labels of this time, a killed process none
_HOPELESS = 10  # failures on structures from all over the set, without any label, end the run


@dataclass(frozen=True)
class LabelReport:
    """Result of :func:`label`.

    Attributes
    ----------
    keys: key of the label of every structure given, in order (duplicates share one).
    total: number of different structures. present: labels found in the store. labelled: new labels.
    failed: structures that the teacher failed on; they have no label.
    seconds: wall time. complete: false where the deadline stopped the run.
    """

    keys: tuple[str, ...]
    total: int
    present: int
    labelled: int
    failed: tuple[Dropped, ...]
    seconds: float
    complete: bool


def label(
    frames: Sequence[Atoms],
    teacher: Potential,
    store: LabelStore,
    *,
    identity: TeacherIdentity | None = None,
    card: TeacherCard | None = None,
    progress: Progress = no_progress,
    deadline_s: float | None = None,
) -> LabelReport:
    """Label the ``frames`` that are not in ``store`` yet, and store each label as it comes.

    A killed run loses only the labels being computed (up to two requests a worker, each of one structure or
    of ``batch_atoms`` atoms), a power cut also those of the last second.

    Parameters
    ----------
    frames: structures, with provenance in ``info`` (group, config_type, temperature_K).
    teacher: from ``open_teacher``, or any Potential together with its ``identity``.
    card: domain of the teacher, checked before labelling starts; by default the teacher's own.
    deadline_s: no structure is started after this many seconds; those being computed are finished.

    Raises
    ------
    InputError: structures outside the teacher's domain; a store with another teacher's labels.
    LimbeckError: a worker died, the teacher fails on every structure, or labels cannot be written.
    """
    start = synced = time.monotonic()
    if isinstance(teacher, WorkerPotential):
        identity, card = identity or teacher.identity, card or teacher.card
    if identity is None:
        raise InputError("missing identity of the teacher", where="label", wanted="identity=TeacherIdentity")
    store.check_teacher(identity)
    batch = StructureBatch.from_atoms(frames)
    if card is None:
        check_charges(teacher.name, teacher.capabilities, batch)
    else:
        check_supported(card, batch)
    keys = tuple(label_key(hash_structure(atoms), identity) for atoms in frames)
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    missing = sorted(i for key, i in first.items() if key not in store)
    # first a few from all over the list, because faulty structures are often neighbours
    probe = missing[:: max(1, -(-len(missing) // _HOPELESS))]
    todo = probe + sorted(set(missing) - set(probe))
    total, present, labelled = len(first), len(first) - len(todo), 0
    failed: list[Dropped] = []
    progress("labels", present, total, "" if todo else "all present")

    def out_of_time() -> bool:
        return deadline_s is not None and time.monotonic() - start >= deadline_s

    try:
        for s, labels in _answers(teacher, batch.select(todo), out_of_time):
            i = todo[s]
            if isinstance(labels, LimbeckError):
                failed.append(Dropped(i, str(labels)))
                if not labelled and not present and len(failed) >= min(_HOPELESS, len(todo)):
                    raise labels
            else:
                record = make_record(frames[i], labels, identity, key=keys[i], order=i)
                labelled += store.append_many([record], sync=False)
            now = time.monotonic()
            if now - synced > _SYNC_S:
                store.sync()
                synced = now
            rate = labelled / max(now - start, 1e-9)
            progress("labels", present + labelled + len(failed), total, f"{rate:.3g} labels/s")
    finally:
        store.sync()
    return LabelReport(
        keys=keys,
        total=total,
        present=present,
        labelled=labelled,
        failed=tuple(sorted(failed, key=lambda f: f.index)),
        seconds=time.monotonic() - start,
        complete=labelled + len(failed) == len(todo),
    )


def _answers(
    teacher: Potential, batch: StructureBatch, stop: Callable[[], bool]
) -> Iterator[tuple[int, Labels | LimbeckError]]:
    if isinstance(teacher, WorkerPotential):
        yield from teacher.stream(batch, stop)
        return
    for s in range(len(batch)):
        if stop():
            return
        try:
            labels: Labels | LimbeckError = teacher.evaluate(batch.select([s]))
        except LimbeckError as error:
            labels = error
        yield s, labels


def isolated_atom_energies(teacher: Potential, elements: Iterable[int]) -> dict[int, float] | None:
    """Energy (eV) of one atom without a cell by atomic number; None where the teacher cannot treat it."""
    if not teacher.capabilities.isolated_atoms or not teacher.capabilities.molecular:
        return None
    numbers = sorted({int(z) for z in elements})
    labels = teacher.evaluate(StructureBatch.from_atoms([Atoms(numbers=[z]) for z in numbers]))
    return {z: float(e) for z, e in zip(numbers, labels.energy, strict=True)}
