"""Half lists with integer shifts against ASE's full lists, and what would crash the C library."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.neighbours import neighbour_list, pair_vectors
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
    """vesin 0.6.2 dies of a floating point exception where open directions are 1e6 Å wide."""
    cell = np.array([[3.0, 0.1, 0.0], [0.3, 4.0, 0.2], [0.0, 0.1, 3.0]])
    near = np.array([[0.1, 0, 0], [0.2, 0.4, 1.0], [1.0, 1.0, 0.5], [0.9, 2.5, 1.9]])
    away = np.cross(cell[0], cell[1]) if pbc[1] else np.cross(cell[0], [1.0, 0, 0])
    away = away / np.linalg.norm(away) if pbc.any() else np.full(3, 0.57)
    both = np.concatenate([near, near + far * away])[[0, 5, 2, 7, 4, 1, 6, 3]]
    alone = directed(*neighbour_list(near, cell, pbc, 3.0))
    back = np.array([0, 5, 2, 7, 4, 1, 6, 3])
    wanted = Counter()
    for a, b, *s in alone:
        for lift in (0, 4):
            wanted[
                int(np.flatnonzero(back == a + lift)[0]), int(np.flatnonzero(back == b + lift)[0]), *s
            ] += 1
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
