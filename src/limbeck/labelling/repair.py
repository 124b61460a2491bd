"""Repair of close-contact scans where the teacher has an unphysical short-range region.

Universal potentials were not trained on collisions, so their energy may fall where atoms come far too close.
In a scan two atoms approach about their fixed midpoint while all others stay. Let r be their distance, u the
unit vector from i to j, E(r) the energy and f = (F_j - F_i)·u / 2 = -dE/dr the force along the line. Inward
of the last trusted distance r* the labels become the teacher's first-order expansion there and what the ZBL
repulsion Z adds beyond first order:

    E(r)  = E(r*) - f(r*) (r - r*) + Z(r) - Z(r*) - Z'(r*) (r - r*)
    F_i/j = F_i/j(r*) ± (Z'(r) - Z'(r*)) u,    all other forces those at r*

so dE/dr = -f exactly, energy and forces are continuous at r*, and the repulsion only grows inward. What is
left for a student to learn, whose own ZBL acts in full there, is linear in r.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.geometry import find_mic

from limbeck.core.labels import LabelledSet, Labels
from limbeck.core.pairwise import zbl_pair
from limbeck.core.scans import scan_mask

#: of the sum of covalent radii: no bond is shorter (N2 0.77, C2H2 0.79, H2 1.2)
_BOND_FRACTION = 0.75
#: a spike is a force along the line that differs from ZBL's by more than this share of it, and this much
_SPIKE_SHARE, _SPIKE_EV_PER_A = 0.5, 10.0
_MOVED_A = 1e-6  # positions are kept to 1e-8 Å


@dataclass(frozen=True)
class Scan:
    """The K labels of one scan, the largest distance first.

    ``i`` and ``j`` are the approaching atoms, ``line`` the unit vector from i to j.
    """

    index: np.ndarray  # (K,) int64, into the labelled set
    i: int
    j: int
    line: np.ndarray  # (3,)
    numbers: tuple[int, int]
    distances: np.ndarray  # (K,) Å
    energies: np.ndarray  # (K,) eV
    forces: np.ndarray  # (K, N, 3) eV/Å

    @property
    def pair(self) -> str:
        """Symbols in alphabetical order: ``Cl-Li``."""
        return "-".join(sorted(chemical_symbols[z] for z in self.numbers))

    @property
    def repulsion(self) -> np.ndarray:
        """Force along the line, -dE/dr, (K,) eV/Å."""
        return (self.forces[:, self.j] - self.forces[:, self.i]) @ self.line / 2

    @property
    def zbl(self) -> tuple[np.ndarray, np.ndarray]:
        """ZBL energy and its derivative at the distances, (K,) eV and eV/Å."""
        z1, z2 = (np.full(len(self.distances), float(z)) for z in self.numbers)
        return zbl_pair(z1, z2, self.distances)


@dataclass(frozen=True)
class Repair:
    """What was replaced in one scan, or left out (``below_a`` is None then).

    Attributes
    ----------
    below_a, shortest_a: the last trusted and the least distance, Å.
    teacher_ev, zbl_ev: energy at the least distance above that at the last trusted one, as the teacher gave
        it and as replaced.
    """

    pair: str
    group: str
    n_frames: int
    below_a: float | None = None
    shortest_a: float = np.nan
    teacher_ev: float = np.nan
    zbl_ev: float = np.nan

    def __str__(self) -> str:
        if self.below_a is None:
            return f"{self.pair}: no label of the close-contact scan {self.group} is physical; left out"
        ends = f"the teacher gives {self.teacher_ev:+.1f} eV, ZBL {self.zbl_ev:+.1f} eV"
        return (
            f"{self.pair} below {self.below_a:.2f} Å: {self.n_frames} labels of the close-contact scan "
            f"replaced by ZBL repulsion (at {self.shortest_a:.2f} Å {ends})"
        )


def repair_scans(labelled: LabelledSet, shortest_a: Mapping[str, float]) -> tuple[LabelledSet, list[Repair]]:
    """The set with its close-contact scans repaired, and what was replaced in which scan.

    Parameters
    ----------
    shortest_a: shortest distance of each pair ("Cl-Li") in the rest of the data, Å, as
        :func:`limbeck.dataset.shortest_pairs` finds them. Labels at larger distances are never replaced.

    Stress of replaced labels becomes absent; the two atoms share the change of the energy. A scan without any
    trusted label gets energies of NaN, which the audit leaves out.
    """
    new: dict[str, Any] = {n: None if a is None else a.copy() for n, a in vars(labelled.labels).items()}
    repairs: list[Repair] = []
    for scan in scans_of(labelled):
        star = last_trusted(scan, shortest_a.get(scan.pair, np.inf))
        if star is None:
            continue
        group, inner = str(labelled.group[scan.index[0]]), scan.index[star + 1 :]
        if star < 0:
            repairs.append(Repair(scan.pair, group, len(inner)))
            new["energy"][inner] = np.nan
            continue
        energies, forces = continued(scan, star)
        rises = (float(e[-1] - scan.energies[star]) for e in (scan.energies, energies))
        ends = float(scan.distances[star]), float(scan.distances[-1])
        repairs.append(Repair(scan.pair, group, len(inner), *ends, *rises))
        rows = labelled.structures.atom_index(inner)
        new["energy"][inner] = energies[star + 1 :]
        new["forces"][rows] = forces[star + 1 :].reshape(-1, 3)
        if new["stress"] is not None:
            new["stress"][inner] = np.nan
        if new["atom_energies"] is not None:
            trusted = new["atom_energies"][labelled.structures.atom_index(scan.index[[star]])]  # (N,)
            shares = np.repeat(trusted[None], len(inner), axis=0)
            shares[:, [scan.i, scan.j]] += (energies[star + 1 :, None] - scan.energies[star]) / 2
            new["atom_energies"][rows] = shares.ravel()
    return replace(labelled, labels=Labels(**new)), repairs


def scans_of(labelled: LabelledSet) -> list[Scan]:
    """The close-contact scans of a set (two labels or more): frames in which two atoms move along a line."""
    members = np.flatnonzero(scan_mask(labelled.config_type))
    groups = labelled.group[members]
    found = (_scan(labelled, members[groups == group]) for group in dict.fromkeys(groups.tolist()))
    return [scan for scan in found if scan is not None]


def _scan(labelled: LabelledSet, index: np.ndarray) -> Scan | None:
    batch = labelled.structures
    if len(index) < 2 or len(set(batch.counts[index].tolist())) > 1:
        return None
    rows = batch.atom_index(index).reshape(len(index), -1)  # (K, N)
    positions = batch.positions[rows]  # (K, N, 3)
    moved = np.flatnonzero(np.abs(positions - positions[0]).max(axis=(0, 2)) > _MOVED_A)
    if len(moved) != 2:
        return None
    i, j = (int(a) for a in moved)
    between = positions[:, j] - positions[:, i]  # (K, 3)
    nearest, length = find_mic(between, batch.cell[index[0]], batch.pbc[index[0]])
    # only at the least distance is the nearest image surely the approaching one
    least = int(length.argmin())
    vectors = nearest[least] + between - between[least]
    distance = np.linalg.norm(vectors, axis=1)
    order = np.argsort(-distance, kind="stable")
    first, second = (int(z) for z in batch.numbers[rows[0, moved]])
    line, labels = vectors[order[0]] / distance[order[0]], labelled.labels
    energies, forces = labels.energy[index[order]], labels.forces[rows[order]]
    return Scan(index[order], i, j, line, (first, second), distance[order], energies, forces)


def last_trusted(scan: Scan, shortest_a: float) -> int | None:
    """Place in the scan of the last trusted label; None: all are trusted, -1: none is.

    The unphysical region begins where, inward of both the shortest sampled distance and any bond, the energy
    does not rise or the force along the line does not repel. Its outer flank, where the repulsion already
    weakens inward or is a spike far from the ZBL force, belongs to it.
    """
    bond = float(covalent_radii[list(scan.numbers)].sum())
    inner = scan.distances < min(shortest_a, _BOND_FRACTION * bond)
    repulsion = scan.repulsion
    rises = np.diff(scan.energies, prepend=-np.inf) > 0
    bad = np.flatnonzero(inner & ~(rises & (repulsion > 0) & np.isfinite(scan.forces).all(axis=(1, 2))))
    if not len(bad):
        return None
    star = int(bad[0]) - 1
    _, slope = scan.zbl
    spike = np.abs(repulsion + slope) > np.maximum(_SPIKE_SHARE * -slope, _SPIKE_EV_PER_A)
    weaker = np.diff(repulsion, prepend=-np.inf) < 0
    while star > 0 and inner[star] and (weaker[star] or spike[star]):
        star -= 1
    return star


def continued(scan: Scan, star: int) -> tuple[np.ndarray, np.ndarray]:
    """Energies (K,) eV and forces (K, N, 3) eV/Å of the scan, continued by ZBL from place ``star``."""
    zbl, slope = scan.zbl
    beyond = scan.distances - scan.distances[star]
    energy = scan.energies[star] - scan.repulsion[star] * beyond + zbl - zbl[star] - slope[star] * beyond
    forces = np.repeat(scan.forces[star][None], len(beyond), axis=0)
    change = (slope - slope[star])[:, None] * scan.line  # (K, 3)
    forces[:, scan.i] += change
    forces[:, scan.j] -= change
    return energy, forces
