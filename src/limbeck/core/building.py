"""Structures of about a given size, made by repeating others."""

from __future__ import annotations

import itertools
import math

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_masses, chemical_symbols

from limbeck.core.kinds import VACUUM_GAP_A, vacuum_gap
from limbeck.units import G_PER_CM3

_ASPECT = 4.0  # longest over shortest width up to which a supercell costs nothing
_ASPECT_COST = 0.1  # of the size, for each doubling beyond

Repeats = tuple[int, int, int]


def element_crystal(number: int, *, cubic: bool = True) -> Atoms | None:
    """An element's reference crystal, or None: the conventional ``cubic`` cell, else the primitive one."""
    for conventional in (True, False) if cubic else (False,):
        try:
            return bulk(chemical_symbols[number], cubic=conventional)
        except (ValueError, RuntimeError):
            continue
    return None


def set_density(atoms: Atoms, density_g_per_cm3: float) -> None:
    """Stretch a periodic structure to a density, its atoms with it."""
    wanted = atomic_masses[atoms.numbers].sum() * G_PER_CM3 / density_g_per_cm3  # Å³
    atoms.set_cell(atoms.cell.array * (wanted / atoms.get_volume()) ** (1 / 3), scale_atoms=True)


def best_repeats(atoms: Atoms, n_atoms: int) -> tuple[float, Repeats]:
    """Repeats that come nearest to a size without a splinter of a cell, after what they cost.

    A surface grows along its periodic directions without vacuum only.
    """
    widths = 1.0 / np.linalg.norm(np.linalg.inv(atoms.cell.complete().array), axis=0)  # (3,)
    free = [bool(atoms.pbc[k]) and vacuum_gap(atoms, k)[0] <= VACUUM_GAP_A for k in range(3)]
    if not any(free):
        free = [bool(p) for p in atoms.pbc]
    copies = n_atoms / len(atoms)
    most = math.ceil(copies)
    found = []
    for a, b in itertools.product(range(1, most + 1 if free[0] else 2), range(1, most + 1 if free[1] else 2)):
        if a * b > most:
            continue
        rest = copies / (a * b)
        for c in {max(1, math.floor(rest)), math.ceil(rest)} if free[2] else {1}:
            lengths = [w * r for w, r, f in zip(widths, (a, b, c), free, strict=True) if f]
            aspect = max(lengths) / min(lengths)
            off = abs(a * b * c * len(atoms) - n_atoms) / n_atoms
            cost = round(off + _ASPECT_COST * max(0.0, math.log2(aspect / _ASPECT)) + 1e-6 * aspect, 9)
            # of equal ones the last direction is the longest, so that the choice is always the same
            found.append((cost, (a, b, c)))
    return min(found)


def side_by_side(molecule: Atoms, n: int, gap_a: float) -> Atoms:
    """``n`` copies on a cubic grid, ``gap_a`` Å apart; periodic where the molecule came in a periodic box."""
    if n == 1:
        return molecule.copy()
    edge = math.ceil(n ** (1 / 3) - 1e-9)
    step = np.ptp(molecule.positions, axis=0) + gap_a  # (3,), Å
    shifts = np.array(list(itertools.product(range(edge), repeat=3))[:n]) * step  # (n, 3)
    positions = (molecule.positions[None] + shifts[:, None]).reshape(-1, 3)
    periodic = bool(molecule.pbc.any())
    cell = np.diag(step * edge) if periodic else None
    return Atoms(np.tile(molecule.numbers, n), positions, cell=cell, pbc=periodic)


def rattled(atoms: Atoms, width_a: float, rng: np.random.Generator) -> Atoms:
    """A copy whose coordinates are displaced, normally distributed."""
    moved = atoms.copy()
    moved.positions += rng.normal(scale=width_a, size=moved.positions.shape)
    return moved
