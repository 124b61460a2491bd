"""Configuration of sampling: an ordered list of steps.

Preparing steps (``supercell``, ``slab``, ``vacancy``, ``interstitial``, ``relax``, ``thin``; see
:mod:`limbeck.sampling.preparing`) replace the starting structures for every step after them.
``rattle``, ``strain``, ``md`` and those of :mod:`limbeck.sampling.moves` draw from the starting
structures, or with ``from: NAME`` from the frames of an earlier step, and add their frames to the
result unless they say ``keep: false``:

    seed: 1
    steps:
      - {kind: supercell, max_atoms: 64}
      - {kind: strain, max: 0.05, n: 8, keep: false}
      - {kind: rattle, stdev_a: [0.05, 0.1], n: 10}
      - {kind: md, from: strain, temperature_K: [300, 900, 1500], starts: 3, frames: 40}

Without a step that adds frames the prepared starting structures themselves are the result.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from limbeck.core.scans import is_scan
from limbeck.sampling.moves import Contacts, Melt, Modes, RattleRelax, Torsions
from limbeck.sampling.preparing import Interstitial, Preparing, Relax, Slab, Supercell, Thin, Vacancy
from limbeck.sampling.step import Adding, Condition, Dynamics, Frozen

Mode = Literal["uniaxial", "volumetric", "shear", "random"]


class Rattle(Adding):
    """Normal displacements of every coordinate.

    stdev_a: standard deviations, Å. n: frames an amplitude and start. min_ratio: no pair comes
    closer than this fraction of its sum of covalent radii.
    """

    kind: Literal["rattle"] = "rattle"
    stdev_a: tuple[PositiveFloat, ...] | PositiveFloat
    n: PositiveInt = 10
    min_ratio: Annotated[float, Field(ge=0.3, le=0.7)] = 0.6

    @property
    def amplitudes(self) -> tuple[float, ...]:
        return self.stdev_a if isinstance(self.stdev_a, tuple) else (self.stdev_a,)


class Strain(Adding):
    """Random symmetric strains of the cell, positions scaled with it.

    max: greatest component. n: frames a mode and start. modes: uniaxial (one Cartesian axis),
    volumetric (all three alike), shear (one off-diagonal pair), random (all six components).
    """

    kind: Literal["strain"] = "strain"
    max: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    n: PositiveInt = 10
    modes: tuple[Mode, ...] = ("random",)


class MD(Dynamics):
    """Trajectories at constant temperature, and at constant pressure where one is given.

    temperature_K: a temperature or several, each with trajectories of its own. ramp_to_K, ramp_to_gpa:
    thermostat and barostat go linearly there after equilibration. frames: frames a trajectory,
    every_fs apart, the first every_fs after equilibrate_fs.
    """

    kind: Literal["md"] = "md"
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

    def records(self, n: int) -> bool:
        return self.equilibrated(n) and (n - self.equilibration_steps) % self.spacing_steps == 0

    def equilibrated(self, n: int) -> bool:
        return n > self.equilibration_steps

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


Prepare = Supercell | Slab | Vacancy | Interstitial | Relax | Thin
Step = Annotated[
    Prepare | Rattle | Strain | MD | Melt | RattleRelax | Modes | Torsions | Contacts,
    Field(discriminator="kind"),
]


class SamplingConfig(Frozen):
    """What to sample; the held-out set is a second one with its own seed and starts.

    seed: with step and start it fixes every random number. start_index: which of the starting
    structures are used (all unless given). keep_starts: the prepared starts belong to the result.
    """

    seed: int = Field(0, ge=0)
    start_index: tuple[int, ...] | None = None
    keep_starts: bool = False
    steps: tuple[Step, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """A name a step: as given, else its kind, numbered from its second use on (md, md-2)."""
        names: list[str] = []
        seen: dict[str, int] = {}
        for step in self.steps:
            seen[step.kind] = seen.get(step.kind, 0) + 1
            given = getattr(step, "name", None)
            names.append(given or (step.kind if seen[step.kind] == 1 else f"{step.kind}-{seen[step.kind]}"))
        return tuple(names)

    @model_validator(mode="after")
    def _names_fit(self) -> SamplingConfig:
        earlier: list[str] = []
        for name, step in zip(self.names, self.steps, strict=True):
            if name in earlier:
                raise ValueError(f"steps: two steps are named {name!r}; give each its own name")
            if is_scan(name) and not isinstance(step, Contacts):
                raise ValueError(f"steps: {name!r} is a name for steps of kind contacts; choose another")
            if isinstance(step, Preparing):
                continue
            if step.from_ is not None and step.from_ not in earlier:
                raise ValueError(
                    f"steps: {name!r} draws from {step.from_!r}; "
                    f"wanted an earlier step that makes frames ({', '.join(earlier) or 'there is none'})"
                )
            earlier.append(name)
        return self


#: what a line says of a step that adds frames: field -> unit
_SAID = {
    "stdev_a": " Å", "max": "", "temperature_K": " K", "melt_K": " K", "ramp_to_K": " K",
    "quench_to_K": " K", "pressure_gpa": " GPa", "ramp_to_gpa": " GPa", "timestep_fs": " fs",
    "shortest_a": " Å",
}  # fmt: skip


def summary(config: SamplingConfig) -> str:
    """The steps in a line: ``rattle 0.02, 0.04 Å; md 300, 600 K, 1 fs (twice)``."""
    steps: list[str] = []
    for step in config.steps:
        if isinstance(step, Preparing):
            steps.append(f"{step.kind} {step.said}")
            continue
        values = ((getattr(step, name, None), unit) for name, unit in _SAID.items())
        said = [
            (", ".join(map(_short, value)) if isinstance(value, tuple) else _short(value)) + unit
            for value, unit in values
            if value is not None
        ]
        steps.append(f"{step.kind} {', '.join(said)}")
    runs = ((step, len(list(alike))) for step, alike in itertools.groupby(steps))
    times = {1: "", 2: " (twice)"}
    return "; ".join(step + times.get(n, f" ({n} times)") for step, n in runs) or "the starting structures"


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
