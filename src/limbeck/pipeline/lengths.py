"""Starting structures whose distances no structure has: lengths in another unit, or a cell of a guess."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from limbeck.core.structures import StructureBatch
from limbeck.dataset.lint.contacts import REACH_A, nearest_bonds
from limbeck.errors import InputError

_NOBLE = (2, 10, 18, 36, 54, 86)
_NEAR, _FAR = 0.55, 2.5  # sums of covalent radii; the shortest real bonds, hydrogen's aside, have 0.85
_BOHR = 1.55, 2.5  # where bonds come to lie that are given in bohr; metals have up to 1.2


def check_lengths(starts: Sequence[Atoms], where: str) -> list[str]:
    """Notes on distances that are unusual; single atoms without neighbours say nothing.

    Raises
    ------
    InputError: half of all atoms are nearer to one another than any are: the unit is another one.
    """
    batch = StructureBatch.from_atoms(list(starts))
    bonds = nearest_bonds(batch)
    structure = batch.structure_of_atom
    judged = (batch.counts[structure] > 1) | batch.periodic[structure]
    judged &= ~np.isin(batch.numbers, _NOBLE)
    if not judged.any():
        return []
    ratio = np.where(judged, bonds.ratio, np.nan)
    middle = float(np.nanmedian(ratio))
    nearest = int(np.nanargmin(ratio))
    pair = f"{_symbol(batch, nearest)}-{_symbol(batch, int(bonds.other[nearest]))}"
    measured = f"{pair} at {bonds.distance[nearest]:.2f} Å, {ratio[nearest]:.2f} of the sum of covalent radii"
    if middle < _NEAR:
        raise InputError(
            "atoms are nearer to one another than in any material",
            where=where,
            got=measured,
            wanted=f"lengths in Å, from about {_NEAR:g} of that sum on",
            remedy="check the cell and the unit: lengths in nm are ten times larger in Å, and a file that "
            "was converted from bohr twice has 0.53 of its lengths",
        )
    notes = []
    if ratio[nearest] < _NEAR:
        notes.append(f"{where}: atoms are very near one another ({measured}); check that this is meant")
    if _BOHR[0] < middle < _BOHR[1]:
        notes.append(
            f"{where}: nearest neighbours are {middle:.2f} times the sum of their covalent radii apart, as "
            "if lengths were in bohr (1 bohr = 0.529177 Å); they are taken as Å"
        )
    elif middle >= _BOHR[1]:
        far = f"more than {REACH_A:g} Å" if not np.isfinite(middle) else f"{middle:.2f} times that sum"
        notes.append(
            f"{where}: most atoms have no neighbour (the nearest is {far} away where covalent radii touch "
            "at 1); check the cell and the unit of lengths, Å"
        )
    return notes


def _symbol(batch: StructureBatch, atom: int) -> str:
    return str(chemical_symbols[batch.numbers[atom]])
