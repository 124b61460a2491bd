"""Small structures of a Potential's elements: rattled, sheared, skewed and tiny."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import chemical_symbols, covalent_radii

ORGANIC = frozenset({1, 6, 7, 8})
DIAMOND = (14, 6, 32)
PREFERRED = (14, 8, 12, 6, 1, 7, 3, 17, 11)  #: Si O Mg C H N Li Cl Na: the first of these that are known
MAXIMUM_ELEMENTS = 4


def choose_elements(known: frozenset[int] | None) -> tuple[int, ...]:
    """Up to four elements of ``known`` for building systems; H C N O where any is accepted."""
    if known is None or known >= ORGANIC:
        return tuple(sorted(ORGANIC))
    order = [z for z in PREFERRED if z in known] + sorted(z for z in known if z not in PREFERRED)
    return tuple(order[:MAXIMUM_ELEMENTS])


def make_molecule(elements: Sequence[int], rng: np.random.Generator) -> Atoms:
    """Acetamide for H C N O, else a cluster of seven atoms at bonding distances; rattled by 0.05 Å."""
    atoms = molecule("CH3CONH2") if set(elements) >= ORGANIC else _cluster(elements, 7, rng)
    return _rattle(atoms, 0.05, rng)


def make_fragment(elements: Sequence[int], rng: np.random.Generator) -> Atoms:
    """A second, different molecule of three atoms."""
    atoms = molecule("H2O") if set(elements) >= ORGANIC else _cluster(elements[::-1], 3, rng)
    return _rattle(atoms, 0.05, rng)


def make_crystals(known: frozenset[int] | None, rng: np.random.Generator) -> dict[str, Atoms]:
    """Triclinic rattled crystals: a dense one, and a molecular one for H C N O."""
    elements = choose_elements(known)
    crystals = {"triclinic crystal": _dense_crystal(known, elements, rng)}
    if set(elements) >= ORGANIC:
        atoms = crystals["molecular crystal"] = make_molecule(elements, rng)
        atoms.set_cell([[6.2, 0.3, -0.2], [0.9, 5.8, 0.4], [-0.5, 0.7, 6.0]])
        atoms.pbc = True
    return crystals


def make_small_cell(elements: Sequence[int], rng: np.random.Generator) -> Atoms:
    """Two atoms in a sheared cell narrower than their nearest distance."""
    first, second = elements[0], elements[:2][-1]
    atoms = make_one_atom_cell(max(first, second), rng).repeat((1, 1, 2))
    atoms.numbers[:] = [first, second]
    return _rattle(atoms, 0.08, rng)


def make_one_atom_cell(element: int, rng: np.random.Generator) -> Atoms:
    """One atom in a sheared face-centred primitive cell, a little wider than its covalent radii."""
    return _strain(_fcc(element, 2.3), 0.05, rng)


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """A proper rotation, uniform over SO(3), (3, 3); rows of x rotate by ``x @ R.T``."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def _dense_crystal(known: frozenset[int] | None, elements: Sequence[int], rng: np.random.Generator) -> Atoms:
    if diamond := [z for z in DIAMOND if known is None or z in known]:
        atoms = bulk(chemical_symbols[diamond[0]], "diamond", cubic=True)
    elif len(elements) > 1:
        nearest = 1.1 * (covalent_radii[elements[0]] + covalent_radii[elements[1]])
        pair = chemical_symbols[elements[0]] + chemical_symbols[elements[1]]
        atoms = bulk(pair, "rocksalt", a=2 * nearest, cubic=True)
    else:
        atoms = _fcc(elements[0], 2.2, cubic=True)
    return _rattle(_strain(atoms, 0.06, rng), 0.1, rng)


def _fcc(element: int, radii: float, *, cubic: bool = False) -> Atoms:
    """A face-centred crystal, its nearest distance ``radii`` covalent radii."""
    return bulk(chemical_symbols[element], "fcc", a=np.sqrt(2) * radii * covalent_radii[element], cubic=cubic)


def _cluster(elements: Sequence[int], count: int, rng: np.random.Generator) -> Atoms:
    """Atoms added one by one at 1.15 of the sum of covalent radii from an earlier one, none closer."""
    numbers = [elements[k % len(elements)] for k in range(count)]
    positions = [np.zeros(3)]
    while len(positions) < count:
        new = numbers[len(positions)]
        anchor = int(rng.integers(len(positions)))
        direction = rng.normal(size=3)
        length = 1.15 * (covalent_radii[new] + covalent_radii[numbers[anchor]])
        candidate = positions[anchor] + direction / np.linalg.norm(direction) * length
        nearest = covalent_radii[numbers[: len(positions)]] + covalent_radii[new]
        if (np.linalg.norm(np.array(positions) - candidate, axis=1) >= 1.1 * nearest).all():
            positions.append(candidate)
    return Atoms(numbers=numbers, positions=positions)


def _rattle(atoms: Atoms, width: float, rng: np.random.Generator) -> Atoms:
    atoms.positions += rng.uniform(-width, width, size=(len(atoms), 3)) * np.sqrt(3)
    return atoms


def _strain(atoms: Atoms, width: float, rng: np.random.Generator) -> Atoms:
    deformation = np.eye(3) + rng.uniform(-width, width, size=(3, 3))
    atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return atoms
