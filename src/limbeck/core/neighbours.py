"""Neighbour pairs of a batch, by vesin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError


@dataclass(frozen=True)
class Pairs:
    """Undirected pairs closer than a cutoff, each listed once, structure after structure.

    Attributes
    ----------
    first, second: (P,) int32, atom indices counted from the structure's first atom; an atom
        pairs with its own images too, each image once.
    vectors: (P, 3) float64, Å, x_second + shift @ cell - x_first.
    offsets: (S + 1,) int64; structure s owns pairs ``offsets[s]:offsets[s + 1]``.
    """

    first: np.ndarray
    second: np.ndarray
    vectors: np.ndarray
    offsets: np.ndarray

    @property
    def distances(self) -> np.ndarray:
        """(P,) float64, Å."""
        return np.linalg.norm(self.vectors, axis=1)


def find_pairs(batch: StructureBatch, cutoff: float) -> Pairs:
    """Half neighbour list of every structure; any cell, any mix of periodic directions.

    Raises
    ------
    InputError: a periodic cell without volume; two atoms at the same place (no direction between them).
    """
    from vesin import NeighborList  # imports torch where it is installed, so not at the top

    _check_volume(batch)
    search = NeighborList(cutoff=cutoff, full_list=False, sorted=True)
    first, second, vectors, counts = [], [], [], []
    for s in range(len(batch)):
        atoms = slice(batch.offsets[s], batch.offsets[s + 1])
        pbc = batch.pbc[s]
        i, j, d = search.compute(
            points=batch.positions[atoms],
            box=batch.cell[s],
            periodic=bool(pbc[0]) if pbc.all() or not pbc.any() else pbc,
            quantities="ijD",
        )
        first.append(i.astype(np.int32))
        second.append(j.astype(np.int32))
        vectors.append(np.asarray(d, np.float64).reshape(-1, 3))
        counts.append(len(i))
    pairs = Pairs(
        first=np.concatenate(first) if first else np.zeros(0, np.int32),
        second=np.concatenate(second) if second else np.zeros(0, np.int32),
        vectors=np.concatenate(vectors) if vectors else np.zeros((0, 3)),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )
    touching = np.flatnonzero(~(pairs.distances > 1e-6))
    if len(touching):
        p = int(touching[0])
        s = int(np.searchsorted(pairs.offsets, p, side="right")) - 1
        raise InputError(
            "two atoms are at the same place",
            where=f"structure {s}, atoms {pairs.first[p]} and {pairs.second[p]}",
            got=f"{pairs.distances[p]:.3g} Å apart",
            wanted="finite positions, no two alike",
            remedy="remove the duplicate atom",
        )
    return pairs


def _check_volume(batch: StructureBatch) -> None:
    """Refuse cells that repeat in three directions without volume; vesin's words name no structure."""
    flat = np.flatnonzero(batch.pbc.all(axis=1) & (batch.volume < 1e-9))
    if len(flat):
        raise InputError(
            "the periodic cell has no volume",
            where=f"structure {flat[0]}",
            got="0 Å³",
            wanted="independent cell vectors",
            remedy="set the cell, or pbc to False",
        )
