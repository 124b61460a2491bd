"""Structures relaxed by a Potential."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS

from limbeck.core.checks import check_structures
from limbeck.core.hashing import hash_json, hash_structure
from limbeck.core.potential import Potential
from limbeck.errors import InputError, LimbeckError, WorkerDied
from limbeck.sampling.dynamics import Trajectory
from limbeck.sampling.frames import make_frame
from limbeck.sampling.preparing import Relax

_FORMAT = 1  # raised when the same settings come to mean another structure
_LONGEST_STEP_A = 0.1  # an atom; packed boxes begin far from where forces are linear


def relax(
    atoms: Atoms,
    potential: Potential,
    config: Relax,
    on_step: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> Trajectory:
    """The relaxed structure as the one frame of a trajectory, in the family of its start.

    L-BFGS (Liu and Nocedal 1989) as ASE has it; with ``cell`` by way of the Frechet derivative of
    the deformation's logarithm. ``stopped`` tells where forces stay above ``fmax_ev_per_a``.
    ``on_step`` is called after each evaluation; once ``stop()`` is true it ends where it is.

    Raises
    ------
    InputError: ``cell`` without stress or periodicity.
    LimbeckError: the Potential cannot evaluate the structure, or it comes apart.
    """
    family = atoms.info.get("family", "")
    where = f"step relax, start {family}"
    if config.cell:
        _check_cell(atoms, potential, where)
    moving = make_frame(atoms, family)
    moving.calc = potential.make_calculator()
    target: Any = FrechetCellFilter(moving) if config.cell else moving
    optimiser = LBFGS(target, logfile=None, maxstep=_LONGEST_STEP_A)
    cut = False
    try:
        for _ in optimiser.irun(fmax=config.fmax_ev_per_a, steps=config.steps):
            on_step()
            cut = stop()
            if cut:
                break
        forces = np.linalg.norm(target.get_forces(), axis=1)
    except WorkerDied:
        raise
    except LimbeckError as error:
        raise LimbeckError(f"cannot relax the structure: {error.what}", where=where, got=error.got) from error
    if not (np.isfinite(forces).all() and np.isfinite(moving.positions).all()):
        raise LimbeckError("relaxing gave forces that are not finite", where=where)
    relaxed = make_frame(moving, family, "relax")
    check_structures([relaxed], where)
    largest = float(forces.max())
    reached = largest <= config.fmax_ev_per_a
    steps = optimiser.nsteps
    told = f"{family} relaxed for {steps} steps: the largest force is {largest:.2g} eV/Å, "
    told += f"wanted were {config.fmax_ev_per_a:g}"
    return Trajectory([relaxed], None if reached else told, cut)


def relax_key(atoms: Atoms, potential: Potential, config: Relax) -> str:
    """What the relaxed structure depends on, as a hash: structure, settings and the Potential's identity."""
    identity = getattr(potential, "identity", None)
    parts = [_FORMAT, config.model_dump(), hash_structure(atoms), potential.name]
    return hash_json([*parts, *([asdict(identity)] if identity else [])])


def _check_cell(atoms: Atoms, potential: Potential, where: str) -> None:
    if not potential.capabilities.stress:
        raise InputError(
            "the cell cannot relax: the teacher gives no stress",
            where=where,
            got=potential.name,
            remedy="leave 'cell: true' out",
        )
    if not atoms.pbc.all():
        raise InputError(
            "only a cell that is periodic in three directions can relax",
            where=where,
            got=f"pbc {atoms.pbc.tolist()}",
            remedy="leave 'cell: true' out",
        )
