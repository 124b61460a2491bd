"""Steps without a Potential: supercell, rattle, strain."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.build import make_supercell

from limbeck.core.charge import repeat_charge
from limbeck.core.checks import contacts
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.sampling.config import Strain
from limbeck.sampling.frames import make_frame
from limbeck.sampling.kinds import VACUUM_GAP_A, vacuum_gap
from limbeck.sampling.preparing import Supercell

_REDRAWS = 200
_MOST_REPEATS = 50


def supercell(atoms: Atoms, config: Supercell) -> Atoms:
    """The supercell of a periodic structure, in the same family.

    Raises
    ------
    InputError: the structure is not periodic, or the matrix is not invertible.
    """
    if not atoms.pbc.any():
        raise InputError(
            "a supercell needs a periodic structure",
            where=f"step supercell, start {atoms.info.get('family', '')}",
            got="pbc False, False, False",
            remedy="leave the step out for molecules",
        )
    if config.matrix is not None:
        matrix = np.array(config.matrix)
        if round(np.linalg.det(matrix)) == 0:
            raise InputError(
                "the supercell matrix is singular",
                where="step supercell",
                got=matrix.tolist(),
                wanted="det != 0",
            )
        still = ~atoms.pbc
        if (matrix[still] != np.eye(3, dtype=int)[still]).any() or (
            matrix[:, still] != np.eye(3)[:, still]
        ).any():
            raise InputError(
                "the supercell matrix repeats a direction that is not periodic",
                where="step supercell",
                got=f"{matrix.tolist()} for pbc {atoms.pbc.tolist()}",
            )
    else:
        matrix = np.diag(_repeats(atoms, config))
    larger = make_supercell(atoms, matrix)
    repeat_charge(atoms, larger)
    return make_frame(larger, atoms.info.get("family", ""), "supercell")


def _repeats(atoms: Atoms, config: Supercell) -> tuple[int, ...]:
    """Repeats along the cell vectors; 1 along directions that are not periodic.

    To hold at most so many atoms, a slab is not repeated across its vacuum either.
    """
    if config.repeat is not None:
        size: Any = config.repeat  # a list of sizes has been taken apart before
        return tuple(r if p else 1 for r, p in zip(size, atoms.pbc, strict=True))
    # The width along vector k is the distance between the two faces that it joins.
    widths = 1.0 / np.linalg.norm(np.linalg.inv(atoms.cell.complete().array), axis=0)  # (3,)
    if config.min_length_a is not None:
        wanted = [
            math.ceil(config.min_length_a / w - 1e-9) if p else 1
            for w, p in zip(widths, atoms.pbc, strict=True)
        ]
        return tuple(max(1, r) for r in wanted)
    most = max(1, int(config.max_atoms or 1) // len(atoms))
    filled = [p and vacuum_gap(atoms, k)[0] <= VACUUM_GAP_A for k, p in enumerate(atoms.pbc)]
    along = filled if any(filled) else atoms.pbc  # a molecule in a box has vacuum everywhere
    choices = [range(1, min(most, _MOST_REPEATS) + 1) if p else range(1, 2) for p in along]
    best: tuple[int, ...] = (1, 1, 1)
    best_key = (-1.0, 0)
    for repeats in itertools.product(*choices):
        copies = math.prod(repeats)
        if copies > most:
            continue
        shortest = min(w * r for w, r, p in zip(widths, repeats, along, strict=True) if p)
        key = (round(shortest, 6), -copies)
        if key > best_key:
            best, best_key = repeats, key
    return best


class _Spaced(Protocol):
    """A step whose frames keep ``min_ratio``."""

    @property
    def kind(self) -> str: ...

    @property
    def min_ratio(self) -> float: ...


def rattle(atoms: Atoms, stdev_a: float, config: _Spaced, rng: np.random.Generator) -> np.ndarray:
    """Displaced positions (N, 3), Å, with no pair closer than ``min_ratio`` of its covalent radii.

    Displacements of atoms in too close a pair are drawn again; the others stay.

    Raises
    ------
    InputError: the pairs stay too close (the amplitude is too great, or the start too dense).
    """
    batch = StructureBatch.from_atoms([atoms])
    shift = rng.normal(0.0, stdev_a, batch.positions.shape)  # (N, 3)
    for _ in range(_REDRAWS):
        moved = replace(batch, positions=batch.positions + shift)
        i, j, distance, _ = contacts(moved, config.min_ratio)
        if not len(distance):
            return moved.positions
        again = np.union1d(i, j)
        shift[again] = rng.normal(0.0, stdev_a, (len(again), 3))
    raise InputError(
        "rattled atoms stay too close",
        where=f"step {config.kind}, start {atoms.info.get('family', '')}",
        got=f"a stdev of {stdev_a:g} Å and a pair at {distance.min():.2f} Å after {_REDRAWS} draws",
        wanted=f"pairs beyond {config.min_ratio:g} of the sum of covalent radii",
        remedy="lower stdev_a or min_ratio",
    )


def strains(config: Strain, mode: str, rng: np.random.Generator) -> np.ndarray:
    """Symmetric strain tensors (n, 3, 3); the sizes are stratified over [-max, max].

    One draw in each of n equal intervals, in random order (Latin hypercube), so that few frames
    cover the range evenly.
    """
    components = 6 if mode == "random" else 1
    layers = np.stack([rng.permutation(config.n) for _ in range(components)], axis=1)  # (n, components)
    size = config.max * (2.0 * (layers + rng.random(layers.shape)) / config.n - 1.0)
    strain = np.zeros((config.n, 3, 3))
    frame, axis = np.arange(config.n), rng.integers(3, size=config.n)
    if mode == "uniaxial":
        strain[frame, axis, axis] = size[:, 0]
    elif mode == "volumetric":
        strain[:, [0, 1, 2], [0, 1, 2]] = size
    elif mode == "shear":
        strain[frame, axis, (axis + 1) % 3] = size[:, 0]
        strain[frame, (axis + 1) % 3, axis] = size[:, 0]
    else:
        rows, columns = np.array([0, 1, 2, 0, 0, 1]), np.array([0, 1, 2, 1, 2, 2])
        strain[:, rows, columns] = size
        strain[:, columns, rows] = size
    return strain


def apply_strain(atoms: Atoms, strain: np.ndarray) -> Atoms:
    """The structure with cell @ (1 + strain) and positions scaled with it.

    Raises
    ------
    InputError: the structure is not periodic in all three directions.
    """
    if not atoms.pbc.all():
        raise InputError(
            "strain needs a structure that is periodic in three directions",
            where=f"step strain, start {atoms.info.get('family', '')}",
            got=f"pbc {atoms.pbc.tolist()}",
            remedy="leave the step out, or rattle instead",
        )
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return strained
