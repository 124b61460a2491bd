"""Langevin dynamics in a fixed cell, as ASE integrates it, and at constant pressure.

Langevin-Hoover (Quigley and Probert 2004, doi:10.1063/1.1755657), propagated by BAOAB (Leimkuhler and
Matthews 2013, doi:10.1063/1.4802990): thermostat and barostat are both stochastic, so that a few hot atoms
in a small cell are sampled as well as many, where chains of deterministic thermostats ring. ASE's
LangevinBAOAB has no cell of which the lengths alone move.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin

from limbeck.units import FS, GPA

#: friction on the cell, in 1 / barostat_fs: it creeps to its volume instead of ringing, or of flying past
#: it when a melt kept at its crystal's volume is released; the ensemble is the same
_DAMPING = 20.0


@dataclass(frozen=True)
class Condition:
    """What a trajectory is held at: temperature, K, and pressure, GPa (None: its cell is fixed)."""

    temperature_K: float
    pressure_gpa: float | None = None


class FixedCell:
    """Langevin dynamics (Vanden-Eijnden and Ciccotti 2006) that remembers its forces."""

    def __init__(
        self,
        atoms: Atoms,
        condition: Condition,
        timestep_fs: float,
        friction_per_ps: float,
        rng: np.random.Generator,
    ) -> None:
        self.dynamics = Langevin(
            atoms,
            timestep_fs * FS,
            temperature_K=condition.temperature_K,
            friction=friction_per_ps / (1000.0 * FS),
            fixcm=False,
            rng=rng,
        )
        self.forces = atoms.get_forces(md=True)

    def set_targets(self, condition: Condition) -> None:
        self.dynamics.set_temperature(temperature_K=condition.temperature_K)

    def advance(self) -> np.ndarray:
        """One time step; the forces after it, (N, 3), eV/Å."""
        self.forces = self.dynamics.step(self.forces)
        return self.forces


class LangevinHoover:
    """NPT with one cell variable (the volume), or three: the lengths of an orthogonal cell.

    With the strain momenta p of mass W, one an axis or one for all, positions r, cell rows h, masses m, Nf
    degrees of freedom, K_a = sum m v_a², pressure P and the virial -V s_a of the stress s:

        dr_a/dt = v_a + (p_a / W) r_a            dh_a/dt = (p_a / W) h_a
        m dv_a/dt = F_a - (p_a + sum p / Nf) / W m v_a        + friction and noise
        dp_a/dt = K_a - V s_a - P V + sum K / Nf              + friction and noise

    summed over the axes for a single p. Without friction they conserve kinetic and potential energy,
    PV and p² / 2W together. They keep dV exp(-βPV), or dLx dLy dLz exp(-βPV) with the lengths. All 3N
    momenta are thermostatted, so the centre of mass moves. W is that of Martyna, Tobias and Klein (1994),
    (3N + 3) kT τ², a third of it for a single length.
    """

    def __init__(
        self,
        atoms: Atoms,
        condition: Condition,
        timestep_fs: float,
        friction_per_ps: float,
        rng: np.random.Generator,
        barostat_fs: float,
        lengths: bool = False,
    ) -> None:
        self.atoms, self.rng, self.lengths = atoms, rng, lengths
        self.dt, tau = timestep_fs * FS, barostat_fs * FS
        self.friction, self.cell_friction = friction_per_ps / (1000.0 * FS), _DAMPING / tau
        self.freedom = 3 * len(atoms)
        mass = (self.freedom + 3) * units.kB * condition.temperature_K * tau**2
        self.mass = mass / 3 if lengths else mass
        self.momentum = np.zeros(3 if lengths else 1)  # of the strain, eV·(ASE's time)
        self.forces = atoms.get_forces()
        self.set_targets(condition)

    def set_targets(self, condition: Condition) -> None:
        """Temperature and pressure from now on; the barostat keeps its mass. No pressure holds the cell."""
        self.kt = units.kB * condition.temperature_K
        self.held = condition.pressure_gpa is None
        self.pressure = (condition.pressure_gpa or 0.0) * GPA
        if self.held:
            self.momentum[:] = 0.0
        self.pull = self._pull()

    def advance(self) -> np.ndarray:
        """One time step of BAOAB; the forces after it, (N, 3), eV/Å."""
        self._kick_cell()
        self._kick_atoms()
        self._strain()
        self._drift()
        self._damp()
        self._drift()
        self._strain()
        self.forces = self.atoms.get_forces()
        self._kick_atoms()
        self.pull = self._pull()  # also that of the next step's first kick: nothing moves in between
        self._kick_cell()
        return self.forces

    def _pull(self) -> np.ndarray:
        """dp/dt without friction, (1,) or (3,), eV."""
        if self.held:
            return np.zeros_like(self.momentum)
        volume, velocities = self.atoms.get_volume(), self.atoms.get_velocities()
        kinetic = (self.atoms.get_masses()[:, None] * velocities**2).sum(axis=0)  # (3,)
        stress = np.diag(self.atoms.get_stress(voigt=False))
        pull = kinetic - volume * (stress + self.pressure) + kinetic.sum() / self.freedom
        return pull if self.lengths else pull.sum(keepdims=True)

    def _kick_cell(self) -> None:
        self.momentum = self.momentum + 0.5 * self.dt * self.pull

    def _kick_atoms(self) -> None:
        self.atoms.set_momenta(self.atoms.get_momenta() + 0.5 * self.dt * self.forces)

    def _strain(self) -> None:
        if not self.held:
            factor = np.exp(0.5 * self.dt * self.momentum / self.mass)  # (1,) or (3,), along x, y, z
            self.atoms.set_cell(self.atoms.cell.array * factor)
            self.atoms.positions *= factor

    def _drift(self) -> None:
        self.atoms.positions += 0.5 * self.dt * self.atoms.get_velocities()

    def _damp(self) -> None:
        """Friction and noise, exactly: of the atoms, with the drag of the cell, then of the cell."""
        axes = np.broadcast_to(self.momentum, 3)
        drag = (axes + axes.sum() / self.freedom) / self.mass  # (3,)
        momenta = self.atoms.get_momenta() * np.exp(-(self.friction + drag) * self.dt)
        spread = np.sqrt(self.kt * -np.expm1(-2.0 * self.friction * self.dt) * self.atoms.get_masses())
        self.atoms.set_momenta(momenta + spread[:, None] * self.rng.normal(size=momenta.shape))
        if not self.held:
            decay = np.exp(-self.cell_friction * self.dt)
            spread_cell = np.sqrt(self.kt * self.mass * (1.0 - decay**2))
            self.momentum = decay * self.momentum + spread_cell * self.rng.normal(size=self.momentum.shape)
