"""Kinds of systems: crystal, molecule, liquid or surface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import get_distances
from ase.neighborlist import neighbor_list

Kind = Literal["crystal", "molecule", "liquid", "surface"]

VACUUM_GAP_A = 5.0  #: between atoms along a periodic axis; layers of real crystals are closer
BOND_FACTOR = 1.2  #: of the sum of covalent radii: bonds, but no hydrogen bonds
LEAST_MOLECULES = 8  #: fewer in a cell make a molecular crystal rather than a liquid
NON_METALS = frozenset((1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 34, 35, 36, 52, 53, 54, 85, 86))
_NEAREST, _ALIKE_A = 6, 0.1
_ORDER: tuple[Kind, ...] = ("surface", "liquid", "crystal", "molecule")


def system_kind(starts: Sequence[Atoms]) -> Kind:
    """The kind of a run's starting structures: the first present of surface, liquid, crystal, molecule."""
    kinds = {structure_kind(atoms) for atoms in starts}
    return next(kind for kind in _ORDER if kind in kinds)


def structure_kind(atoms: Atoms) -> Kind:
    """The kind of one structure.

    molecule: not periodic, or with a gap of more than 5 Å along all three axes of its cell.
    surface: with such a gap, or without periodicity, along one axis or two.
    liquid: packed as one (``info["source"]``), or at least eight separate molecules in a filled periodic
    cell, most of them in different surroundings.
    crystal: all others: networks, metals, salts, molecular crystals.

    A melt of a metal or salt counts as a crystal, since bonds do not distinguish it, and a hot snapshot of a
    molecular crystal as a liquid: both need the same sampling but for temperature.
    """
    if atoms.info.get("source") == "liquid":
        return "liquid"
    if not atoms.pbc.any():
        return "molecule"
    open_axes = [not atoms.pbc[axis] or vacuum_gap(atoms, axis)[0] > VACUUM_GAP_A for axis in range(3)]
    if all(open_axes):
        return "molecule"
    if any(open_axes):
        return "surface"
    molecules = finite_molecules(atoms)
    return "liquid" if len(molecules) >= LEAST_MOLECULES and _disordered(atoms, molecules) else "crystal"


def vacuum_gap(atoms: Atoms, axis: int) -> tuple[float, float]:
    """The widest gap along a cell vector, between planes of atoms parallel to the other two.

    Returns its height in Å and the fractional coordinate where it ends.
    """
    cell = atoms.cell.complete().array
    fraction = np.sort((atoms.positions @ np.linalg.inv(cell))[:, axis] % 1.0)
    gaps = np.diff(np.append(fraction, fraction[0] + 1.0))
    widest = int(gaps.argmax())
    height = 1.0 / np.linalg.norm(np.linalg.inv(cell)[:, axis])
    return float(gaps[widest] * height), float(fraction[(widest + 1) % len(fraction)])


def open_axis(atoms: Atoms) -> int | None:
    """The one axis of a slab that is not periodic or has vacuum; None where there is none or several."""
    axes = [k for k in range(3) if not atoms.pbc[k] or vacuum_gap(atoms, k)[0] > VACUUM_GAP_A]
    return axes[0] if len(axes) == 1 else None


def heights(atoms: Atoms, axis: int) -> np.ndarray:
    """Distance of each atom from the lowest plane of a slab along its open ``axis``, (N,), Å."""
    cell = atoms.cell.complete().array
    inverse = np.linalg.inv(cell)
    fraction = (atoms.positions @ inverse)[:, axis]
    if atoms.pbc[axis]:
        # 1e-6: an atom of the lowest plane must not wrap around by a rounding error
        fraction = (fraction - vacuum_gap(atoms, axis)[1] + 1e-6) % 1.0
    return (fraction - fraction.min()) / np.linalg.norm(inverse[:, axis])


def finite_molecules(atoms: Atoms) -> list[np.ndarray]:
    """Indices of the atoms of each molecule; empty where anything is bonded to its own image."""
    i, j, shift = neighbor_list("ijS", atoms, BOND_FACTOR * covalent_radii[atoms.numbers])
    order = np.argsort(i, kind="stable")
    i, j, shift = i[order], j[order], shift[order]
    first = np.searchsorted(i, np.arange(len(atoms) + 1))
    image: dict[int, np.ndarray] = {}
    molecules = []
    for seed in range(len(atoms)):
        if seed in image:
            continue
        image[seed] = np.zeros(3, dtype=int)
        members, waiting = [seed], [seed]
        while waiting:
            atom = waiting.pop()
            for bond in range(first[atom], first[atom + 1]):
                other, there = int(j[bond]), image[atom] + shift[bond]
                if other not in image:
                    image[other] = there
                    members.append(other)
                    waiting.append(other)
                elif (image[other] != there).any():
                    return []
        molecules.append(np.array(members))
    return molecules


def is_molecular(atoms: Atoms) -> bool:
    """Whether it consists of separate molecules, or noble gas atoms, of non-metals only."""
    return set(atoms.numbers.tolist()) <= NON_METALS and bool(finite_molecules(atoms))


def _disordered(atoms: Atoms, molecules: Sequence[np.ndarray]) -> bool:
    """Whether most molecules differ in the distances to their next six, unlike those of a crystal."""
    heaviest = [m[np.argmax(atoms.numbers[m])] for m in molecules]  # one atom for each molecule
    places = atoms.positions[heaviest]
    distance = np.sort(get_distances(places, cell=atoms.cell, pbc=atoms.pbc)[1], axis=1)[:, 1 : _NEAREST + 1]
    distinct: list[np.ndarray] = []
    for row in distance:
        if all(np.abs(row - other).max() > _ALIKE_A for other in distinct):
            distinct.append(row)
    return len(distinct) > len(molecules) / 2
