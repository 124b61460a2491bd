"""Langevin NVT trajectories driven by a Potential."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
from limbeck.sampling.config import MD
from limbeck.sampling.frames import make_frame
from limbeck.units import FS

CONTACT_FRACTION = 0.4  #: of the sum of covalent radii: closer than any bond at any temperature
TEMPERATURE_FACTOR = 5.0  #: over the target: the trajectory gains energy instead of sampling
_CONTACT_EVERY = 5  # steps; atoms at 5 times the thermal velocity move 0.2 Å in that time


@dataclass(frozen=True)
class Trajectory:
    """Frames of one trajectory and, where it ended early, why.

    Attributes
    ----------
    frames: recorded frames in the order of time.
    stopped: one sentence with family, step and cause, or None for a trajectory that stayed physical.
    cut: it ended early because its time was up.
    """

    frames: list[Atoms]
    stopped: str | None = None
    cut: bool = False


def sample_md(start: Atoms, potential: Potential, config: MD, seed: int | Sequence[int] = 0) -> list[Atoms]:
    """One trajectory a temperature from one start; the frames of all of them.

    A trajectory that becomes unphysical gives the frames before that. ``config.starts``, ``from``
    and ``keep`` concern a list of steps and are not looked at here.
    """
    family = start.info.get("family", "")
    key = [seed] if isinstance(seed, int) else list(seed)
    frames: list[Atoms] = []
    for t, temperature in enumerate(config.temperatures):
        rng = np.random.default_rng([*key, t])
        name = trajectory_family(family, config.name or config.kind, config, temperature, 0)
        frames += run_trajectory(start, potential, config, temperature, rng, name).frames
    return frames


def trajectory_family(family: str, step: str, config: MD, temperature_k: float, number: int) -> str:
    """``<start>/md-1500K-s3``, or ``<start>/md-300-1500K-s3`` for a ramp."""
    ramp = "" if config.ramp_to_K is None else f"-{config.ramp_to_K:g}"
    return f"{family}/{step}-{temperature_k:g}{ramp}K-s{number}"


def run_trajectory(
    start: Atoms,
    potential: Potential,
    config: MD,
    temperature_k: float,
    rng: np.random.Generator,
    family: str,
    on_step: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
    watch: Callable[[Atoms], str | None] = lambda frame: None,
) -> Trajectory:
    """One Langevin trajectory (Vanden-Eijnden and Ciccotti 2006, as ASE integrates it).

    The centre of mass is held by a constraint, which samples the NVT ensemble of the other 3N - 3
    degrees of freedom exactly (ASE's ``fixcm`` does not). ``on_step`` is called after each step
    and may raise to end the work. Once ``stop()`` is true after a step, the trajectory ends with the
    frames it has, or with its present state where it has none yet. ``watch`` sees each recorded frame
    and may end the trajectory after it by giving the cause.
    """
    atoms = make_frame(start, family)
    atoms.calc = potential.make_calculator()
    if len(atoms) > 1:
        atoms.set_constraint(FixCom())
    step = config.name or config.kind
    thermalize_momenta(atoms, temperature_k * (2.0 if config.from_relaxed else 1.0), rng=rng)
    dynamics = Langevin(
        atoms,
        config.timestep_fs * FS,
        temperature_K=temperature_k,
        friction=config.friction_per_ps / (1000.0 * FS),
        fixcm=False,
        rng=rng,
    )
    forces = atoms.get_forces(md=True)
    frames: list[Atoms] = []
    target = temperature_k
    first, spacing = config.equilibration_steps, config.spacing_steps
    for n in range(1, config.steps + 1):
        if config.ramp_to_K is not None and n > first:
            target = temperature_k + (config.ramp_to_K - temperature_k) * (n - first) / (config.steps - first)
            dynamics.set_temperature(temperature_K=target)
        try:
            forces = dynamics.step(forces)
        except WorkerDied:
            raise
        except LimbeckError as error:  # one frame that the Potential cannot treat ends one trajectory
            at = f"{family} ended at step {n} of {config.steps}"
            return Trajectory(frames, f"{at} with {len(frames)} of {config.frames} frames: {error}")
        on_step()
        record = n > first and (n - first) % spacing == 0
        cause = _unphysical(atoms, forces, target, contacts=record or n % _CONTACT_EVERY == 0)
        if cause is not None:
            at = f"{family} ended at step {n} of {config.steps}"
            return Trajectory(frames, f"{at} with {len(frames)} of {config.frames} frames: {cause}")
        if record:
            frames.append(make_frame(atoms, family, step, target))
            cause = watch(frames[-1])
            if cause is not None:
                at = f"{family} ended at step {n} of {config.steps}"
                return Trajectory(frames, f"{at} with {len(frames)} of {config.frames} frames: {cause}")
        if n < config.steps and stop():
            # a frame from before the equilibration's end belongs to no temperature
            reached = target if n > first else None
            return Trajectory(frames or [make_frame(atoms, family, step, reached)], cut=True)
    return Trajectory(frames)


def _unphysical(atoms: Atoms, forces: np.ndarray, target_k: float, contacts: bool) -> str | None:
    """Why the trajectory must not go on, or None."""
    if not (np.isfinite(atoms.positions).all() and np.isfinite(forces).all()):
        return "positions or forces are not finite"
    freedom = max(1, 3 * len(atoms) - 3)
    # Kinetic energy fluctuates by sqrt(2 / freedom) of itself, much for a few atoms.
    limit = TEMPERATURE_FACTOR * (1.0 + np.sqrt(2.0 / freedom)) * target_k
    temperature = atoms.get_temperature()
    if temperature > limit:
        return f"the temperature is {temperature:.0f} K at a target of {target_k:.0f} K"
    contact = closest_contact(StructureBatch.from_atoms([atoms]), CONTACT_FRACTION) if contacts else None
    if contact is not None:
        i, j, distance = contact
        pair = [f"atom {k} ({chemical_symbols[atoms.numbers[k]]})" for k in (i, j)]
        return f"{pair[0]} and {pair[1]} are {distance:.2f} Å apart"
    return None
