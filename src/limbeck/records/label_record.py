"""One label as it is stored: a structure, its origin, and its labels by one teacher.

A record is a magic number (8 bytes), the length of the payload (uint64, little endian), a checksum (16 bytes
of BLAKE2b over length and payload) and the payload, which has the form of :mod:`limbeck.core.messages`.
After a damaged region, reading resumes at the next magic number that starts a valid record, so that only
damaged records are lost.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.core.earlier import provenance
from limbeck.core.hashing import hash_structure
from limbeck.core.labels import LabelledSet, Labels, concatenate_labelled
from limbeck.core.messages import decode, decode_meta, encode
from limbeck.core.structures import StructureBatch

MAGIC = b"LBKREC01"
_HEADER = struct.Struct("<8sQ16s")


@dataclass(frozen=True)
class TeacherIdentity:
    """Identity of a teacher: equal identities give equal labels.

    Attributes
    ----------
    name: name of the teacher, such as ``sevennet-0`` or ``ase.calculators.emt:EMT``.
    version: version of its package ("" if unknown); recorded, but not part of the key of a label.
    weights_hash: SHA-256 of the weights; for ``module:callable``, of its source and the files in its options.
    options: keyword arguments that affect labels, as JSON with sorted keys.
    precision: floating-point precision of the evaluation.

    A model file is part of ``weights_hash``, not of ``options``, because its path does not affect labels.
    """

    name: str
    version: str
    weights_hash: str
    options: str = "{}"
    precision: str = "float64"


@dataclass(frozen=True)
class LabelRecord:
    """The label of one structure as it is stored.

    Attributes
    ----------
    key: see :func:`label_key`.
    order: place of the structure among those labelled together, and in the order of reading.
    identity: teacher, version, weights, options and precision.
    label: the structure, its labels and its origin (S = 1).
    """

    key: str
    order: int
    identity: TeacherIdentity
    label: LabelledSet


def label_key(structure_hash: str, identity: TeacherIdentity) -> str:
    """SHA-256 of the structure and of all that its label depends on: teacher, weights and options."""
    text = "\n".join((structure_hash, identity.name, identity.weights_hash, identity.options))
    return hashlib.sha256(text.encode()).hexdigest()


def make_record(
    atoms: Atoms, labels: Labels, identity: TeacherIdentity, order: int = 0, key: str | None = None
) -> LabelRecord:
    """The record of one structure and its labels (S = 1); its origin is read from ``atoms.info``."""
    values = {n: None if a is None else np.asarray(a, np.float64) for n, a in vars(labels).items()}
    if labels.stress is not None and np.isnan(labels.stress).all():
        values["stress"] = None
    label = LabelledSet(
        StructureBatch.from_atoms([atoms]),
        Labels(**values),  # type: ignore[arg-type]
        group=np.array([provenance(atoms.info, "group")]),
        config_type=np.array([provenance(atoms.info, "config_type")]),
        temperature_k=np.array([float(atoms.info.get("temperature_K", np.nan))]),
    )
    return LabelRecord(key or label_key(hash_structure(atoms), identity), order, identity, label)


def pack_record(record: LabelRecord) -> bytes:
    """The bytes of a record; without a spin they are the same as those that earlier versions wrote."""
    label, structure, labels = record.label, record.label.structures, record.label.labels
    origin = {"group": str(label.group[0]), "config_type": str(label.config_type[0])}
    meta = {"key": record.key, "order": record.order, **origin, "identity": asdict(record.identity)}
    arrays = {"numbers": structure.numbers, "positions": structure.positions}
    arrays |= {name: getattr(structure, name)[0] for name in ("cell", "pbc", "charge")}
    arrays |= {"energy": labels.energy[0], "forces": labels.forces, "temperature_k": label.temperature_k[0]}
    if structure.spin[0]:
        arrays["spin"] = structure.spin[0]
    if labels.stress is not None:
        arrays["stress"] = labels.stress[0]
    if labels.atom_energies is not None:
        arrays["atom_energies"] = labels.atom_energies
    payload = encode(meta, arrays)
    return _HEADER.pack(MAGIC, len(payload), _checksum(payload)) + payload


def unpack_record(data: bytes | memoryview) -> LabelRecord:
    """A record that :func:`scan` found; ValueError, KeyError or TypeError where it is none."""
    meta, arrays = decode(memoryview(data)[_HEADER.size :])
    rows = {n: arrays[n][None] for n in ("cell", "pbc", "charge", "spin", "energy", "stress") if n in arrays}
    label = LabelledSet(
        StructureBatch(
            numbers=arrays["numbers"],
            positions=arrays["positions"],
            cell=rows["cell"],
            pbc=rows["pbc"],
            offsets=np.array([0, len(arrays["numbers"])]),
            charge=rows["charge"],
            spin=rows.get("spin", np.zeros(1, np.int64)),
        ),
        Labels(rows["energy"], arrays["forces"], rows.get("stress"), arrays.get("atom_energies")),
        group=np.array([provenance(meta, "group")]),
        config_type=np.array([provenance(meta, "config_type")]),
        temperature_k=arrays["temperature_k"][None],
    )
    return LabelRecord(meta["key"], meta["order"], TeacherIdentity(**meta["identity"]), label)


def unpack_head(data: bytes | memoryview) -> tuple[dict[str, Any], bytes]:
    """Key, order, origin and identity of a record, and its checksum."""
    return decode_meta(memoryview(data)[_HEADER.size :]), _HEADER.unpack_from(data)[2]


def collect(records: Sequence[LabelRecord]) -> LabelledSet:
    """A labelled set, in the order given; stress and atomic energies are NaN where one has none."""
    if not records:
        none = Labels(np.zeros(0), np.zeros((0, 3)))
        origin = np.zeros(0, np.str_)
        return LabelledSet(StructureBatch.from_atoms([]), none, origin, origin, np.zeros(0))
    joined = concatenate_labelled([record.label for record in records])
    return replace(joined, frame=np.arange(len(records)))


def scan(blob: bytes) -> tuple[list[slice], list[slice]]:
    """Valid records and damaged regions, which together cover a shard, in order."""
    good: list[slice] = []
    damaged: list[slice] = []
    position = end = 0  # end: of the last valid record
    while position < len(blob):
        stop = _record_stop(blob, position)
        if stop is None:
            found = blob.find(MAGIC, position + 1)
            position = len(blob) if found < 0 else found
            continue
        if position > end:
            damaged.append(slice(end, position))
        good.append(slice(position, stop))
        position = end = stop
    if position > end:
        damaged.append(slice(end, position))
    return good, damaged


def _record_stop(blob: bytes, start: int) -> int | None:
    if len(blob) - start < _HEADER.size:
        return None
    magic, length, checksum = _HEADER.unpack_from(blob, start)
    stop = start + _HEADER.size + length
    if magic != MAGIC or stop > len(blob):
        return None
    return stop if _checksum(memoryview(blob)[start + _HEADER.size : stop]) == checksum else None


def _checksum(payload: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(struct.pack("<Q", len(payload)), digest_size=16)
    digest.update(payload)
    return digest.digest()
