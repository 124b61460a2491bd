"""Distances, cells and periodicity that no sensible structure has; forces that do not balance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from limbeck.core.kinds import vacuum_gap
from limbeck.dataset.lint.records import Finding, Material, finding

_NOBLE = (2, 10, 18, 36, 54, 86)
_TOUCHING = 0.55  # of the sum of covalent radii; the shortest real bonds, hydrogen's aside, have 0.85
_REPELLED_EV_PER_A = 4.0  # least force between atoms so close
_LONE, _PULLED_EV_PER_A = 3.0, 0.5
_SHRUNK = 0.65  # bohr converted twice leaves 0.53
_BOHR, _STRETCHED = (1.5, 2.4), 1.3  # where bonds given in bohr lie; metals have up to 1.2
_DENSE_PER_A3 = 0.01  # a molecule in a box of its own is thinner
_CROWDED_A3 = 2.5  # volume an atom; diamond at 1 TPa has 3
_FILLED_A = 3.0  # no vacuum is as thin
_SHARE = 0.2  # of what forces of that size in random directions sum to; a damaged atom leaves more
_LEAST_EV_PER_A = 0.02  # noise of large cells and loose convergence
_HELD = 0.1  # share of atoms without any force that tells constraints


def check_lengths(material: Material) -> Iterator[Finding]:
    """Bonds that are all too long or too short: positions in another unit.

    Noble gases and pairs of atoms, which may be scanned, do not count.
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
    """Close atoms that do not repel, lone atoms that are pulled."""
    bonds, size = material.bonds, np.linalg.norm(material.forces, axis=1)
    structure = material.batch.structure_of_atom
    close = np.unique(structure[(bonds.ratio < _TOUCHING) & (size < _REPELLED_EV_PER_A)])
    if len(close):
        text = (
            f"atoms nearer than {_TOUCHING} of the sum of covalent radii hardly repel one another "
            f"in {len(close)} structures"
        )
        yield finding("close-atoms", "warning", text, material.frames(close))
    several = material.batch.counts[structure] > 1
    lone = (bonds.ratio > _LONE) & several & ~np.isin(material.batch.numbers, _NOBLE)
    pulled = lone & (size > _PULLED_EV_PER_A)
    frames = material.frames(np.unique(structure[pulled if pulled.any() else lone]))
    if frames:
        text = f"{len(frames)} structures hold atoms far from all others"
        many = pulled.any() and len(frames) > 1e-3 * len(material.labelled)
        text += ", that carry forces" if pulled.any() else ""
        yield finding("lone-atoms", "warning" if many else "note", text, frames)


def check_cells(material: Material) -> Iterator[Finding]:
    """Cells too small, periodicity that is missing or differs."""
    batch, volume = material.batch, material.batch.volume
    # hydrogen and helium are compressed much further
    heavy = np.bincount(batch.structure_of_atom, batch.numbers > 2, minlength=len(batch))
    crowded = batch.periodic & (volume < _CROWDED_A3 * heavy)
    if crowded.any():
        text = f"cells of less than {_CROWDED_A3} Å³ an atom in {int(crowded.sum())} structures"
        yield finding("cell-small", "error", text, material.frames(crowded))
    none = ~batch.pbc.any(axis=1)
    dense = none & (volume > 0) & (batch.counts > _DENSE_PER_A3 * volume) & (batch.counts > 1)
    for s in np.flatnonzero(~none & ~batch.pbc.all(axis=1) & (volume > 0) & (batch.counts > 1)):
        atoms = batch.select([int(s)]).to_atoms()[0]
        dense[s] = any(vacuum_gap(atoms, int(k))[0] < _FILLED_A for k in np.flatnonzero(~batch.pbc[s]))
    dense &= ~crowded
    kind = np.unique(material.counts, axis=0, return_inverse=True)[1].reshape(-1)
    mixed = [k for k in range(kind.max() + 1) if len(np.unique(batch.pbc[kind == k], axis=0)) > 1]
    if dense.any():
        text = f"{int(dense.sum())} structures have a cell that their atoms fill, but do not repeat there"
        yield finding("pbc-missing", "warning", text, material.frames(dense))
    elif mixed:
        text = "structures of the same atoms repeat in different directions"
        yield finding("pbc-differs", "warning", text, material.frames(np.isin(kind, mixed)))


def check_balance(material: Material) -> Iterator[Finding]:
    """Forces sum to zero, and do not turn a free molecule; external fields and constraints aside."""
    batch, forces = material.batch, material.forces
    start, structure = batch.offsets[:-1], batch.structure_of_atom
    net = np.linalg.norm(np.add.reduceat(forces, start), axis=1)
    random = np.sqrt(3 * batch.counts) * material.force_rms
    pushed = (net > _SHARE * random) & (net > _LEAST_EV_PER_A * np.sqrt(batch.counts)) & (batch.counts > 1)
    still = np.bincount(structure, (forces == 0).all(axis=1)) / batch.counts
    held = pushed & (still >= _HELD)
    for code, which, what in (
        ("forces-constrained", held, "a net force and atoms without any (constraints?)"),
        ("net-force", pushed & ~held, "forces that do not sum to zero"),
    ):
        if which.any():
            text = f"{int(which.sum())} structures have {what}, up to {net[which].max():.3g} eV/Å"
            yield finding(code, "warning", text, material.frames(which))
    centre = np.add.reduceat(batch.positions, start) / batch.counts[:, None]
    arm = batch.positions - centre[structure]
    torque = np.linalg.norm(np.add.reduceat(np.cross(arm, forces), start), axis=1)
    size = np.sqrt(np.add.reduceat((arm**2).sum(axis=1) * (forces**2).sum(axis=1), start))
    turned = ~batch.pbc.any(axis=1) & (batch.counts > 2) & ~pushed
    turned &= (torque > _SHARE * size) & (material.force_rms > _LEAST_EV_PER_A)
    if turned.any():
        text = f"the forces of {int(turned.sum())} molecules have a net torque"
        yield finding("net-torque", "warning", text, material.frames(turned))
