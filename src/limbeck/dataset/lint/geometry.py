"""Unphysical distances and cells, missing periodicity, forces that do not balance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from limbeck.core.kinds import vacuum_gap
from limbeck.dataset.lint.records import Finding, Material, finding

_NOBLE = (2, 10, 18, 36, 54, 86)
_TOUCHING = 0.55  # of the sum of covalent radii; the shortest bonds, except those of hydrogen, have 0.85
_REPELLED_EV_PER_A = 4.0  # least force between atoms so close
_LONE, _PULLED_EV_PER_A = 3.0, 0.5
_SHRUNK = 0.65  # a second conversion from bohr leaves 0.53
_BOHR, _STRETCHED = (1.5, 2.4), 1.3  # range of bonds given in bohr; metals have up to 1.2
_DENSE_PER_A3 = 0.01  # a molecule in a box has a lower density
_CROWDED_A3 = 2.5  # volume per atom; diamond at 1 TPa has 3
_FILLED_A = 3.0  # a vacuum is wider
_SHARE = 0.2  # of the sum of forces of that size in random directions; a damaged atom leaves more
_LEAST_EV_PER_A = 0.02  # noise of large cells and loose convergence
_CONSTRAINED = 0.1  # share of atoms without any force that points to constraints


def check_lengths(material: Material) -> Iterator[Finding]:
    """Bonds that are all too long or too short: positions in another unit.

    Noble gases, and structures of two atoms, which may be scans, do not count.
    """
    batch = material.batch
    counted = ~np.isin(batch.numbers, _NOBLE) & (batch.counts > 2)[batch.structure_of_atom]
    if not counted.any():
        return
    ratio = material.bonds.ratio[counted]
    middle, low = float(np.median(ratio)), float(np.quantile(ratio, 0.1, method="lower"))
    far = f"nearest neighbours are {middle:.2f} times the sum of their covalent radii apart"
    if middle < _SHRUNK:
        yield finding("positions-unit", "error", far + " (were they converted from bohr twice?)")
    elif low > _STRETCHED and _BOHR[0] < middle < _BOHR[1]:
        yield finding("positions-unit", "error", far + ": positions look like bohr (1 bohr = 0.529177 Å)")
    elif low > _STRETCHED and middle > _BOHR[0]:
        yield finding("positions-unit", "warning", far)


def check_distances(material: Material) -> Iterator[Finding]:
    """Close atoms without repulsion, isolated atoms with forces."""
    bonds, size = material.bonds, np.linalg.norm(material.forces, axis=1)
    structure = material.batch.structure_of_atom
    close = structure[(bonds.ratio < _TOUCHING) & (size < _REPELLED_EV_PER_A)]
    text = (
        f"atoms within {_TOUCHING} of the sum of covalent radii hardly repel one another in {{n}} structures"
    )
    yield from material.found("close-atoms", "warning", text, close)
    several = material.batch.counts[structure] > 1
    lone = (bonds.ratio > _LONE) & several & ~np.isin(material.batch.numbers, _NOBLE)
    pulled = lone & (size > _PULLED_EV_PER_A)
    many = len(np.unique(structure[pulled])) > 1e-3 * len(material.labelled)
    text = "{n} structures have atoms far from all others" + (", that carry forces" if pulled.any() else "")
    frames = structure[pulled if pulled.any() else lone]
    yield from material.found("lone-atoms", "warning" if many else "note", text, frames)


def check_cells(material: Material) -> Iterator[Finding]:
    """Cells too small, periodicity that is missing or differs."""
    batch, volume = material.batch, material.batch.volume
    # hydrogen and helium are compressed much further
    heavy = np.bincount(batch.structure_of_atom, batch.numbers > 2, minlength=len(batch))
    crowded = batch.periodic & (volume < _CROWDED_A3 * heavy)
    text = f"cells of less than {_CROWDED_A3} Å³ per atom in {{n}} structures"
    yield from material.found("cell-small", "error", text, crowded)
    none = ~batch.pbc.any(axis=1)
    dense = none & (volume > 0) & (batch.counts > _DENSE_PER_A3 * volume) & (batch.counts > 1)
    for s in np.flatnonzero(~none & ~batch.pbc.all(axis=1) & (volume > 0) & (batch.counts > 1)):
        atoms = batch.select([int(s)]).to_atoms()[0]
        dense[s] = any(vacuum_gap(atoms, int(k))[0] < _FILLED_A for k in np.flatnonzero(~batch.pbc[s]))
    dense &= ~crowded
    if dense.any():
        text = "{n} structures have a cell filled with atoms, but are not periodic there"
        yield from material.found("pbc-missing", "warning", text, dense)
        return
    kind = np.unique(material.counts, axis=0, return_inverse=True)[1].reshape(-1)
    mixed = [k for k in range(kind.max() + 1) if len(np.unique(batch.pbc[kind == k], axis=0)) > 1]
    text = "structures of the same atoms are periodic in different directions"
    yield from material.found("pbc-differs", "warning", text, np.isin(kind, mixed))


def check_balance(material: Material) -> Iterator[Finding]:
    """Forces that do not sum to zero, or turn a free molecule."""
    batch, forces = material.batch, material.forces
    start, structure = batch.offsets[:-1], batch.structure_of_atom
    net = np.linalg.norm(np.add.reduceat(forces, start), axis=1)
    random = np.sqrt(3 * batch.counts) * material.force_rms
    pushed = (net > _SHARE * random) & (net > _LEAST_EV_PER_A * np.sqrt(batch.counts)) & (batch.counts > 1)
    still = np.bincount(structure, (forces == 0).all(axis=1)) / batch.counts
    constrained = pushed & (still >= _CONSTRAINED)
    for code, which, what in (
        ("forces-constrained", constrained, "a net force and atoms without any (constraints?)"),
        ("net-force", pushed & ~constrained, "forces that do not sum to zero"),
    ):
        text = f"{{n}} structures have {what}, up to {net[which].max(initial=0.0):.3g} eV/Å"
        yield from material.found(code, "warning", text, which)
    centre = np.add.reduceat(batch.positions, start) / batch.counts[:, None]
    arm = batch.positions - centre[structure]
    torque = np.linalg.norm(np.add.reduceat(np.cross(arm, forces), start), axis=1)
    size = np.sqrt(np.add.reduceat((arm**2).sum(axis=1) * (forces**2).sum(axis=1), start))
    turned = ~batch.pbc.any(axis=1) & (batch.counts > 2) & ~pushed
    turned &= (torque > _SHARE * size) & (material.force_rms > _LEAST_EV_PER_A)
    yield from material.found(
        "net-torque", "warning", "the forces of {n} molecules have a net torque", turned
    )
