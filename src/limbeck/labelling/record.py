"""One label: a structure, where it came from, and what which teacher says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from ase import Atoms

from limbeck.core.charge import spin_multiplicity, total_charge
from limbeck.core.hashing import hash_structure
from limbeck.core.labels import LabelledSet, Labels
from limbeck.core.structures import StructureBatch
from limbeck.labelling.codec import decode, encode
from limbeck.teachers.card import TeacherIdentity


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
    stress: np.ndarray | None
    atom_energies: np.ndarray | None
    identity: TeacherIdentity
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
    return LabelRecord(
        key=key or label_key(hash_structure(atoms), identity),
        numbers=np.asarray(atoms.numbers, np.int64),
        positions=np.asarray(atoms.positions, np.float64),
        cell=np.asarray(atoms.cell.array, np.float64),
        pbc=np.asarray(atoms.pbc, bool),
        charge=total_charge(atoms),
        energy=float(labels.energy[0]),
        forces=np.asarray(labels.forces, np.float64),
        stress=None if stress is None or np.isnan(stress).all() else np.asarray(stress, np.float64),
        atom_energies=labels.atom_energies,
        identity=identity,
        family=str(atoms.info.get("family", "")),
        step=str(atoms.info.get("step", "")),
        temperature_k=float(atoms.info.get("temperature_K", np.nan)),
        order=order,
        spin=spin_multiplicity(atoms),
    )


def pack_record(record: LabelRecord) -> bytes:
    meta = {
        "key": record.key,
        "order": record.order,
        "family": record.family,
        "step": record.step,
        "identity": asdict(record.identity),
    }
    arrays: dict[str, np.ndarray] = {
        "numbers": record.numbers,
        "positions": record.positions,
        "cell": record.cell,
        "pbc": record.pbc,
        "charge": np.array(record.charge),
        "energy": np.array(record.energy),
        "forces": record.forces,
        "temperature_k": np.array(record.temperature_k),
    }
    if record.spin:
        arrays["spin"] = np.array(record.spin)
    if record.stress is not None:
        arrays["stress"] = record.stress
    if record.atom_energies is not None:
        arrays["atom_energies"] = np.asarray(record.atom_energies, np.float64)
    return encode(meta, arrays)


def unpack_record(payload: bytes | memoryview) -> LabelRecord:
    """Raises ValueError, KeyError or TypeError where the payload is not a record."""
    meta, arrays = decode(payload)
    return LabelRecord(
        key=meta["key"],
        numbers=arrays["numbers"],
        positions=arrays["positions"],
        cell=arrays["cell"],
        pbc=arrays["pbc"],
        charge=float(arrays["charge"]),
        energy=float(arrays["energy"]),
        forces=arrays["forces"],
        stress=arrays.get("stress"),
        atom_energies=arrays.get("atom_energies"),
        identity=TeacherIdentity(**meta["identity"]),
        family=meta["family"],
        step=meta["step"],
        temperature_k=float(arrays["temperature_k"]),
        order=meta["order"],
        spin=int(arrays.get("spin", 0)),
    )


def collect(records: Sequence[LabelRecord]) -> LabelledSet:
    """A labelled set, in the order given; stress and atomic energies are NaN where one has none."""
    counts = [len(r.numbers) for r in records]

    def stack(rows: list[np.ndarray], shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.concatenate(rows).astype(dtype) if rows else np.zeros(shape, dtype)

    structures = StructureBatch(
        numbers=stack([r.numbers for r in records], (0,), np.int64),
        positions=stack([r.positions for r in records], (0, 3), np.float64),
        cell=np.array([r.cell for r in records], np.float64).reshape(-1, 3, 3),
        pbc=np.array([r.pbc for r in records], bool).reshape(-1, 3),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        charge=np.array([r.charge for r in records], np.float64),
        spin=np.array([r.spin for r in records], np.int64),
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
        structures=structures,
        labels=Labels(
            energy=np.array([r.energy for r in records], np.float64),
            forces=stack([r.forces for r in records], (0, 3), np.float64),
            stress=stress,
            atom_energies=atom_energies,
        ),
        family=np.array([r.family for r in records], dtype=np.str_),
        step=np.array([r.step for r in records], dtype=np.str_),
        temperature_k=np.array([r.temperature_k for r in records], np.float64),
    )
