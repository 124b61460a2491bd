"""Distances, cells and periodicity that no sensible structure has."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from limbeck.dataset.lint.finding import Finding
from limbeck.dataset.lint.material import Material, rare
from limbeck.sampling.kinds import NON_METALS, vacuum_gap

_NOBLE = (2, 10, 18, 36, 54, 86)
_TOUCHING = 0.55  # of the sum of covalent radii
_REPELLED_EV_PER_A = 4.0  # least force between atoms so close
_LONE = 3.0
_PULLED_EV_PER_A = 0.5
_DENSE_PER_A3 = 0.01  # a molecule in a box of its own is thinner
_CROWDED_A3 = 2.5  # volume an atom; diamond at 1 TPa has 3
_BOHR_A = 0.529177
_STRETCHED, _STRETCHED_SHARE = (1.28, 2.4), 0.25  # ratios, and of the hydrogen of a structure
_FILLED_A = 3.0  # no vacuum is as thin
_SPREAD = 1.4  # of the sums of covalent radii: nine in ten atoms have no nearer neighbour


def check_distances(material: Material) -> Iterator[Finding]:
    """Close atoms that do not repel, lone atoms that are pulled."""
    bonds, size = material.bonds, np.linalg.norm(material.forces, axis=1)
    structure = material.batch.structure_of_atom
    close = np.unique(structure[(bonds.ratio < _TOUCHING) & (size < _REPELLED_EV_PER_A)])
    if len(close):
        yield Finding(
            "close-atoms",
            "warning",
            f"atoms nearer than {_TOUCHING} of the sum of covalent radii hardly repel one another "
            f"in {len(close)} structures",
            material.frames(close),
            "positions and labels do not belong together, or the method has a hole there",
        )
    several = material.batch.counts[structure] > 1
    lone = (bonds.ratio > _LONE) & several & ~np.isin(material.batch.numbers, _NOBLE)
    pulled = np.unique(structure[lone & (size > _PULLED_EV_PER_A)])
    if len(pulled):
        yield Finding(
            "lone-atoms",
            "note" if rare(len(pulled), len(material.labelled)) else "warning",
            f"atoms without a neighbour carry forces in {len(pulled)} structures",
            material.frames(pulled),
            "check the cell, the periodic directions and the unit of positions",
        )
    rest = np.setdiff1d(np.unique(structure[lone]), pulled)
    if len(rest):
        yield Finding(
            "lone-atoms",
            "note",
            f"{len(rest)} structures hold atoms far from all others",
            material.frames(rest),
            "remove them unless dissociation is meant",
        )


def check_lengths(material: Material) -> Iterator[Finding]:
    """Bonds that are all too long or too short: positions in another unit."""
    counted = ~np.isin(material.batch.numbers, _NOBLE)
    counted &= (material.batch.counts > 1)[material.batch.structure_of_atom]
    ratio = material.bonds.ratio[counted]
    if not len(ratio):
        return
    middle, low = float(np.median(ratio)), float(np.quantile(ratio, 0.1))
    if low > _SPREAD or (low > 1.3 and middle > 1.5):
        factor = f"{middle:.2f}" if np.isfinite(middle) else "many"
        bohr = 1.5 < middle < 2.4
        yield Finding(
            "positions-unit",
            "error",
            f"nearest neighbours are {factor} times the sum of their covalent radii apart"
            + (f": positions look like bohr (1 bohr = {_BOHR_A} Å)" if bohr else ""),
            remedy="give positions and cell in Å",
        )
    elif middle < 0.65:
        yield Finding(
            "positions-unit",
            "error",
            f"nearest neighbours are {middle:.2f} times the sum of their covalent radii apart",
            remedy="give positions and cell in Å (were they converted from bohr twice?)",
        )


def check_partners(material: Material) -> Iterator[Finding]:
    """Hydrogen that is neither bonded nor free, among non-metals alone: elements in each other's place.

    Hydrogen at the place of a carbon has its nearest neighbour 1.4 Å away; a hydrogen bond is longer.
    """
    batch = material.batch
    hydrogen = batch.numbers == 1
    if not hydrogen.any() or not np.isin(material.elements, list(NON_METALS)).all():
        return
    between = hydrogen & (material.bonds.ratio > _STRETCHED[0]) & (material.bonds.ratio < _STRETCHED[1])
    count = np.bincount(batch.structure_of_atom, between, minlength=len(batch))
    present = np.bincount(batch.structure_of_atom, hydrogen, minlength=len(batch))
    wrong = (count >= 2) & (count > _STRETCHED_SHARE * present)
    if wrong.any():
        yield Finding(
            "elements-misplaced",
            "note" if rare(int(wrong.sum()), len(batch)) else "warning",
            f"in {int(wrong.sum())} structures hydrogen stands where another element should: its nearest "
            "neighbour is 1.28 to 2.4 times the sum of covalent radii away",
            material.frames(wrong),
            "check the order of the elements against that of the positions",
        )


def check_cells(material: Material) -> Iterator[Finding]:
    """Cells too small, periodicity that is missing or differs."""
    batch = material.batch
    volume, per_atom = material.volume, material.volume / batch.counts
    crowded = batch.periodic & (per_atom < _CROWDED_A3)
    if crowded.any():
        yield Finding(
            "cell-small",
            "error",
            f"cells of less than {_CROWDED_A3} Å³ an atom in {int(crowded.sum())} structures",
            material.frames(crowded),
            "give the cell in Å, and all its atoms",
        )
    none = ~batch.pbc.any(axis=1)
    dense = none & (volume > 0) & (batch.counts > _DENSE_PER_A3 * volume) & (batch.counts > 1)
    for s in np.flatnonzero(~none & ~batch.pbc.all(axis=1) & (volume > 0) & (batch.counts > 1)):
        atoms = batch.select([int(s)]).to_atoms()[0]
        dense[s] = any(vacuum_gap(atoms, int(k))[0] < _FILLED_A for k in np.flatnonzero(~batch.pbc[s]))
    dense &= ~crowded
    if dense.any():
        yield Finding(
            "pbc-missing",
            "warning",
            f"{int(dense.sum())} structures have a cell that their atoms fill, but do not repeat there",
            material.frames(dense),
            "set pbc to True in the directions that repeat, or remove the cell",
        )
    key = material.counts @ (1 + np.arange(material.counts.shape[1]) * 100_003)
    mixed = [
        s
        for value in np.unique(key)
        if len(np.unique(batch.pbc[(members := np.flatnonzero(key == value))], axis=0)) > 1
        for s in members
    ]
    if mixed and not dense.any():
        yield Finding(
            "pbc-differs",
            "warning",
            "structures of the same atoms repeat in different directions",
            material.frames(mixed),
            "check pbc of each source",
        )
