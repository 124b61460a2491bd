"""Structure checks: ASE's neighbour list is the oracle for distances, texts are pinned."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from limbeck.core.checks import check_structures, close_pairs
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError


def refusal(frames) -> str:
    with pytest.raises(InputError) as caught:
        check_structures(frames, "mine.xyz")
    text = str(caught.value)
    assert "\n" not in text
    return text


def random_frames() -> list[Atoms]:
    """Triclinic, left-handed, tiny, slab, wire, molecule; atoms far outside their cells."""
    rng = np.random.default_rng(4)
    frames = []
    for k in range(24):
        n = int(rng.integers(1, 12))
        cell = np.diag(rng.uniform(2.5, 7.0, 3)) + rng.uniform(-1.2, 1.2, (3, 3))
        if k % 3 == 0:
            cell = cell[[1, 0, 2]]
        pbc = [(True, True, True), (True, True, False), (False, True, False), (False, False, False)][k % 4]
        frames.append(Atoms(numbers=[14] * n, positions=rng.uniform(-20, 20, (n, 3)), cell=cell, pbc=pbc))
    return frames


def pair_set(i, j, distance) -> set[tuple[int, int, float]]:
    return {
        (min(a, b), max(a, b), round(d, 6))
        for a, b, d in zip(*map(np.ndarray.tolist, (i, j, distance)), strict=True)
    }


@pytest.mark.parametrize("cutoff", [1.0, 3.1, 6.0])
def test_pairs_agree_with_ase(cutoff):
    frames = random_frames()
    batch = StructureBatch.from_atoms(frames)
    i, j, distance = close_pairs(batch, cutoff)
    found = np.zeros(len(frames), dtype=bool)
    for s, frame in enumerate(frames):
        own = (i >= batch.offsets[s]) & (i < batch.offsets[s + 1])
        ours = pair_set(i[own] - batch.offsets[s], j[own] - batch.offsets[s], distance[own])
        assert ours == pair_set(*neighbor_list("ijd", frame, cutoff)), f"structure {s}"
        found[s] = bool(ours)
    if cutoff > 3:
        assert found.sum() > 10


def test_good_structures_pass():
    left = bulk("Si", cubic=True)
    left.set_cell(left.cell.array[[1, 0, 2]])
    assert np.linalg.det(left.cell.array) < 0
    slab = Atoms("Cu", cell=[[2.5, 0, 0], [0, 2.5, 0], [0, 0, 0]], pbc=[True, True, False])
    check_structures([bulk("Si"), left, slab, molecule("H2O"), Atoms("H"), molecule("H2")], "good")


FLAT, NAN = [[5, 0, 0], [0, 5, 0], [5, 5, 0]], np.nan * np.eye(3)


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([], "mine.xyz: no structures; wanted at least one structure"),
        ([bulk("Si"), Atoms()], "mine.xyz, frame 1: no atoms; wanted at least one atom"),
        ([Atoms("Si2", [[0, 0, 0], [0, np.nan, 0]])], "frame 0: a position is not finite; got atom 1 at [0.0, nan"),
        ([bulk("Si"), Atoms("H", [[0, 0, np.inf]])], "frame 1: a position is not finite; got atom 0 at [0.0, 0.0, inf"),
        ([Atoms("Si", cell=NAN)], "frame 0: the cell is not finite; got [[nan,"),
        ([Atoms("Si", cell=np.zeros((3, 3)), pbc=True)], "frame 0: a periodic cell without volume; got cell [[0.0,"),
        ([Atoms("Si", cell=FLAT, pbc=True)], "remedy: set the cell, or pbc=False for a molecule"),
        ([Atoms("Si", cell=[[5, 0, 0], [0, 5, 0], [0, 0, 0]], pbc=True)], "a periodic cell without volume"),
        ([Atoms("Cu", cell=[0.5, 4, 4], pbc=True)], "atom 0 (Cu) and its own periodic image at 0.500 Å"),
        (
            [Atoms("SiX", [(0, 0, 0), (0, 0, 3)])],
            "frame 0: an atom has no element; got atom 1 with atomic number 0; wanted 1 to 118",
        ),
        ([Atoms(numbers=[119])], "atom 0 with atomic number 119"),
    ],
)  # fmt: skip
def test_refusals(frames, text):
    assert text in refusal(frames)


def test_overlap_across_the_boundary_names_both_atoms():
    bad = Atoms("SiOSi", [(0.1, 2, 2), (2.5, 2, 2), (4.9, 2, 2)], cell=[5, 5, 5], pbc=True)
    assert refusal([bulk("Si"), bad]) == (
        "mine.xyz, frame 1: overlapping atoms; got atom 0 (Si) and atom 2 (Si) at 0.200 Å; "
        "wanted at least 0.67 Å (0.3 of the sum of covalent radii)"
    )
    bad.pbc = False
    check_structures([bad], "apart without the image")


def test_an_overlap_among_thousands_of_atoms_is_placed():
    crystal = bulk("Si", cubic=True) * (2, 2, 2)
    frames = [crystal.copy() for _ in range(400)]
    check_structures(frames, "many")
    frames[350].positions[7] = frames[350].positions[8] + [0.1, 0, 0]
    assert "mine.xyz, frame 350: overlapping atoms; got atom 7 (Si) and atom 8 (Si) at 0.100 Å" in refusal(
        frames
    )
