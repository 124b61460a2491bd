"""Half neighbour lists against ASE's full ones."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.neighbours import find_pairs
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError


def directed(pairs, s: int) -> list[tuple]:
    """Both directions of every pair of a structure, sorted."""
    part = slice(pairs.offsets[s], pairs.offsets[s + 1])
    i, j, d = pairs.first[part], pairs.second[part], pairs.vectors[part]
    rows = [*zip(i, j, d, strict=True), *zip(j, i, -d, strict=True)]
    return sorted((int(a), int(b), *np.round(v, 7) + 0.0) for a, b, v in rows)


def by_ase(atoms: Atoms, cutoff: float) -> list[tuple]:
    i, j, d = neighbor_list("ijD", atoms, cutoff)
    return sorted((int(a), int(b), *np.round(v, 7) + 0.0) for a, b, v in zip(i, j, d, strict=True))


def assert_same_pairs(found: list[tuple], wanted: list[tuple]) -> None:
    assert [row[:2] for row in found] == [row[:2] for row in wanted]
    # sorting ties apart, so compare as a set of vectors a pair
    np.testing.assert_allclose(sorted(row[2:] for row in found), sorted(row[2:] for row in wanted), atol=1e-6)


def random_atoms(seed: int) -> Atoms:
    """A few atoms in a skewed cell of either hand, periodic in any directions, some far outside it."""
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2.2, 6.0, 3)) + rng.uniform(-0.9, 0.9, (3, 3))
    if rng.random() < 0.5:
        cell = cell[[1, 0, 2]]
    n = int(rng.integers(1, 6))
    positions = rng.random((n, 3)) @ cell + rng.integers(-2, 3, (n, 3)) @ cell * (rng.random() < 0.5)
    return Atoms(f"Si{n}", positions, cell=cell, pbc=rng.random(3) < 0.7)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=3), st.floats(1.0, 5.5))
@settings(max_examples=30, deadline=None)
def test_pairs_are_those_of_ase(seeds, cutoff):
    frames = [random_atoms(seed) for seed in seeds]
    pairs = find_pairs(StructureBatch.from_atoms(frames), cutoff)
    assert pairs.offsets[-1] == len(pairs.first) == len(pairs.second) == len(pairs.vectors)
    for s, atoms in enumerate(frames):
        assert_same_pairs(directed(pairs, s), by_ase(atoms, cutoff))
    np.testing.assert_allclose(pairs.distances, np.linalg.norm(pairs.vectors, axis=1))
    assert (pairs.distances < cutoff + 1e-9).all()


def test_types_and_an_empty_batch():
    pairs = find_pairs(StructureBatch.from_atoms([]), 5.0)
    assert pairs.vectors.shape == (0, 3)
    assert pairs.offsets.tolist() == [0]
    for atoms in (Atoms("H"), Atoms("H2", [[0, 0, 0], [0, 0, 1]])):
        pairs = find_pairs(StructureBatch.from_atoms([atoms]), 5.0)
        assert (pairs.first.dtype, pairs.vectors.dtype, pairs.offsets.dtype) == (
            np.int32,
            np.float64,
            np.int64,
        )
        assert len(pairs.first) == len(atoms) - 1


@pytest.mark.parametrize("shift", [0, 1])
def test_two_atoms_at_one_place(shift):
    cell = np.diag([3.0, 4.0, 5.0])
    atoms = Atoms("Si3", [[0, 0, 0], [1, 1, 1], shift * cell[1]], cell=cell, pbc=True)
    with pytest.raises(
        InputError, match=r"^structure 0, atoms 0 and 2: two atoms are at the same place; got .* Å apart"
    ):
        find_pairs(StructureBatch.from_atoms([atoms]), 4.0)
