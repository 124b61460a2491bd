"""Molecular dynamics at constant energy, and the energy drift of a potential."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from limbeck.core.charge import copy_charge
from limbeck.core.potential import Potential
from limbeck.errors import InputError, LimbeckError
from limbeck.units import EV_TO_MEV, FS

DRIFT_SAMPLES = 2000  #: total energies kept at most
HOT_FACTOR, HOT_OFFSET_K = 10.0, 2000.0  #: kinetic temperature beyond which a run has exploded
#: what potentials raise on unphysical structures
EVALUATION_ERRORS = (LimbeckError, RuntimeError, ValueError, ArithmeticError)


@dataclass(frozen=True)
class DriftReport:
    """Conservation of the total energy at constant volume without a thermostat.

    Attributes
    ----------
    drift_mev_per_atom_per_ps: slope of a straight line through the total energy; None where the run
        ended before three samples.
    energy_std_mev_per_atom: standard deviation of the total energy about that line; None likewise.
    completed: the run reached its duration. reason: why not ("" where it did).
    """

    drift_mev_per_atom_per_ps: float | None
    energy_std_mev_per_atom: float | None
    completed: bool
    reason: str


def nve_drift(
    potential: Potential,
    start: Atoms,
    *,
    temperature_k: float,
    timestep_fs: float,
    duration_fs: float,
    seed: int,
) -> DriftReport:
    """Velocity-Verlet run from ``start`` with momenta drawn at ``temperature_k``; drift of its energy.

    ``start`` is not changed. An explosion or an error of the potential ends the run and is reported.

    Raises
    ------
    InputError: a duration of fewer than three steps, a timestep or temperature that is not positive.
    """
    steps = count_steps(duration_fs, timestep_fs, temperature_k)
    stride = max(1, steps // DRIFT_SAMPLES)
    atoms = Atoms(
        start.numbers, start.positions, cell=start.cell, pbc=start.pbc
    )  # no constraints, no momenta
    copy_charge(start, atoms)
    thermalize_momenta(atoms, temperature_K=temperature_k, rng=np.random.default_rng(seed))
    if len(atoms) > 1:
        Stationary(atoms)
    atoms.calc = potential.make_calculator()
    # Kinetic temperatures scatter by sqrt(2 / 3N); ten times the target is no fluctuation.
    hottest = HOT_FACTOR * temperature_k * (1 + np.sqrt(2 / (3 * len(atoms)))) + HOT_OFFSET_K
    times, energies, fault, step = [], [], "", 0
    try:
        for step, _ in enumerate(VelocityVerlet(atoms, timestep=timestep_fs * FS).irun(steps)):
            if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.get_momenta()).all()):
                fault = "positions not finite"
                break
            if (kelvin := atoms.get_temperature()) > hottest:
                fault = f"temperature rose to {kelvin:.0f} K"
                break
            if step % stride == 0:
                times.append(step * timestep_fs / 1000.0)
                energies.append(atoms.get_total_energy() / len(atoms) * EV_TO_MEV)
    except EVALUATION_ERRORS as error:
        fault = f"the potential failed ({type(error).__name__}: {error})"
    reason = f"{fault} after {step * timestep_fs:g} fs" if fault else ""
    if len(times) < 3:
        return DriftReport(None, None, completed=False, reason=reason)
    time, energy = np.array(times), np.array(energies)
    # Means are subtracted first: squares of large total energies would lose digits.
    time, energy = time - time.mean(), energy - energy.mean()
    slope = float((time * energy).sum() / (time**2).sum())
    return DriftReport(slope, float((energy - slope * time).std()), completed=not reason, reason=reason)


def count_steps(duration_fs: float, timestep_fs: float, temperature_k: float, minimum: int = 3) -> int:
    """Steps of a run; InputError unless they reach ``minimum`` and all numbers are positive."""
    if not (timestep_fs > 0 and temperature_k > 0 and round(duration_fs / timestep_fs) >= minimum):
        raise InputError(
            "invalid duration, time step or temperature of dynamics",
            got=f"{duration_fs:g} fs in steps of {timestep_fs:g} fs at {temperature_k:g} K",
            wanted=f"at least {minimum} steps",
        )
    return round(duration_fs / timestep_fs)
