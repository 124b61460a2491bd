"""Langevin trajectories driven by a Potential, at constant volume or at constant pressure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.constraints import FixCom
from ase.data import chemical_symbols
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from limbeck.core.checks import closest_contact
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError, WorkerDied
from limbeck.sampling.barostat import LangevinHoover, check_cell
from limbeck.sampling.config import MD
from limbeck.sampling.frames import make_frame
from limbeck.sampling.step import Condition, Dynamics
from limbeck.units import FS

CONTACT_FRACTION = 0.4  #: of the sum of covalent radii: closer than any bond at any temperature
VOLUME_FACTOR = 2.5  #: a cell that grows or shrinks by more has boiled or collapsed (molten salts: 1.7)
#: over the target: the trajectory gains energy instead of sampling (a relaxed start begins at twice it)
TEMPERATURE_FACTOR = 3.0
_CONTACT_EVERY = 5  # steps; atoms at 5 times the thermal velocity move 0.2 Å in that time


@dataclass(frozen=True)
class Trajectory:
    """Frames of one trajectory and, where it ended early, why.

    Attributes
    ----------
    frames: recorded frames in the order of time.
    stopped: one sentence with family, step and cause, or None for a trajectory that stayed physical.
    cut: it ended early because its time was up. left_out: it was never begun, for want of time.
    """

    frames: list[Atoms]
    stopped: str | None = None
    cut: bool = False
    left_out: bool = False


def sample_md(start: Atoms, potential: Potential, config: MD, seed: int | Sequence[int] = 0) -> list[Atoms]:
    """One trajectory a temperature from one start; the frames of all of them.

    A trajectory that becomes unphysical gives the frames before that. ``config.starts``, ``from``
    and ``keep`` concern a list of steps and are not looked at here.
    """
    family = start.info.get("family", "")
    key = [seed] if isinstance(seed, int) else list(seed)
    frames: list[Atoms] = []
    for t, condition in enumerate(config.conditions):
        rng = np.random.default_rng([*key, t])
        name = trajectory_family(family, config.name or config.kind, config, condition, 0)
        kelvin, pressure = condition.temperature_K, condition.pressure_gpa
        frames += run_trajectory(start, potential, config, kelvin, rng, name, pressure_gpa=pressure).frames
    return frames


def trajectory_family(family: str, step: str, config: Dynamics, condition: Condition, number: int) -> str:
    """``<start>/md-1500K-s3``, ``<start>/md-300-1500K-s3`` for a ramp, ``<start>/md-300K-5GPa-s0``."""
    return f"{family}/{step}-{config.label(condition)}-s{number}"


def run_trajectory(
    start: Atoms,
    potential: Potential,
    config: Dynamics,
    temperature_k: float,
    rng: np.random.Generator,
    family: str,
    on_step: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
    *,
    pressure_gpa: float | None = None,
    watch: Callable[[Atoms], str | None] = lambda frame: None,
) -> Trajectory:
    """One trajectory under one of the conditions of ``config``.

    Without a pressure it is Langevin dynamics (Vanden-Eijnden and Ciccotti 2006, as ASE integrates
    it) with the centre of mass held by a constraint, which samples the NVT ensemble of the other
    3N - 3 degrees of freedom exactly (ASE's ``fixcm`` does not); with one it is that of
    :mod:`limbeck.sampling.barostat`. ``on_step`` is called after each step
    and may raise to end the work. Once ``stop()`` is true after a step, the trajectory ends with the
    frames it has, or with its present state where it has none yet. ``watch`` sees each recorded frame
    and may end the trajectory after it by giving the cause.

    Raises
    ------
    InputError: a pressure that the start or the Potential does not allow.
    """
    condition = Condition(temperature_k, pressure_gpa)
    atoms = make_frame(start, family)
    step = str(config.name or getattr(config, "kind", "md"))
    if pressure_gpa is not None:
        check_cell(atoms, config, potential.capabilities.stress, f"step {step}, {family}")
    atoms.calc = potential.make_calculator()
    if len(atoms) > 1 and pressure_gpa is None:
        atoms.set_constraint(FixCom())
    first = config.target(0, condition)
    moving = pressure_gpa is not None
    thermalize_momenta(atoms, first.temperature_K * (2.0 if config.from_relaxed else 1.0), rng=rng)
    integrator = _integrator(atoms, config, first, rng, moving)
    volume = atoms.get_volume() if moving else None
    frames: list[Atoms] = []
    target = first
    # what was molten a moment ago gives off its heat on the way to a low temperature
    origin_k = float(start.info.get("temperature_K", 0.0))
    for n in range(1, config.steps + 1):
        coming = config.target(n, condition)
        if coming != target:
            integrator.set_targets(coming)
        target = coming
        try:
            forces = integrator.advance()
        except WorkerDied:
            raise
        except LimbeckError as error:  # one frame that the Potential cannot treat ends one trajectory
            return Trajectory(frames, _ended(family, n, config, frames, error))
        on_step()
        record = config.records(n)
        expected_k = target.temperature_K if config.equilibrated(n) else max(target.temperature_K, origin_k)
        cause = _unphysical(atoms, forces, expected_k, record or n % _CONTACT_EVERY == 0, volume)
        if cause is not None:
            return Trajectory(frames, _ended(family, n, config, frames, cause))
        if record:
            frames.append(make_frame(atoms, family, step, target.temperature_K))
            cause = watch(frames[-1])
            if cause is not None:
                return Trajectory(frames, _ended(family, n, config, frames, cause))
        if n < config.steps and stop():
            # a frame from before the equilibration's end belongs to no temperature
            reached = target.temperature_K if config.equilibrated(n) else None
            return Trajectory(frames or [make_frame(atoms, family, step, reached)], cut=True)
    return Trajectory(frames)


class _Integrator(Protocol):
    def set_targets(self, condition: Condition) -> None: ...

    def advance(self) -> np.ndarray: ...


class _FixedCell:
    """Langevin dynamics that remembers its forces."""

    def __init__(
        self, atoms: Atoms, config: Dynamics, condition: Condition, rng: np.random.Generator
    ) -> None:
        self.dynamics = Langevin(
            atoms,
            config.timestep_fs * FS,
            temperature_K=condition.temperature_K,
            friction=config.friction_per_ps / (1000.0 * FS),
            fixcm=False,
            rng=rng,
        )
        self.forces = atoms.get_forces(md=True)

    def set_targets(self, condition: Condition) -> None:
        self.dynamics.set_temperature(temperature_K=condition.temperature_K)

    def advance(self) -> np.ndarray:
        self.forces = self.dynamics.step(self.forces)
        return self.forces


def _integrator(
    atoms: Atoms, config: Dynamics, condition: Condition, rng: np.random.Generator, moving: bool
) -> _Integrator:
    """``moving``: the cell may change, now or later."""
    if not moving:
        return _FixedCell(atoms, config, condition, rng)
    return LangevinHoover(atoms, config, condition, rng)


def _ended(family: str, n: int, config: Dynamics, frames: list[Atoms], cause: object) -> str:
    at = f"{family} ended at step {n} of {config.steps}"
    return f"{at} with {len(frames)} of {config.frames} frames: {cause}"


def _unphysical(
    atoms: Atoms, forces: np.ndarray, target_k: float, contacts: bool, volume: float | None
) -> str | None:
    """Why the trajectory must not go on, or None; ``volume``: that of the start where the cell moves."""
    if not (np.isfinite(atoms.positions).all() and np.isfinite(forces).all()):
        return "positions or forces are not finite"
    if volume is not None:
        ratio = atoms.get_volume() / volume
        if not 1 / VOLUME_FACTOR <= ratio <= VOLUME_FACTOR:
            return f"the volume is {ratio:.2f} of that of the start"
    freedom = max(1, 3 * len(atoms) - 3)
    # Kinetic energy fluctuates by sqrt(2 / freedom) of itself, much for a few atoms; of a hundred
    # trajectories of ethanol that begin at twice the target, one would be over a single deviation.
    limit = TEMPERATURE_FACTOR * (1.0 + 3.0 * np.sqrt(2.0 / freedom)) * target_k
    temperature = atoms.get_temperature()
    if temperature > limit:
        return f"the temperature is {temperature:.0f} K at a target of {target_k:.0f} K"
    contact = closest_contact(StructureBatch.from_atoms([atoms]), CONTACT_FRACTION) if contacts else None
    if contact is not None:
        i, j, distance = contact
        pair = [f"atom {k} ({chemical_symbols[atoms.numbers[k]]})" for k in (i, j)]
        return f"{pair[0]} and {pair[1]} are {distance:.2f} Å apart"
    return None
