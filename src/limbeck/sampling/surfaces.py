"""Slabs cut from crystals."""

from __future__ import annotations

import math

import numpy as np
from ase import Atoms
from ase.build import surface

from limbeck.core.charge import repeat_charge
from limbeck.errors import InputError
from limbeck.sampling.frames import make_frame
from limbeck.sampling.kinds import finite_molecules, heights, structure_kind
from limbeck.sampling.preparing import Slab

_MOST_LAYERS = 60
_MOST_REPEATS = 50


def slab(atoms: Atoms, config: Slab) -> Atoms:
    """A slab of the crystal, its surface along the first two cell vectors, the third normal to it.

    The slab keeps the crystal's composition; where a crystal ends in several ways at these indices,
    ``ase.build.surface`` chooses, so polar and reconstructed surfaces belong into a file of their own.

    Raises
    ------
    InputError: the slab has no such thickness within 60 layers, or one
        repeat of it holds more than ``max_atoms`` atoms.
    """
    where = f"step slab, start {atoms.info.get('family', '')}"
    made = _cut(atoms, config, where)
    made = made.repeat((*_repeats(made, config, where), 1))
    # Both sides keep half of the gap, which makes the whole gap between periodic images.
    made.center(vacuum=config.vacuum_a / 2, axis=2)
    made.pbc = [True, True, config.periodic]
    repeat_charge(atoms, made)
    return make_frame(made, f"{atoms.info.get('family', '')}/{config.name}", "slab")


def can_be_cut(atoms: Atoms) -> bool:
    """Whether it is a crystal: periodic in three directions, without vacuum, and without molecules,
    which a plane would cut."""
    if not atoms.pbc.all() or structure_kind(atoms) != "crystal":
        return False
    return all(len(molecule) == 1 for molecule in finite_molecules(atoms))


def _cut(atoms: Atoms, config: Slab, where: str) -> Atoms:
    bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    if config.layers is not None:
        return _surface(bare, config.miller, config.layers)
    wanted = float(config.min_thickness_a or 0.0)
    layers = 1
    while layers <= _MOST_LAYERS:
        made = _surface(bare, config.miller, layers)
        thickness = float(np.ptp(heights(made, 2)))
        if thickness >= wanted - 1e-6:
            return made
        # one layer adds the spacing of the lattice planes, at least a part of what is missing
        layers += 1
    raise InputError(
        "the slab does not become thick enough",
        where=where,
        got=f"{thickness:.1f} Å with {_MOST_LAYERS} layers",
        wanted=f"min_thickness_a {wanted:g}",
        remedy="lower min_thickness_a",
    )


def _surface(bare: Atoms, miller: tuple[int, int, int], layers: int) -> Atoms:
    made = surface(bare, miller, layers)
    made.center(vacuum=10.0, axis=2)
    return made


def _repeats(made: Atoms, config: Slab, where: str) -> tuple[int, int]:
    if config.repeat is not None:
        return config.repeat
    if config.max_atoms is None:
        return 1, 1
    most = config.max_atoms // len(made)
    if not most:
        raise InputError(
            "the slab holds more atoms than it may",
            where=where,
            got=f"{len(made)} atoms in one repeat",
            wanted=f"at most max_atoms {config.max_atoms}",
            remedy="raise max_atoms, or make the slab thinner",
        )
    area = float(np.linalg.norm(np.cross(made.cell[0], made.cell[1])))
    widths = [area / float(np.linalg.norm(made.cell[k])) for k in (1, 0)]
    choices = [
        (a, b)
        for a in range(1, min(most, _MOST_REPEATS) + 1)
        for b in range(1, min(most // a, _MOST_REPEATS) + 1)
    ]
    return max(choices, key=lambda r: (round(min(r[0] * widths[0], r[1] * widths[1]), 6), -math.prod(r)))
