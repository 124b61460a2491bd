"""Langevin dynamics at constant pressure.

Langevin-Hoover (Quigley and Probert 2004, doi:10.1063/1.1755657), propagated by BAOAB, as ASE has it:
thermostat and barostat are both stochastic, so that a few hot atoms in a small cell are sampled as
well as many, where chains of deterministic thermostats ring.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevinbaoab import LangevinBAOAB

from limbeck.errors import InputError
from limbeck.sampling.step import Condition, Dynamics
from limbeck.units import FS, GPA

#: friction on the cell, in 1 / barostat_fs: it creeps to its volume instead of ringing, or of flying past
#: it when a melt kept at its crystal's volume is released; the ensemble is the same
_DAMPING = 20.0
_ORTHOGONAL_A = 1e-6  # off-diagonal cell elements below this are rounding


class LangevinHoover(LangevinBAOAB):
    """NPT with one cell variable (the volume), or three: the lengths of an orthogonal cell.

    The equations keep dV exp(-βPV), or dLx dLy dLz exp(-βPV) with the lengths. All 3N momenta are
    thermostatted, so the centre of mass moves. The barostat's mass is that of Martyna, Tobias and
    Klein (1994), (3N + 3) kT τ², a third of it for a single length.
    """

    held = False  #: the cell, as long as no pressure is asked for

    def __init__(
        self, atoms: Atoms, config: Dynamics, condition: Condition, rng: np.random.Generator
    ) -> None:
        self.lengths = config.barostat == "lengths"
        tau = config.barostat_fs * FS
        mass = (3 * len(atoms) + 3) * units.kB * condition.temperature_K * tau**2
        super().__init__(
            atoms,
            config.timestep_fs * FS,
            temperature_K=condition.temperature_K,
            externalstress=0.0,
            hydrostatic=not self.lengths,
            T_tau=1000.0 * FS / config.friction_per_ps,
            P_tau=tau / _DAMPING,
            P_mass=mass / 3 if self.lengths else mass,
            rng=rng,
        )
        if self.lengths:
            self.p_eps = np.zeros((3, 3))
        self.set_targets(condition)

    def set_targets(self, condition: Condition) -> None:
        """Temperature and pressure from now on; the barostat keeps its mass. No pressure holds the cell."""
        self.set_temperature(condition.temperature_K)
        self.held = condition.pressure_gpa is None
        if self.held:
            self.p_eps = 0.0 * self.p_eps
        stress = -(condition.pressure_gpa or 0.0) * GPA
        self.externalstress = stress * np.eye(3) if self.lengths else stress
        self._update_force_eps()

    def advance(self) -> np.ndarray:
        """One time step; the forces after it, (N, 3), eV/Å."""
        self.step()
        return self.atoms.get_forces()

    def _update_force_eps(self) -> None:
        super()._update_force_eps()
        if self.held:
            self.force_eps: Any = 0.0 * self.force_eps
        elif self.lengths:
            self.force_eps = np.diag(np.diag(self.force_eps))

    def _barostat_BAOAB_OU(self) -> None:
        if self.held:
            return
        if not self.lengths:
            super()._barostat_BAOAB_OU()
            return
        self.p_eps = self.p_eps * np.exp(-self.barostat_gamma * self.dt)
        self.p_eps += self._barostat_BAOAB_prefactor * np.diag(self.rng.normal(size=3))

    def _barostat_BAOAB_OU_gamma_mod(self) -> Any:
        if not self.lengths:
            return super()._barostat_BAOAB_OU_gamma_mod()
        # ASE 3.29 adds the trace to every element; the equation adds it to the diagonal
        return (self.p_eps + np.trace(self.p_eps) / self.Ndof * np.eye(3)) / self.barostat_mass


def check_cell(atoms: Atoms, config: Dynamics, stress: bool, where: str) -> None:
    """Refuse what cannot be held at a pressure.

    Raises
    ------
    InputError: a driver without stress, a structure that is not periodic in three directions, a cell
        that is not orthogonal where its lengths shall move.
    """
    if not stress:
        raise InputError(
            "a pressure needs a driver with stress",
            where=where,
            got="one that gives energy and forces only",
            remedy="leave pressure_gpa out, or strain the starts instead",
        )
    if not atoms.pbc.all():
        raise InputError(
            "a pressure needs a structure that is periodic in three directions",
            where=where,
            got=f"pbc {atoms.pbc.tolist()}",
            remedy="leave pressure_gpa out",
        )
    cell = atoms.cell.array
    if config.barostat == "lengths" and np.abs(cell - np.diag(np.diag(cell))).max() > _ORTHOGONAL_A:
        raise InputError(
            "barostat: lengths needs an orthogonal cell along x, y and z",
            where=where,
            got=np.round(cell, 3).tolist(),
            remedy="barostat: isotropic, or a supercell with an orthogonal cell (matrix)",
        )
