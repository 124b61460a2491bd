"""The step ``relax``: starting structures relaxed by the teacher.

- {kind: relax, fmax_ev_per_a: 0.05, steps: 200, cell: true}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS
from pydantic import PositiveFloat, PositiveInt

from limbeck.core.checks import check_structures
from limbeck.core.potential import Potential
from limbeck.errors import InputError, LimbeckError, WorkerDied
from limbeck.sampling.frames import Trajectory, group_of, make_frame
from limbeck.sampling.steps import OnStep, Preparing, Stop, wrong_periodicity

_LONGEST_STEP_A = 0.1  # an atom; packed boxes begin far from where forces are linear


class Relax(Preparing):
    """Relax each start with the teacher.

    fmax_ev_per_a: it ends when no force is greater, or after ``steps`` steps, each one evaluation.
    cell: the cell relaxes too, to zero stress, where the teacher gives stress.
    """

    kind: Literal["relax"] = "relax"
    said: ClassVar[str] = "to {fmax_ev_per_a} eV/Å in at most {steps} steps, with the cell{cell}"
    fmax_ev_per_a: PositiveFloat = 0.05
    steps: PositiveInt = 200
    cell: bool = False

    def evaluations(self, n_starts: int) -> int:
        return n_starts * (self.steps + 1)

    def build(self, starts: Sequence[Atoms], seed: Sequence[int]) -> list[Atoms]:
        """The starts as they are: :func:`relax` needs a Potential."""
        return list(starts)


def relax(
    atoms: Atoms,
    potential: Potential,
    config: Relax,
    on_step: OnStep = lambda: None,
    stop: Stop = lambda: False,
) -> Trajectory:
    """The relaxed structure as the one frame of a trajectory, in the group of its start.

    L-BFGS (Liu and Nocedal 1989) as ASE has it; with ``cell`` by way of the Frechet derivative of
    the deformation's logarithm. ``stopped`` tells where forces stay above ``fmax_ev_per_a``.
    ``on_step`` is called after each evaluation; once ``stop()`` is true it ends where it is.

    Raises
    ------
    InputError: ``cell`` without stress or periodicity.
    LimbeckError: the Potential cannot evaluate the structure, or it comes apart.
    """
    group = group_of(atoms)
    where = f"step relax, start {group}"
    remedy = "leave 'cell: true' out"
    if config.cell and not potential.capabilities.stress:
        what = "the cell cannot relax: the teacher gives no stress"
        raise InputError(what, where=where, got=potential.name, remedy=remedy)
    if config.cell and not atoms.pbc.all():
        what = "only a cell that is periodic in three directions can relax"
        raise wrong_periodicity(what, where, atoms, remedy)
    moving = make_frame(atoms, group)
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
    relaxed = make_frame(moving, group, "relax")
    check_structures([relaxed], where)
    largest = float(forces.max())
    if largest <= config.fmax_ev_per_a:
        return Trajectory([relaxed], cut=cut)
    told = f"{group} relaxed for {optimiser.nsteps} steps: the largest force is {largest:.2g} eV/Å"
    return Trajectory([relaxed], f"{told}, wanted were {config.fmax_ev_per_a:g}", cut)
