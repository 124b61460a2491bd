"""What the steps of a sampling have in common: frozen fields, frames added, a Potential that makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class Frozen(BaseModel):
    """A configuration that refuses unknown keys and never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Adding(Frozen):
    """A step that adds frames.

    name: what ``from`` and the frames' family call it (the kind unless given). from: an earlier
    step whose frames it starts from. keep: whether its frames belong to the result.
    """

    name: str | None = None
    from_: str | None = Field(None, alias="from")
    keep: bool = True


class Driven(Adding):
    """A step whose frames a Potential makes, in runs that are independent of each other.

    driver: which Potential; the caller decides what the name stands for.
    """

    driver: Literal["teacher", "scout"] = "teacher"

    #: fields of no effect on what one run gives, or given to its key in another way
    outside_key: ClassVar[frozenset[str]] = frozenset({"keep", "driver"})
    #: what its runs are called
    runs_are: ClassVar[str] = "runs"

    def n_runs(self, n_incoming: int) -> int:
        """Runs (trajectories, trees, expansions) that the step makes of so many incoming frames."""
        raise NotImplementedError

    @property
    def frames_per_run(self) -> int:
        """The most frames that a run gives."""
        raise NotImplementedError

    def evaluations_per_run(self, n_atoms: int) -> int:
        """The most evaluations of the Potential that a run of ``n_atoms`` atoms takes."""
        raise NotImplementedError

    def evaluations_to_first(self, n_atoms: int) -> int:
        """Evaluations until a run has its first frame: with fewer it is in vain."""
        return self.evaluations_per_run(n_atoms)

    @property
    def hottest_K(self) -> float | None:
        """Highest temperature that its frames sample; None for a step without temperature."""
        return None


@dataclass(frozen=True)
class Condition:
    """What a trajectory is held at: temperature, K, and pressure, GPa (None: its cell is fixed)."""

    temperature_K: float
    pressure_gpa: float | None = None


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

    def records(self, n: int) -> bool:
        """Whether the state after step ``n`` is a frame."""
        raise NotImplementedError

    def equilibrated(self, n: int) -> bool:
        """Whether the state after step ``n`` belongs to its temperature."""
        raise NotImplementedError

    def label(self, condition: Condition) -> str:
        """The condition in the name of a family: ``300K``, ``300-1500K``, ``300K-5GPa``."""
        raise NotImplementedError

    def n_runs(self, n_incoming: int) -> int:
        return len(self.conditions) * (self.starts or n_incoming) if n_incoming else 0

    @property
    def frames_per_run(self) -> int:
        return self.frames

    def evaluations_per_run(self, n_atoms: int) -> int:
        return self.steps + 1

    def evaluations_to_first(self, n_atoms: int) -> int:
        return next(n for n in range(1, self.steps + 1) if self.records(n))
