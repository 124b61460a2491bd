"""The steps ``md`` and ``melt``: Langevin trajectories at constant volume or at constant pressure.

- {kind: md, temperature_K: [300, 900], starts: 3, frames: 40, driver: student}
- {kind: melt, melt_K: 2500, quench_to_K: 300, pressure_gpa: 0, starts: 2}
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

from ase import Atoms
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from limbeck.core.frames import group_of
from limbeck.core.integrators import Condition
from limbeck.core.potential import Potential
from limbeck.core.trajectory import run_trajectory
from limbeck.sampling.steps import Driven, Run, RunSize


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
