"""A trajectory under a thermostat, and a barostat where a pressure is given, until it is unphysical."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from ase import Atoms
from ase.constraints import FixCom
from ase.data import chemical_symbols
from ase.md.velocitydistribution import thermalize_momenta

from limbeck.core.checks import closest_contact
from limbeck.core.frames import Trajectory, make_frame
from limbeck.core.integrators import Condition, FixedCell, LangevinHoover
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError, WorkerDied

OnStep = Callable[[], None]  #: called after each evaluation; may raise to end the work
Stop = Callable[[], bool]  #: whether to end with what there is

CONTACT_FRACTION = 0.4  #: of the sum of covalent radii: closer than any bond at any temperature
_ORTHOGONAL_A = 1e-6  # off-diagonal cell elements below this are rounding
VOLUME_FACTOR = 2.5  #: a cell that grows or shrinks by more has boiled or collapsed (molten salts: 1.7)
#: over the target: the trajectory gains energy instead of sampling (a relaxed start begins at twice it)
TEMPERATURE_FACTOR = 3.0
_CONTACT_EVERY = 5  # steps; atoms at 5 times the thermal velocity move 0.2 Å in that time


class Course(Protocol):
    """What a trajectory goes through.

    ``title``: config_type of its frames. ``steps``: of the whole; the state after each of ``recorded`` is a
    frame. ``equilibration_steps``: after which the state has a temperature. ``from_relaxed``: begin
    with twice the kinetic energy, which a start at its minimum shares with the potential energy.
    """

    @property
    def title(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def recorded(self) -> Sequence[int]: ...
    @property
    def equilibration_steps(self) -> int: ...
    @property
    def timestep_fs(self) -> float: ...
    @property
    def friction_per_ps(self) -> float: ...
    @property
    def from_relaxed(self) -> bool: ...
    @property
    def barostat(self) -> str: ...
    @property
    def barostat_fs(self) -> float: ...
    def target(self, n: int, condition: Condition) -> Condition:
        """What thermostat and barostat are set to in step ``n`` (from 1)."""


@dataclass(frozen=True)
class Constant:
    """A course at constant conditions: ``frames`` that are ``every_fs`` apart, after ``equilibrate_fs``."""

    title: str
    frames: int
    timestep_fs: float
    every_fs: float
    equilibrate_fs: float = 0.0
    friction_per_ps: float = 10.0
    from_relaxed: ClassVar[bool] = False
    barostat: ClassVar[str] = "isotropic"
    barostat_fs: ClassVar[float] = 500.0

    @property
    def equilibration_steps(self) -> int:
        return round(self.equilibrate_fs / self.timestep_fs)

    @property
    def steps(self) -> int:
        return self.equilibration_steps + self.frames * self._spacing

    @property
    def recorded(self) -> Sequence[int]:
        return range(self.equilibration_steps + self._spacing, self.steps + 1, self._spacing)

    @property
    def _spacing(self) -> int:
        return max(1, round(self.every_fs / self.timestep_fs))

    def target(self, n: int, condition: Condition) -> Condition:
        return condition


def run_trajectory(
    start: Atoms,
    potential: Potential,
    course: Course,
    condition: Condition | float,
    rng: np.random.Generator,
    group: str,
    on_step: OnStep = lambda: None,
    stop: Stop = lambda: False,
    *,
    watch: Callable[[Atoms], str | None] = lambda frame: None,
) -> Trajectory:
    """One trajectory under one of the conditions of ``course``; a number is a temperature, K.

    Without a pressure it is Langevin dynamics with the centre of mass held by a constraint, which
    samples the NVT ensemble of the other 3N - 3 degrees of freedom exactly (ASE's ``fixcm`` does not);
    with one it is that of :class:`limbeck.core.integrators.LangevinHoover`. ``on_step`` is called
    after each step and may raise to end the work. Once ``stop()`` is true after a step, the trajectory
    ends with the frames it has, or with its present state where it has none yet. ``watch`` sees each
    recorded frame and may end the trajectory after it by giving the cause.

    Raises
    ------
    InputError: a pressure that the start or the Potential does not allow.
    """
    if isinstance(condition, float | int):
        condition = Condition(condition)
    moving = condition.pressure_gpa is not None  # the cell may change, now or later
    atoms = make_frame(start, group)
    if moving:
        _check_cell(atoms, course, potential, f"step {course.title}, {group}")
    atoms.calc = potential.make_calculator()
    if len(atoms) > 1 and not moving:
        atoms.set_constraint(FixCom())
    target = course.target(0, condition)
    thermalize_momenta(atoms, target.temperature_K * (2.0 if course.from_relaxed else 1.0), rng=rng)
    settings = atoms, target, course.timestep_fs, course.friction_per_ps, rng
    integrator: FixedCell | LangevinHoover = (
        LangevinHoover(*settings, course.barostat_fs, course.barostat == "lengths")
        if moving
        else FixedCell(*settings)
    )
    volume = atoms.get_volume() if moving else None
    frames: list[Atoms] = []
    recorded = set(course.recorded)

    def ended(cause: object) -> Trajectory:
        at = f"{group} ended at step {n} of {course.steps}"
        return Trajectory(frames, f"{at} with {len(frames)} of {len(recorded)} frames: {cause}")

    # what was molten a moment ago gives off its heat on the way to a low temperature
    origin_k = float(start.info.get("temperature_K", 0.0))
    for n in range(1, course.steps + 1):
        before, target = target, course.target(n, condition)
        if target != before:
            integrator.set_targets(target)
        try:
            forces = integrator.advance()
        except WorkerDied:
            raise
        except LimbeckError as error:  # one frame that the Potential cannot treat ends one trajectory
            return ended(error)
        on_step()
        record, kelvin = n in recorded, target.temperature_K
        equilibrated = n > course.equilibration_steps
        expected_k = kelvin if equilibrated else max(kelvin, origin_k)
        cause = _unphysical(atoms, forces, expected_k, record or n % _CONTACT_EVERY == 0, volume)
        if record and cause is None:
            frames.append(make_frame(atoms, group, course.title, kelvin))
            cause = watch(frames[-1])
        if cause is not None:
            return ended(cause)
        if n < course.steps and stop():
            # a frame from before the equilibration's end belongs to no temperature
            state = make_frame(atoms, group, course.title, kelvin if equilibrated else None)
            return Trajectory(frames or [state], cut=True)
    return Trajectory(frames)


def _check_cell(atoms: Atoms, course: Course, potential: Potential, where: str) -> None:
    """Refuse what cannot be held at a pressure."""
    if not potential.capabilities.stress:
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
    if course.barostat == "lengths" and np.abs(cell - np.diag(np.diag(cell))).max() > _ORTHOGONAL_A:
        raise InputError(
            "barostat: lengths needs an orthogonal cell along x, y and z",
            where=where,
            got=np.round(cell, 3).tolist(),
            remedy="barostat: isotropic, or a supercell with an orthogonal cell (matrix)",
        )


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
