"""The steps ``md`` and ``melt``: Langevin trajectories at constant volume or at constant pressure.

- {kind: md, temperature_K: [300, 900], starts: 3, frames: 40, driver: student}
- {kind: melt, melt_K: 2500, quench_to_K: 300, pressure_gpa: 0, starts: 2}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.constraints import FixCom
from ase.data import chemical_symbols
from ase.md.velocitydistribution import thermalize_momenta
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from limbeck.core.checks import closest_contact
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError, WorkerDied
from limbeck.sampling.frames import Trajectory, group_of, make_frame
from limbeck.sampling.integrators import Condition, FixedCell, LangevinHoover
from limbeck.sampling.steps import Driven, OnStep, Run, RunSize, Stop, wrong_periodicity

CONTACT_FRACTION = 0.4  #: of the sum of covalent radii: closer than any bond at any temperature
VOLUME_FACTOR = 2.5  #: a cell that grows or shrinks by more has boiled or collapsed (molten salts: 1.7)
#: over the target: the trajectory gains energy instead of sampling (a relaxed start begins at twice it)
TEMPERATURE_FACTOR = 3.0
_ORTHOGONAL_A = 1e-6  # off-diagonal cell elements below this are rounding
_CONTACT_EVERY = 5  # steps; atoms at 5 times the thermal velocity move 0.2 Å in that time


class Dynamics(Driven):
    """Molecular dynamics, whatever its course of temperature and pressure.

    starts: trajectories a condition, spread over the incoming frames (others at each condition) and
    used again where there are fewer; one from each frame if not given. frames: frames a trajectory.
    pressure_gpa: a pressure or several, each with trajectories of its own, in which the cell moves;
    negative for tension. barostat: ``isotropic`` scales the cell as a whole (liquids, melts, any
    cell); ``lengths`` moves the three lengths of an orthogonal cell independently, angles fixed.
    barostat_fs: the time in which the cell answers.
    from_relaxed: begin with twice the kinetic energy, which a start at its minimum shares out
    between kinetic and potential energy.
    """

    starts: PositiveInt | None = None
    frames: PositiveInt = 40
    timestep_fs: PositiveFloat = 1.0
    friction_per_ps: PositiveFloat = 10.0
    from_relaxed: bool = False
    pressure_gpa: tuple[float, ...] | float | None = None
    barostat: Literal["isotropic", "lengths"] = "isotropic"
    barostat_fs: PositiveFloat = 500.0

    outside_key: ClassVar[frozenset[str]] = frozenset(
        {"keep", "driver", "from_", "starts", "temperature_K", "pressure_gpa"}
    )
    runs_are: ClassVar[str] = "trajectories"

    @property
    def pressures(self) -> tuple[float | None, ...]:
        return self.pressure_gpa if isinstance(self.pressure_gpa, tuple) else (self.pressure_gpa,)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Each temperature at each pressure."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """Time steps of one trajectory; each is one evaluation, and one more begins it."""
        raise NotImplementedError

    def target(self, n: int, condition: Condition) -> Condition:
        """What thermostat and barostat are set to in step ``n`` (from 1)."""
        raise NotImplementedError

    @property
    def recorded(self) -> Sequence[int]:
        """The steps after which the state is a frame."""
        raise NotImplementedError

    @property
    def equilibration_steps(self) -> int:
        """Steps after which the state belongs to no temperature yet."""
        return 0

    def label(self, condition: Condition) -> str:
        """The condition in the name of a group: ``300K``, ``300-1500K``, ``300K-5GPa``."""
        raise NotImplementedError

    def runs(self, incoming: Sequence[Atoms], potential: Potential) -> list[Run]:
        runs = []
        count = self.starts or len(incoming)
        for t, condition in enumerate(self.conditions):
            about = [condition.temperature_K, condition.pressure_gpa]
            for k in range(count):
                start = incoming[spread(k, count, len(incoming), t / len(self.conditions))]
                group = f"{group_of(start)}/{self.title}-{self.label(condition)}-s{k}"
                make = partial(run_trajectory, start, potential, self, condition, group=group)
                runs.append(Run(start, (k, t), group, make, t, about))
        return runs

    def n_runs(self, n_incoming: int) -> int:
        return len(self.conditions) * (self.starts or n_incoming) if n_incoming else 0

    def size(self, n_atoms: int) -> RunSize:
        return RunSize(self.frames, self.steps + 1, self.recorded[0])


class MD(Dynamics):
    """Trajectories at constant temperature, and at constant pressure where one is given.

    temperature_K: a temperature or several, each with trajectories of its own. ramp_to_K, ramp_to_gpa:
    thermostat and barostat go linearly there after equilibration. frames: frames a trajectory,
    every_fs apart, the first every_fs after equilibrate_fs.
    """

    kind: Literal["md"] = "md"
    said: ClassVar[str] = (
        "{temperature_K} K, {ramp_to_K} K, {pressure_gpa} GPa, {ramp_to_gpa} GPa, {timestep_fs} fs"
    )
    temperature_K: tuple[PositiveFloat, ...] | PositiveFloat
    ramp_to_K: PositiveFloat | None = None
    ramp_to_gpa: float | None = None
    every_fs: PositiveFloat = 25.0
    equilibrate_fs: NonNegativeFloat = 500.0

    @model_validator(mode="after")
    def _ramp_has_a_pressure(self) -> MD:
        if self.ramp_to_gpa is not None and self.pressure_gpa is None:
            raise ValueError(
                f"md: got ramp_to_gpa {self.ramp_to_gpa:g} without pressure_gpa; wanted where the ramp begins"
            )
        return self

    @property
    def temperatures(self) -> tuple[float, ...]:
        return self.temperature_K if isinstance(self.temperature_K, tuple) else (self.temperature_K,)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(Condition(t, p) for t in self.temperatures for p in self.pressures)

    @property
    def equilibration_steps(self) -> int:
        return round(self.equilibrate_fs / self.timestep_fs)

    @property
    def spacing_steps(self) -> int:
        return max(1, round(self.every_fs / self.timestep_fs))

    @property
    def steps(self) -> int:
        return self.equilibration_steps + self.frames * self.spacing_steps

    def target(self, n: int, condition: Condition) -> Condition:
        kelvin, pressure = condition.temperature_K, condition.pressure_gpa
        first = self.equilibration_steps
        done = max(n - first, 0) / (self.steps - first)
        if self.ramp_to_K is not None:
            kelvin += (self.ramp_to_K - kelvin) * done
        if pressure is not None and self.ramp_to_gpa is not None:
            pressure += (self.ramp_to_gpa - pressure) * done
        return Condition(kelvin, pressure)

    @property
    def recorded(self) -> Sequence[int]:
        return range(self.equilibration_steps + self.spacing_steps, self.steps + 1, self.spacing_steps)

    def label(self, condition: Condition) -> str:
        ramp = "" if self.ramp_to_K is None else f"-{self.ramp_to_K:g}"
        name = f"{condition.temperature_K:g}{ramp}K"
        if condition.pressure_gpa is None:
            return name
        ramp = "" if self.ramp_to_gpa is None else f"-{self.ramp_to_gpa:g}"
        return f"{name}-{condition.pressure_gpa:g}{ramp}GPa"

    @property
    def hottest_K(self) -> float:
        return max(*self.temperatures, self.ramp_to_K or 0.0)


class Melt(Dynamics):
    """Trajectories that are heated from ``quench_to_K`` to ``melt_K``, held there, and cooled again.

    heat_fs, hold_fs, cool_fs: the lengths of the three parts, linear in temperature; settle_fs: of what
    follows at ``quench_to_K``. pressure_below_K: a pressure acts only once it has cooled so far, and
    the volume stays what it was until then: what is heated far beyond its boiling point would fly
    apart. Frames are evenly spaced over the whole; the temperature of each is the thermostat's target.
    """

    kind: Literal["melt"] = "melt"
    said: ClassVar[str] = "{melt_K} K, {quench_to_K} K, {pressure_gpa} GPa, {timestep_fs} fs"
    melt_K: PositiveFloat
    quench_to_K: PositiveFloat = 300.0
    heat_fs: PositiveFloat = 1000.0
    hold_fs: NonNegativeFloat = 2000.0
    cool_fs: PositiveFloat = 2000.0
    settle_fs: NonNegativeFloat = 0.0
    pressure_below_K: PositiveFloat | None = None

    @model_validator(mode="after")
    def _hotter(self) -> Melt:
        if self.melt_K <= self.quench_to_K:
            raise ValueError(
                f"melt: got melt_K {self.melt_K:g} and quench_to_K {self.quench_to_K:g}; "
                "wanted melt_K above quench_to_K"
            )
        if self.pressure_below_K is not None and self.pressure_below_K < self.quench_to_K:
            raise ValueError(
                f"melt: got pressure_below_K {self.pressure_below_K:g} and quench_to_K "
                f"{self.quench_to_K:g}; wanted pressure_below_K at quench_to_K or above"
            )
        if self.frames > self.steps:
            raise ValueError(
                f"melt: got {self.frames} frames; wanted at most one in each of {self.steps} steps"
            )
        return self

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(Condition(self.quench_to_K, p) for p in self.pressures)

    @property
    def steps(self) -> int:
        whole = self.heat_fs + self.hold_fs + self.cool_fs + self.settle_fs
        return max(1, round(whole / self.timestep_fs))

    def target(self, n: int, condition: Condition) -> Condition:
        at = n * self.timestep_fs
        heated = min(at / self.heat_fs, 1.0)
        cooled = min(max(at - self.heat_fs - self.hold_fs, 0.0) / self.cool_fs, 1.0)
        low = self.quench_to_K
        kelvin = low + (self.melt_K - low) * (heated - cooled)
        free = self.pressure_below_K is None or (cooled > 0 and kelvin <= self.pressure_below_K)
        return Condition(kelvin, condition.pressure_gpa if free else None)

    @property
    def recorded(self) -> Sequence[int]:
        return [-(-k * self.steps // self.frames) for k in range(1, self.frames + 1)]

    def label(self, condition: Condition) -> str:
        pressure = "" if condition.pressure_gpa is None else f"-{condition.pressure_gpa:g}GPa"
        return f"{self.melt_K:g}-{self.quench_to_K:g}K{pressure}"

    @property
    def hottest_K(self) -> float:
        return self.melt_K


def spread(k: int, wanted: int, available: int, shift: float = 0.0) -> int:
    """Which incoming frame trajectory ``k`` starts from.

    Evenly spread, moved by the part ``shift`` of their distance so that temperatures start from
    different frames; used again when too few.
    """
    return int((k + shift) * available / wanted) if wanted <= available else k % available


def run_trajectory(
    start: Atoms,
    potential: Potential,
    config: Dynamics,
    condition: Condition | float,
    rng: np.random.Generator,
    group: str,
    on_step: OnStep = lambda: None,
    stop: Stop = lambda: False,
    *,
    watch: Callable[[Atoms], str | None] = lambda frame: None,
) -> Trajectory:
    """One trajectory under one of the conditions of ``config``; a number is a temperature, K.

    Without a pressure it is Langevin dynamics with the centre of mass held by a constraint, which
    samples the NVT ensemble of the other 3N - 3 degrees of freedom exactly (ASE's ``fixcm`` does not);
    with one it is that of :class:`limbeck.sampling.integrators.LangevinHoover`. ``on_step`` is called
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
        _check_cell(atoms, config, potential, f"step {config.title}, {group}")
    atoms.calc = potential.make_calculator()
    if len(atoms) > 1 and not moving:
        atoms.set_constraint(FixCom())
    target = config.target(0, condition)
    thermalize_momenta(atoms, target.temperature_K * (2.0 if config.from_relaxed else 1.0), rng=rng)
    settings = atoms, target, config.timestep_fs, config.friction_per_ps, rng
    integrator: FixedCell | LangevinHoover = (
        LangevinHoover(*settings, config.barostat_fs, config.barostat == "lengths")
        if moving
        else FixedCell(*settings)
    )
    volume = atoms.get_volume() if moving else None
    frames: list[Atoms] = []
    recorded = set(config.recorded)

    def ended(cause: object) -> Trajectory:
        at = f"{group} ended at step {n} of {config.steps}"
        return Trajectory(frames, f"{at} with {len(frames)} of {config.frames} frames: {cause}")

    # what was molten a moment ago gives off its heat on the way to a low temperature
    origin_k = float(start.info.get("temperature_K", 0.0))
    for n in range(1, config.steps + 1):
        before, target = target, config.target(n, condition)
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
        equilibrated = n > config.equilibration_steps
        expected_k = kelvin if equilibrated else max(kelvin, origin_k)
        cause = _unphysical(atoms, forces, expected_k, record or n % _CONTACT_EVERY == 0, volume)
        if record and cause is None:
            frames.append(make_frame(atoms, group, config.title, kelvin))
            cause = watch(frames[-1])
        if cause is not None:
            return ended(cause)
        if n < config.steps and stop():
            # a frame from before the equilibration's end belongs to no temperature
            state = make_frame(atoms, group, config.title, kelvin if equilibrated else None)
            return Trajectory(frames or [state], cut=True)
    return Trajectory(frames)


def _check_cell(atoms: Atoms, config: Dynamics, potential: Potential, where: str) -> None:
    """Refuse what cannot be held at a pressure."""
    if not potential.capabilities.stress:
        raise InputError(
            "a pressure needs a driver with stress",
            where=where,
            got="one that gives energy and forces only",
            remedy="leave pressure_gpa out, or strain the starts instead",
        )
    if not atoms.pbc.all():
        what = "a pressure needs a structure that is periodic in three directions"
        raise wrong_periodicity(what, where, atoms, "leave pressure_gpa out")
    cell = atoms.cell.array
    if config.barostat == "lengths" and np.abs(cell - np.diag(np.diag(cell))).max() > _ORTHOGONAL_A:
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
