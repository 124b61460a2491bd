"""Rotations about the rotatable bonds of molecules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import natural_cutoffs, neighbor_list
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from limbeck.core.checks import contacts
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.sampling.frames import make_frame
from limbeck.sampling.moves import Torsions

_BONDED = 1.2  # of the sum of covalent radii
#: of the same sum: shorter bonds are double, aromatic or amide bonds (C=C 0.88, C-N of an amide 0.93,
#: C-C of butadiene's middle 0.96, C-C 1.01)
_SINGLE = 0.945
_LINEAR_A = 0.2  # atoms within this of the axis stand on it
_REDRAWS = 200
_NARROWED_EVERY = 20


@dataclass(frozen=True)
class RotatableBond:
    """Atoms i and j of the bond, and the (K,) atoms on the side of j, which is the smaller."""

    i: int
    j: int
    moved: np.ndarray


def rotatable_bonds(atoms: Atoms) -> list[RotatableBond]:
    """Single bonds outside rings with atoms beside the axis at both ends.

    Bonds are pairs within 1.2 of the sum of their covalent radii, single where also beyond 0.945 of it:
    geometry alone decides, so the start should be near a minimum.
    """
    n = len(atoms)
    i, j, distance = neighbor_list("ijd", atoms, natural_cutoffs(atoms, mult=_BONDED))
    degree = np.bincount(i, minlength=n)
    single = distance > _SINGLE * (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]])
    bonds = []
    for k in np.flatnonzero((i < j) & single & (degree[i] > 1) & (degree[j] > 1)):
        a, b = int(i[k]), int(j[k])
        others = ~(((i == a) & (j == b)) | ((i == b) & (j == a)))
        graph = coo_array((np.ones(int(others.sum())), (i[others], j[others])), shape=(n, n))
        part = connected_components(graph, directed=False)[1]
        if part[a] == part[b]:
            continue  # in a ring
        sides = [np.flatnonzero(part == part[end]) for end in (a, b)]
        if any(_on_the_axis(atoms.positions, a, b, side) for side in sides):
            continue  # as in C-C≡N: turning moves nothing
        if len(sides[1]) <= len(sides[0]):
            bonds.append(RotatableBond(a, b, sides[1]))
        else:
            bonds.append(RotatableBond(b, a, sides[0]))
    return bonds


def _on_the_axis(positions: np.ndarray, a: int, b: int, side: np.ndarray) -> bool:
    axis = positions[b] - positions[a]
    off = np.linalg.norm(np.cross(positions[side] - positions[a], axis / np.linalg.norm(axis)), axis=1)
    return bool(off.max() < _LINEAR_A)


def rotate(positions: np.ndarray, bond: RotatableBond, angle: float) -> np.ndarray:
    """Positions (N, 3) with one side of the bond turned by ``angle`` (rad), right-handed from i to j."""
    axis = positions[bond.j] - positions[bond.i]
    axis = axis / np.linalg.norm(axis)
    arm = positions[bond.moved] - positions[bond.j]  # (K, 3)
    turned = (
        arm * np.cos(angle)
        + np.cross(axis, arm) * np.sin(angle)
        + axis * (arm @ axis)[:, None] * (1.0 - np.cos(angle))
    )  # Rodrigues
    out = positions.copy()
    out[bond.moved] = positions[bond.j] + turned
    return out


def torsion_copies(parent: Atoms, config: Torsions, rng: np.random.Generator) -> list[Atoms]:
    """``n`` copies with every rotatable bond turned by a random angle; none where no bond can turn.

    Copies with a pair too close are drawn again, from a range of angles that is halved every 20
    draws, so that crowded molecules turn a little instead of not at all.

    Raises
    ------
    InputError: a periodic start, or one that is too close to begin with.
    """
    where = f"step {config.name or config.kind}, start {parent.info.get('family', '')}"
    if parent.pbc.any():
        raise InputError(
            "torsions are sampled for molecules only",
            where=where,
            got=f"pbc {parent.pbc.tolist()}",
            remedy="leave the step out, or sample the liquid by md",
        )
    bonds = rotatable_bonds(parent)
    return [_turned(parent, bonds, config, rng, where) for _ in range(config.n)] if bonds else []


def _turned(
    parent: Atoms, bonds: list[RotatableBond], config: Torsions, rng: np.random.Generator, where: str
) -> Atoms:
    for draw in range(_REDRAWS):
        reach = np.deg2rad(config.max_degrees) / 2 ** (draw // _NARROWED_EVERY)
        positions = parent.positions.copy()
        for bond in bonds:
            positions = rotate(positions, bond, rng.uniform(-reach, reach))
        positions += rng.normal(0.0, config.stdev_a, positions.shape)
        copy = make_frame(parent, "", positions=positions)
        if not len(contacts(StructureBatch.from_atoms([copy]), config.min_ratio)[0]):
            return copy
    raise InputError(
        "turned atoms stay too close",
        where=where,
        got=f"{_REDRAWS} draws",
        wanted=f"pairs beyond {config.min_ratio:g} of the sum of covalent radii",
        remedy="lower stdev_a or min_ratio",
    )
