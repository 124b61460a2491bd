"""Content hashes, by which finished work is found again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from ase import Atoms

from limbeck.core.charge import spin_multiplicity, total_charge


def hash_structure(atoms: Atoms) -> str:
    """SHA-256 over numbers, positions, cell, periodicity, total charge and, where given, spin (exact)."""
    digest = hashlib.sha256()
    arrays = ((atoms.numbers, "<i8"), (atoms.positions, "<f8"), (atoms.cell.array, "<f8"), (atoms.pbc, "u1"))
    for array, dtype in arrays:
        digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    digest.update(np.float64(total_charge(atoms)).tobytes())
    if spin := spin_multiplicity(atoms):  # none keeps the hash of versions without spin
        digest.update(np.int64(spin).tobytes())
    return digest.hexdigest()


def hash_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_json(value: object) -> str:
    """SHA-256 of a JSON-able value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
