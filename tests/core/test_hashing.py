from __future__ import annotations

import hashlib

import numpy as np
import pytest
from ase.build import bulk, molecule

from limbeck.core.hashing import hash_file, hash_json, hash_structure


def test_equal_structures_have_equal_hashes():
    a, b = molecule("H2O"), molecule("H2O")
    b.info["group"] = "md"  # provenance is not structure
    b.set_momenta(np.ones((3, 3)))
    assert hash_structure(a) == hash_structure(b)
    b.positions = np.asfortranarray(b.positions)
    b.numbers = b.numbers.astype(np.int32)
    assert hash_structure(a) == hash_structure(b)


CHANGES = {
    "position": lambda a: a.positions.__setitem__((1, 2), np.nextafter(a.positions[1, 2], 99.0)),
    "number": lambda a: a.numbers.__setitem__(0, 19),
    "cell": lambda a: a.cell.__setitem__((0, 1), a.cell[0, 1] + 1e-12),
    "pbc": lambda a: a.pbc.__setitem__(2, False),
    "charge": lambda a: a.info.update(charge=1),
    "spin": lambda a: a.info.update(total_spin=3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_structure_changes_the_hash(change):
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    before = hash_structure(atoms)
    assert hash_structure(atoms[[1, 0]]) != before
    CHANGES[change](atoms)
    assert hash_structure(atoms) != before


def test_the_hash_is_stable_between_versions():
    # stores are keyed by it: a change loses every label
    atoms, digest = bulk("Si"), hashlib.sha256()
    for array, kind in zip(
        (atoms.numbers, atoms.positions, atoms.cell, atoms.pbc), "i8 f8 f8 u1".split(), strict=True
    ):
        digest.update(np.asarray(array).astype(f"<{kind}").tobytes())
    digest.update(b"\0" * 8)
    assert hash_structure(atoms) == digest.hexdigest()


def test_file_and_json(tmp_path):
    data = bytes(range(256)) * 8192  # more than one block
    (tmp_path / "f").write_bytes(data)
    assert hash_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()
    assert hash_json({"a": 1, "b": [1.5, None]}) == hash_json({"b": [1.5, None], "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})
    assert hash_json({"p": tmp_path}) == hash_json({"p": str(tmp_path)})
