"""The nearest neighbour of each atom in units of covalent radii."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from scipy.spatial import cKDTree

from limbeck.core.checks import chunks, periodic_images
from limbeck.core.structures import StructureBatch

CUTOFF_A = 6.0  #: neighbours farther away do not count
_CANDIDATES = 4


@dataclass(frozen=True)
class Bonds:
    """The nearest neighbour of each of N atoms, in units of covalent radii.

    Attributes
    ----------
    other: (N,) int64, atom index in the batch; the atom itself for an image of it, or without neighbour.
    vector: (N, 3) float64, Å, to that neighbour (NaN without).
    ratio: (N,) float64, distance over the sum of covalent radii (inf without).
    """

    other: np.ndarray
    vector: np.ndarray
    ratio: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """(N,) Å."""
        return np.linalg.norm(self.vector, axis=1)


def nearest_bonds(batch: StructureBatch) -> Bonds:
    """Nearest neighbours under periodic images, within the cutoff."""
    other = np.arange(batch.n_atoms)
    vector = np.full((batch.n_atoms, 3), np.nan)
    ratio = np.full(batch.n_atoms, np.inf)
    for index, part in chunks(batch):
        images = periodic_images(part, CUTOFF_A)
        home = images.points[: part.n_atoms]
        found, at = cKDTree(images.points).query(home, k=_CANDIDATES + 1, distance_upper_bound=CUTOFF_A)
        found, at = found[:, 1:], at[:, 1:]  # the first is the atom itself
        there = np.isfinite(found)
        copy = np.where(there, at, 0)
        radius = covalent_radii[part.numbers]
        scaled = np.where(there, found / (radius[:, None] + radius[images.atom[copy]]), np.inf)
        best = scaled.argmin(axis=1)
        rows = np.arange(part.n_atoms)
        atoms = batch.atom_index(index)
        chosen = copy[rows, best]
        ratio[atoms] = scaled[rows, best]
        bonded = np.isfinite(ratio[atoms])
        other[atoms[bonded]] = atoms[images.atom[chosen[bonded]]]
        vector[atoms[bonded]] = (images.points[chosen] - home)[bonded, :3]
    return Bonds(other, vector, ratio)
