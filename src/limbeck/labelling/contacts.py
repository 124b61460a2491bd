"""Labels of close-contact scans, evaluated: where a teacher has a hole, the ZBL repulsion takes over.

Universal teachers saw no collisions, so their energy may fall where atoms come far too close. Along a
scan (two atoms pushed together about their fixed midpoint, all others still) let r be the distance, u
the unit vector from i to j, E(r) the energy and f = (F_j - F_i)·u / 2 = -dE/dr the force along the line.
From the last trusted distance r* inward the labels become the teacher's first-order expansion there and
what ZBL adds beyond first order:

    E(r)  = E(r*) - f(r*) (r - r*) + Z(r) - Z(r*) - Z'(r*) (r - r*)
    F_i/j = F_i/j(r*) ± (Z'(r) - Z'(r*)) u,    all other forces those at r*

so dE/dr = -f exactly, energy and forces continue those at r*, and the repulsion only grows inward.
What is left for a student, whose own ZBL is whole there, is linear in r.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.geometry import find_mic

from limbeck.core.checks import closest_contact
from limbeck.core.labels import LabelledSet, Labels
from limbeck.core.pairwise import zbl_pair
from limbeck.core.scans import scan_mask

#: of the sum of covalent radii: no bond is shorter (N2 0.77, C2H2 0.79, H2 1.2); a well above may be one
_BOND_FRACTION = 0.75
#: a flank's force along the line differs from ZBL's by more than this share of it, and this much
_FLANK_SHARE, _FLANK_EV_PER_A = 0.5, 10.0
_MOVED_A = 1e-6  # positions are kept to 1e-8 Å


@dataclass(frozen=True)
class Scan:
    """The K labels of one scan, the largest distance first.

    ``i`` and ``j`` are the atoms pushed together, in their structure, ``line`` the unit vector from i to j.
    """

    index: np.ndarray  # (K,) int64, places in the labelled set
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
class Hole:
    """Where ``n_frames`` labels of one scan were replaced, or left out (``below_a`` is None then).

    ``below_a`` is the last trusted distance and ``shortest_a`` the least, Å; ``teacher_ev`` and ``zbl_ev``
    are the energy at the least above that at the last trusted one, by the teacher and as replaced.
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
            return f"{self.pair}: no label of the contact scan {self.group} can be trusted; left out"
        return (
            f"{self.pair} below {self.below_a:.2f} Å: {self.n_frames} labels of the contact scan replaced by "
            f"ZBL repulsion (at {self.shortest_a:.2f} Å the teacher gives {self.teacher_ev:+.1f} eV, "
            f"ZBL {self.zbl_ev:+.1f} eV)"
        )


def decide_contacts(labelled: LabelledSet, shortest_a: Mapping[str, float]) -> tuple[LabelledSet, list[Hole]]:
    """The set with its contact scans repaired, and what was replaced, a row a scan with a hole.

    ``shortest_a``: pair ("Cl-Li") -> shortest distance of it in the rest of the data, Å
    (:func:`limbeck.dataset.shortest_pairs`); labels from there on outward are the teacher's in any case.
    Stress of replaced labels becomes absent; their atomic energies share the change between the two atoms.
    A scan without any trusted label has energies of NaN, which the audit leaves out.
    """
    new: dict[str, Any] = {n: None if a is None else a.copy() for n, a in vars(labelled.labels).items()}
    holes: list[Hole] = []
    for scan in scans_of(labelled):
        star = last_trusted(scan, shortest_a.get(scan.pair, np.inf))
        if star is None:
            continue
        group, inner = str(labelled.group[scan.index[0]]), scan.index[star + 1 :]
        if star < 0:
            holes.append(Hole(scan.pair, group, len(inner)))
            new["energy"][inner] = np.nan
            continue
        energies, forces = continued(scan, star)
        rises = (float(e[-1] - scan.energies[star]) for e in (scan.energies, energies))
        ends = float(scan.distances[star]), float(scan.distances[-1])
        holes.append(Hole(scan.pair, group, len(inner), *ends, *rises))
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
    return replace(labelled, labels=Labels(**new)), holes


def scans_of(labelled: LabelledSet) -> list[Scan]:
    """The contact scans of a set: frames of one group of which two atoms move along a line.

    A scan of which fewer than two labels are left cannot be told and is not among them.
    """
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
    # only at the least distance is the nearest image surely the one that was pushed
    least = int(length.argmin())
    vectors = nearest[least] + between - between[least]
    distance = np.linalg.norm(vectors, axis=1)
    order = np.argsort(-distance, kind="stable")
    first, second = (int(z) for z in batch.numbers[rows[0, moved]])
    return Scan(
        index=index[order],
        i=i,
        j=j,
        line=vectors[order[0]] / distance[order[0]],
        numbers=(first, second),
        distances=distance[order],
        energies=labelled.labels.energy[index[order]],
        forces=labelled.labels.forces[rows[order]],
    )


def last_trusted(scan: Scan, shortest_a: float) -> int | None:
    """Place in the scan after which its labels are not to be trusted; None: all are, -1: none is.

    A hole begins where, inward of both the shortest sampled distance and any bond, the energy does
    not rise or the force along the line does not repel. Its outer flank belongs to it: where the
    repulsion already weakens inward, or is a spike far from that of two cores.
    """
    bond = float(covalent_radii[list(scan.numbers)].sum())
    evaluated = scan.distances < min(shortest_a, _BOND_FRACTION * bond)
    repulsion = scan.repulsion
    rises = np.diff(scan.energies, prepend=-np.inf) > 0
    bad = np.flatnonzero(evaluated & ~(rises & (repulsion > 0) & np.isfinite(scan.forces).all(axis=(1, 2))))
    if not len(bad):
        return None
    star = int(bad[0]) - 1
    _, slope = scan.zbl
    spike = np.abs(repulsion + slope) > np.maximum(_FLANK_SHARE * -slope, _FLANK_EV_PER_A)
    weaker = np.diff(repulsion, prepend=-np.inf) < 0
    while star > 0 and evaluated[star] and (weaker[star] or spike[star]):
        star -= 1
    return star


def continued(scan: Scan, star: int) -> tuple[np.ndarray, np.ndarray]:
    """Energies (K,) eV and forces (K, N, 3) eV/Å of a scan that goes on from place ``star`` by ZBL."""
    zbl, slope = scan.zbl
    beyond = scan.distances - scan.distances[star]
    energy = (
        scan.energies[star] - scan.repulsion[star] * beyond + zbl - zbl[star] - slope[star] * beyond
    )  # (K,)
    forces = np.repeat(scan.forces[star][None], len(beyond), axis=0)
    change = (slope - slope[star])[:, None] * scan.line  # (K, 3)
    forces[:, scan.i] += change
    forces[:, scan.j] -= change
    return energy, forces


def remainder(labelled: LabelledSet, s: int) -> np.ndarray:
    """Forces (N, 3), eV/Å, of structure ``s`` without the ZBL repulsion of its closest contact."""
    part, offsets = labelled.structures.select([s]), labelled.structures.offsets
    forces = labelled.labels.forces[offsets[s] : offsets[s + 1]].copy()
    contact = closest_contact(part, 1.0)
    if contact is None or contact[0] == contact[1]:
        return forces
    i, j, distance = contact
    vector, _ = find_mic(part.positions[j] - part.positions[i], part.cell[0], part.pbc[0])
    _, slope = zbl_pair(*(np.array([float(x)]) for x in (part.numbers[i], part.numbers[j], distance)))
    pull = slope[0] * vector / distance
    forces[i] -= pull
    forces[j] += pull
    return forces
