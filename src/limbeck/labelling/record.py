"""One label as it is stored: a structure, where it came from, and what which teacher says of it.

A payload (see :mod:`limbeck.labelling.pipe`) is framed by magic (8 bytes), its length (uint64, little
endian) and a checksum (16 bytes of BLAKE2b over length and payload). A region of a shard without a valid
record is damaged; reading goes on at the next magic that starts a valid record, so damage costs only the
records it touches.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.core.charge import spin_multiplicity, total_charge
from limbeck.core.hashing import hash_structure
from limbeck.core.labels import LabelledSet, Labels
from limbeck.core.structures import StructureBatch
from limbeck.labelling.pipe import decode, decode_meta, encode
from limbeck.teachers.card import TeacherIdentity

MAGIC = b"LBKREC01"
_HEADER = struct.Struct("<8sQ16s")
_META = ("key", "order", "family", "step")
_ARRAYS = ("numbers", "positions", "cell", "pbc", "charge", "energy", "forces", "temperature_k")
_OPTIONAL = ("spin", "stress", "atom_energies")  # written where they are given


@dataclass(frozen=True)
class LabelRecord:
    """A label of n atoms as it is stored.

    Attributes
    ----------
    key: see :func:`label_key`.
    numbers (n,), positions (n, 3) Å, cell (3, 3) Å, pbc (3,), charge, spin (0: not given): the structure.
    energy: eV. forces: (n, 3) eV/Å. stress: (3, 3) eV/Å³ or None. atom_energies: (n,) eV or None.
    identity: teacher, version, weights, options and precision.
    family, step, temperature_k: provenance ("" and NaN where unknown).
    order: place of the structure among those labelled together; reading follows it.
    """

    key: str
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    charge: float
    energy: float
    forces: np.ndarray
    identity: TeacherIdentity
    stress: np.ndarray | None = None
    atom_energies: np.ndarray | None = None
    family: str = ""
    step: str = ""
    temperature_k: float = float("nan")
    order: int = 0
    spin: int = 0


def label_key(structure_hash: str, identity: TeacherIdentity) -> str:
    """SHA-256 over the structure and what determines its label: teacher, weights and options."""
    text = "\n".join((structure_hash, identity.name, identity.weights_hash, identity.options))
    return hashlib.sha256(text.encode()).hexdigest()


def make_record(
    atoms: Atoms, labels: Labels, identity: TeacherIdentity, order: int = 0, key: str | None = None
) -> LabelRecord:
    """The record of one structure and its labels (S = 1); provenance from ``atoms.info``."""
    stress = None if labels.stress is None else labels.stress[0]
    atom_energies = labels.atom_energies
    return LabelRecord(
        key=key or label_key(hash_structure(atoms), identity),
        numbers=np.asarray(atoms.numbers, np.int64),
        positions=np.asarray(atoms.positions, np.float64),
        cell=np.asarray(atoms.cell.array, np.float64),
        pbc=np.asarray(atoms.pbc, bool),
        charge=total_charge(atoms),
        energy=float(labels.energy[0]),
        forces=np.asarray(labels.forces, np.float64),
        identity=identity,
        stress=None if stress is None or np.isnan(stress).all() else np.asarray(stress, np.float64),
        atom_energies=None if atom_energies is None else np.asarray(atom_energies, np.float64),
        family=str(atoms.info.get("family", "")),
        step=str(atoms.info.get("step", "")),
        temperature_k=float(atoms.info.get("temperature_K", np.nan)),
        order=order,
        spin=spin_multiplicity(atoms),
    )


def pack_record(record: LabelRecord) -> bytes:
    """A whole record; one without a spin is written as it was before there were spins."""
    meta = {name: getattr(record, name) for name in _META} | {"identity": asdict(record.identity)}
    arrays = {name: np.asarray(getattr(record, name)) for name in _ARRAYS}
    for name in _OPTIONAL:
        value = getattr(record, name)
        if value is not None and not (name == "spin" and value == 0):
            arrays[name] = np.asarray(value)
    payload = encode(meta, arrays)
    return _HEADER.pack(MAGIC, len(payload), _checksum(payload)) + payload


def unpack_record(data: bytes | memoryview) -> LabelRecord:
    """A record that :func:`scan` found; ValueError, KeyError or TypeError where it holds something else."""
    meta, arrays = decode(memoryview(data)[_HEADER.size :])
    values: dict[str, Any] = {n: a if a.ndim else a.item() for n, a in arrays.items()}
    identity = TeacherIdentity(**meta["identity"])
    return LabelRecord(identity=identity, **{name: meta[name] for name in _META}, **values)


def unpack_head(data: bytes | memoryview) -> tuple[dict[str, Any], bytes]:
    """Key, order, origin and identity of a record, and its checksum."""
    return decode_meta(memoryview(data)[_HEADER.size :]), _HEADER.unpack_from(data)[2]


def collect(records: Sequence[LabelRecord]) -> LabelledSet:
    """A labelled set, in the order given; stress and atomic energies are NaN where one has none."""

    def rows(name: str, dtype: type = np.float64, *shape: int) -> np.ndarray:
        """(S, ...)"""
        return np.array([getattr(r, name) for r in records], dtype).reshape(len(records), *shape)

    def atoms(name: str, dtype: type = np.float64, *shape: int) -> np.ndarray:
        """(N, ...)"""
        return np.concatenate(
            [np.zeros((0, *shape), dtype), *(getattr(r, name) for r in records)], dtype=dtype
        )

    stress = atom_energies = None
    if any(r.stress is not None for r in records):
        absent = np.full((3, 3), np.nan)
        stress = np.array([absent if r.stress is None else r.stress for r in records])  # (S, 3, 3)
    if any(r.atom_energies is not None for r in records):
        atom_energies = np.concatenate(
            [np.full(len(r.numbers), np.nan) if r.atom_energies is None else r.atom_energies for r in records]
        )  # (N,)
    return LabelledSet(
        structures=StructureBatch(
            numbers=atoms("numbers", np.int64),
            positions=atoms("positions", np.float64, 3),
            cell=rows("cell", np.float64, 3, 3),
            pbc=rows("pbc", bool, 3),
            offsets=np.cumsum([0, *(len(r.numbers) for r in records)], dtype=np.int64),
            charge=rows("charge"),
            spin=rows("spin", np.int64),
        ),
        labels=Labels(rows("energy"), atoms("forces", np.float64, 3), stress, atom_energies),
        family=rows("family", np.str_),
        step=rows("step", np.str_),
        temperature_k=rows("temperature_k"),
    )


def scan(blob: bytes) -> tuple[list[slice], list[slice]]:
    """Valid records and damaged regions of a shard, in order; together they cover it."""
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
