"""Systems of about a given size, of the kind that a student was made for.

Crystals, liquids and surfaces are repeated; molecules become copies out of each other's reach, so that
an atom has the neighbours it has in one molecule, which is all that such a student was shown. Where no
structure is at hand, the card's elements, proportions and density make a lattice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from limbeck.core.building import best_repeats, element_crystal, rattled, set_density, side_by_side
from limbeck.core.checks import check_structures
from limbeck.core.kinds import Kind, structure_kind
from limbeck.core.reading import read_any
from limbeck.errors import InputError

RATTLE_A = 0.05  #: per component; without it symmetry would make all forces zero
STARTS_FILE = "structures.extxyz"  #: of a run folder
_LATTICE_SPACING_A = 2.2  # of a molecule that nothing is known of: 0.094 atoms an Å³, as in organic liquids
_LATTICE_SITES, _LATTICE_ATOMS = (2, 2, 4), 16
_MOLECULE_ATOMS = (4, 64)


@dataclass(frozen=True)
class Origin:
    """What systems are made of.

    Attributes
    ----------
    frames: structures of one kind and composition; the one that comes nearest to a size is taken.
    kind: crystal, liquid, surface or molecule.
    source: where they come from, for people.
    """

    frames: tuple[Atoms, ...]
    kind: Kind
    source: str


@dataclass(frozen=True)
class System:
    """One structure and what it is called in a row."""

    name: str
    atoms: Atoms

    def copies(self, n: int, seed: int = 0) -> list[Atoms]:
        """``n`` structures alike but for small random displacements of every atom."""
        rng = np.random.default_rng(seed)
        return [rattled(self.atoms, RATTLE_A, rng) for _ in range(n)]


def find_origin(student: Path, card: Mapping[str, Any], structures: Path | None = None) -> Origin:
    """Structures of a student's own kind: those given, else of its run folder, else from its card.

    Raises
    ------
    InputError: a file that cannot be read as structures.
    """
    beside = student.parent / STARTS_FILE
    path = structures or (beside if beside.is_file() else None)
    if path is None:
        return origin_from_card(card)
    read = read_any(path)
    check_structures(read, str(path))
    frames = [Atoms(a.numbers, a.positions, cell=a.cell, pbc=a.pbc) for a in read]
    first = next((a for a in frames if len(a) > 1 or a.pbc.any()), None)
    if first is None:
        raise InputError(
            "single atoms alone make systems without a pair", where=path,
            got=frames[0].get_chemical_formula(), wanted="a molecule or a crystal",
        )  # fmt: skip
    kind, formula = structure_kind(first), _formula(first)
    by_size: dict[int, Atoms] = {}
    for atoms in frames:
        if len(atoms) not in by_size and _formula(atoms) == formula and structure_kind(atoms) == kind:
            by_size[len(atoms)] = atoms
    return Origin(tuple(by_size.values()), kind, str(path))


def origin_from_card(card: Mapping[str, Any]) -> Origin:
    """A crystal of the element, or a lattice of the elements, at the density that the card tells.

    Without a density, as after training on molecules alone, a lattice of as many atoms as a structure of
    the data has, as a molecule.
    """
    data = card.get("data") or {}
    numbers = _proportions(card, data)
    density = data.get("density_g_per_cm3")
    if density is None:
        low, high = data.get("atoms_per_structure") or (_LATTICE_ATOMS, _LATTICE_ATOMS)
        n = int(np.clip((low + high) // 2, *_MOLECULE_ATOMS))
        edge = math.ceil(n ** (1 / 3) - 1e-9)
        atoms = _lattice(numbers, (edge, edge, edge), n)
        return Origin((atoms,), "molecule", "a lattice of the card's elements, as a molecule")
    mean = float(np.mean(density))
    if len(numbers) == 1 and (crystal := element_crystal(*numbers)) is not None:
        set_density(crystal, mean)
        return Origin((crystal,), "crystal", "the element's crystal at the card's mean density")
    atoms = _lattice(numbers, _LATTICE_SITES, _LATTICE_ATOMS)
    atoms.pbc = True
    set_density(atoms, mean)
    return Origin((atoms,), "crystal", "a lattice of the card's elements at its mean density")


def build_system(origin: Origin, n_atoms: int, reach_a: float) -> System:
    """The system nearest to ``n_atoms`` atoms; how many it has its atoms tell.

    Parameters
    ----------
    reach_a: copies of a molecule are farther apart than this, Å.
    """
    if origin.kind == "molecule":
        frame = min(origin.frames, key=lambda a: abs(max(1, round(n_atoms / len(a))) * len(a) - n_atoms))
        copies = max(1, round(n_atoms / len(frame)))
        name = str(frame.get_chemical_formula(mode="hill"))
        atoms = side_by_side(frame, copies, reach_a + 2 * RATTLE_A * 10)
        return System(f"{copies} {name}" if copies > 1 else name, atoms)
    choices = [(*best_repeats(frame, n_atoms), k) for k, frame in enumerate(origin.frames)]
    _, repeats, k = min(choices)
    frame = origin.frames[k]
    name = f"{_formula(frame)} {'x'.join(map(str, repeats))}" if max(repeats) > 1 else _formula(frame)
    return System(name, frame * repeats)


def _proportions(card: Mapping[str, Any], data: Mapping[str, Any]) -> dict[int, float]:
    """Atomic number -> share of the atoms, as in the training data; equal shares where it is not told."""
    counts = {atomic_numbers[symbol]: float(n) for symbol, n in (data.get("elements") or {}).items()}
    counts = counts or {int(z): 1.0 for z in card.get("elements") or ()}
    if not counts:
        raise InputError("the card names no element", wanted="structures", remedy="give --structures FILE")
    total = sum(counts.values())
    return {z: n / total for z, n in sorted(counts.items())}


def _lattice(shares: Mapping[int, float], edges: tuple[int, int, int], n: int) -> Atoms:
    """``n`` atoms on the first sites of a simple cubic lattice of ``edges`` sites, elements shuffled."""
    exact = {z: share * n for z, share in shares.items()}
    counts = {z: math.floor(x) for z, x in exact.items()}
    for z in sorted(exact, key=lambda z: counts[z] - exact[z])[: n - sum(counts.values())]:
        counts[z] += 1  # the largest remainders get what rounding down left over
    numbers = np.repeat(list(counts), list(counts.values()))
    np.random.default_rng(0).shuffle(numbers)
    places = np.array(list(itertools.product(*map(range, edges)))[:n], float)
    return Atoms(numbers, _LATTICE_SPACING_A * places, cell=_LATTICE_SPACING_A * np.array(edges, float))


def _formula(atoms: Atoms) -> str:
    return str(atoms.get_chemical_formula(mode="hill", empirical=True))
