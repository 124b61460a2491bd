"""Half neighbour lists against ASE's full lists, and input that would crash the C library."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.neighbours import find_pairs, neighbour_list, pair_vectors
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError

TTT, TTF, TFF, FFF = (np.array(p, bool) for p in ((1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0)))


def directed(i, j, shifts) -> Counter:
    rows = [(int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, shifts, strict=True)]
    return Counter(rows) + Counter((b, a, -x, -y, -z) for a, b, x, y, z in rows)


@st.composite
def structures(draw):
    """A few atoms in a skewed cell of either hand, periodic in any directions, some far outside it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    cell = np.diag(rng.uniform(1.5, 7.0, 3)) + rng.uniform(-1.2, 1.2, (3, 3))
    if draw(st.booleans()):
        cell = cell[[1, 0, 2]]
    n = draw(st.integers(1, 7))
    positions = rng.random((n, 3)) @ cell
    if draw(st.booleans()):
        positions += rng.integers(-6, 7, (n, 3)) @ cell
    pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    return Atoms(f"Si{n}", positions, cell=cell, pbc=pbc)


@given(structures(), st.floats(0.5, 6.0))
@settings(max_examples=60, deadline=None)
def test_each_pair_and_image_once_with_the_shifts_of_ase(atoms, cutoff):
    i, j, shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    assert (i.dtype, j.dtype, shifts.dtype) == (np.int32, np.int32, np.int32)
    assert shifts.shape == (len(i), 3)
    found = directed(i, j, shifts)
    assert max(found.values(), default=1) == 1
    assert found == Counter(
        (int(a), int(b), *map(int, s)) for a, b, s in zip(*neighbor_list("ijS", atoms, cutoff), strict=True)
    )
    assert (np.diff(i) >= 0).all()
    distance = np.linalg.norm(pair_vectors(atoms.positions, atoms.cell.array, i, j, shifts), axis=1)
    assert (distance < cutoff + 1e-9).all()
    assert not shifts[:, ~atoms.pbc].any()


@pytest.mark.parametrize("pbc", [TTT, FFF])
def test_nothing_and_one_atom(pbc):
    for n in (0, 1):
        i, j, shifts = neighbour_list(np.zeros((n, 3)), np.eye(3) * 9.0, pbc, 5.0)
        assert (i.shape, j.shape, shifts.shape) == ((0,), (0,), (0, 3))
    i, j, shifts = neighbour_list(np.zeros((1, 3)), np.eye(3), TTT, 1.1)
    assert directed(i, j, shifts) == directed([0] * 3, [0] * 3, np.eye(3, dtype=int))


@pytest.mark.parametrize("far", [1e3, 1e4, 1e6, 9e7])
@pytest.mark.parametrize("pbc", [TTF, TFF, FFF])
def test_fragments_far_apart(far, pbc):
    """vesin 0.6.2 crashes with a floating point exception where open directions are 1e6 Å wide."""
    cell = np.array([[3.0, 0.1, 0.0], [0.3, 4.0, 0.2], [0.0, 0.1, 3.0]])
    near = np.array([[0.1, 0, 0], [0.2, 0.4, 1.0], [1.0, 1.0, 0.5], [0.9, 2.5, 1.9]])
    away = np.cross(cell[0], cell[1]) if pbc[1] else np.cross(cell[0], [1.0, 0, 0])
    away = away / np.linalg.norm(away) if pbc.any() else np.full(3, 0.57)
    order = np.array([0, 5, 2, 7, 4, 1, 6, 3])  # both fragments, mixed; its own inverse
    both = np.concatenate([near, near + far * away])[order]
    alone = directed(*neighbour_list(near, cell, pbc, 3.0))
    wanted = Counter(
        {
            (order[a + lift], order[b + lift], *s): count
            for (a, b, *s), count in alone.items()
            for lift in (0, 4)
        }
    )
    assert directed(*neighbour_list(both, cell, pbc, 3.0)) == wanted


@pytest.mark.parametrize("rows", [np.zeros((3, 3)), [[3, 0, 0], [6, 0, 0], [0, 0, 3]]])
def test_open_directions_need_no_cell_vector(rows):
    points = np.array([[0, 0, 0], [0, 0, 2.0]])
    assert len(neighbour_list(points, np.array(rows), FFF, 3.0)[0]) == 1
    chain = np.diag([3.0, 0, 0])
    wanted = neighbour_list(points, np.diag([3.0, 50, 50]), TFF, 3.5)
    assert directed(*neighbour_list(points, chain, TFF, 3.5)) == directed(*wanted)
    parallel = np.array([[3.0, 0, 0], [3, 0, 0], [6, 0, 0]])
    assert directed(*neighbour_list(points, parallel, TFF, 3.5)) == directed(*wanted)


FLAT, LINE = [[3, 0, 0], [6, 0, 0], [0, 0, 3]], [[0, 0, 0]]
REFUSED = {
    "flat": (LINE, FLAT, TTT, 3.0, "without volume", "got cell [[3.0, 0.0, 0.0], ", "remedy: set the cell, or pbc"),
    "needle": (LINE, [[3, 0, 0], [3, 1e-7, 0], [0, 0, 3]], TTT, 3.0, "without volume"),
    "parallel": (LINE, FLAT, TTF, 3.0, "without volume", "pbc [True, True, False]"),
    "no vector": (LINE, np.zeros((3, 3)), TFF, 3.0, "without volume"),
    "tiny": (LINE, np.eye(3) * 0.05, TTT, 5.0, "4.2e+06 neighbours an atom within 5 Å", "at most 100000", "unit (Å)"),
    "nan": ([[0, 0, np.nan]], np.eye(3), TTT, 1.0, "out of range; got nan Å; wanted finite numbers within 1e+08 Å"),
    "lost": ([[0, 0, 1e300]], np.eye(3), FFF, 1.0, "out of range; got 1e+300 Å"),
    "infinite cell": (LINE, np.diag([np.inf] * 3), TTT, 1.0, "out of range; got inf Å"),
    "nan in the cell": (LINE, np.full((3, 3), np.nan), TTT, 1.0, "out of range; got nan Å"),
    "cutoff": (LINE, np.eye(3), TTT, 0.0, "cutoff; got 0.0; wanted Å, above zero"),
    "shape": ([0.0, 0, 0], np.eye(3), TTT, 1.0, "shape", "got positions (3,), cell (3, 3), pbc (3,)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    points, cell, pbc, cutoff, *facts = REFUSED[name]
    with pytest.raises(InputError) as caught:
        neighbour_list(np.array(points, float), np.array(cell, float), pbc, cutoff, where="mine")
    text = str(caught.value)
    assert text.startswith("mine: ")
    assert all(fact in text for fact in facts), text


def test_pairs_of_a_batch_are_those_of_its_structures():
    frames = [
        Atoms("H"),
        Atoms("H2", [[0, 0, 0], [0, 0, 1]]),
        bulk("Si"),
        Atoms("Cu", cell=[2.5, 3, 9], pbc=(1, 1, 0)),
    ]
    pairs = find_pairs(StructureBatch.from_atoms(frames), 5.0)
    assert (pairs.first.dtype, pairs.vectors.dtype, pairs.offsets.dtype) == (np.int32, np.float64, np.int64)
    assert pairs.offsets[:3].tolist() == [0, 0, 1]
    for s, atoms in enumerate(frames):
        part, (x, cell) = slice(*pairs.offsets[s : s + 2]), (atoms.positions, atoms.cell.array)
        first, second, shifts = neighbour_list(x, cell, atoms.pbc, 5.0)
        np.testing.assert_array_equal(pairs.first[part], first)
        np.testing.assert_array_equal(pairs.second[part], second)
        np.testing.assert_array_equal(pairs.vectors[part], pair_vectors(x, cell, first, second, shifts))
        # ASE's distances, as an outside oracle
        lengths = np.sort(np.repeat(pairs.distances[part], 2))
        np.testing.assert_allclose(lengths, np.sort(neighbor_list("d", atoms, 5.0)), atol=1e-9)
    nothing = find_pairs(StructureBatch.from_atoms([]), 5.0)
    assert (nothing.vectors.shape, nothing.offsets.tolist()) == ((0, 3), [0])


@pytest.mark.parametrize("shift", [0, 1])
def test_two_atoms_at_one_place(shift):
    cell = np.diag([3.0, 4.0, 5.0])
    atoms = Atoms("Si3", [[0, 0, 0], [1, 1, 1], shift * cell[1]], cell=cell, pbc=True)
    with pytest.raises(
        InputError, match=r"^structure 0, atoms 0 and 2: .* at the same place; got .* Å apart"
    ):
        find_pairs(StructureBatch.from_atoms([atoms]), 4.0)
