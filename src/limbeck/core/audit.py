"""Which labels are fit to train on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from ase.geometry import find_mic

from limbeck.core.checks import closest_contact
from limbeck.core.labels import LabelledSet
from limbeck.core.pairwise import zbl_pair
from limbeck.core.scans import scan_mask

_SCAN_SHARE = 0.5  # of the force limit of all other labels


@dataclass(frozen=True)
class Dropped:
    """A label that is left out: its place in the set and why."""

    index: int
    reason: str


def audit(labelled: LabelledSet, *, max_force_ev_per_a: float = 50.0) -> tuple[np.ndarray, list[Dropped]]:
    """Indices (int64) of the labels to keep, and the others with the reason.

    Dropped are labels that are not finite and those with a force longer than ``max_force_ev_per_a``.
    A stress of NaN throughout means that there is none, and is kept. In close-contact scans the ZBL
    repulsion of the closest pair, which students have built in, is subtracted from the forces, and the limit
    is half as large: hundreds of eV/Å at 0.3 Å are correct, but a network should not be fitted to them.
    """
    scans = scan_mask(labelled.config_type)
    faults = (_fault(labelled, s, max_force_ev_per_a, bool(scans[s])) for s in range(len(labelled)))
    dropped = [Dropped(s, reason) for s, reason in enumerate(faults) if reason is not None]
    return np.setdiff1d(np.arange(len(labelled)), [d.index for d in dropped]), dropped


def _fault(labelled: LabelledSet, s: int, limit: float, scan: bool) -> str | None:
    labels, structures = labelled.labels, labelled.structures
    atoms = slice(structures.offsets[s], structures.offsets[s + 1])
    forces, numbers = labels.forces[atoms], structures.numbers[atoms]
    if not np.isfinite(labels.energy[s]):
        return f"energy is {labels.energy[s]} eV"
    bad = np.flatnonzero(~np.isfinite(forces).all(axis=1))
    if len(bad):
        i = int(bad[0])
        return f"force on atom {i} ({chemical_symbols[numbers[i]]}) is not finite"
    if labels.stress is not None and _partly_broken(labels.stress[s]):
        return "stress is not finite"
    if labels.atom_energies is not None and _partly_broken(labels.atom_energies[atoms]):
        return "atomic energies are not finite"
    if scan:
        forces, limit = without_core_repulsion(labelled, s), limit * _SCAN_SHARE
    sizes = np.linalg.norm(forces, axis=1)
    if len(sizes) and sizes.max() > limit:
        i = int(sizes.argmax())
        kind = "force without core repulsion" if scan else "force"
        atom = f"atom {i} ({chemical_symbols[numbers[i]]})"
        return f"{kind} of {sizes[i]:.1f} eV/Å on {atom}, limit {limit:g} eV/Å"
    return None


def _partly_broken(values: np.ndarray) -> bool:
    """Not finite; NaN throughout means absent."""
    return not np.isnan(values).all() and not np.isfinite(values).all()


def without_core_repulsion(labelled: LabelledSet, s: int) -> np.ndarray:
    """Forces (N, 3), eV/Å, of structure ``s`` less the ZBL repulsion of its closest contact."""
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
