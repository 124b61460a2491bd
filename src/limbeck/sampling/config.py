"""Configuration of sampling: an ordered list of steps.

``supercell`` replaces the starting structures for every step after it. ``rattle``, ``strain`` and
``md`` draw from the starting structures, or with ``from: NAME`` from the frames of an earlier step,
and add their frames to the result unless they say ``keep: false``:

    seed: 1
    steps:
      - {kind: supercell, max_atoms: 64}
      - {kind: strain, max: 0.05, n: 8, keep: false}
      - {kind: rattle, stdev_a: [0.05, 0.1], n: 10}
      - {kind: md, from: strain, temperature_K: [300, 900, 1500], starts: 3, frames: 40}

``select`` drops those frames of an earlier step that are least worth a label: dynamics that a scout
drives costs little, so it may make more frames than the teacher is asked about.

      - {kind: md, name: pool, driver: scout, temperature_K: [300, 600], frames: 400}
      - {kind: select, of: pool, n: 200}

Without a step that adds frames the prepared starting structures themselves are the result.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

Mode = Literal["uniaxial", "volumetric", "shear", "random"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Supercell(_Frozen):
    """Replace each start by a supercell; exactly one of the four ways is given.

    repeat: repeats along the three cell vectors. matrix: integer rows P, new cell = P @ cell.
    min_length_a: the fewest repeats with every periodic width at least this, Å.
    max_atoms: the repeats with the greatest shortest width that hold at most so many atoms.
    """

    kind: Literal["supercell"] = "supercell"
    repeat: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    matrix: tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]] | None = None
    min_length_a: PositiveFloat | None = None
    max_atoms: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Supercell:
        given = [
            name
            for name in ("repeat", "matrix", "min_length_a", "max_atoms")
            if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError(
                f"supercell: got {', '.join(given) or 'nothing'}; "
                "wanted exactly one of repeat, matrix, min_length_a, max_atoms"
            )
        return self


class _Adding(_Frozen):
    """A step that adds frames.

    name: what ``from`` and the frames' family call it (the kind unless given). from: an earlier
    step whose frames it starts from. keep: whether its frames belong to the result.
    """

    name: str | None = None
    from_: str | None = Field(None, alias="from")
    keep: bool = True


class Rattle(_Adding):
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


class Strain(_Adding):
    """Random symmetric strains of the cell, positions scaled with it.

    max: greatest component. n: frames a mode and start. modes: uniaxial (one Cartesian axis),
    volumetric (all three alike), shear (one off-diagonal pair), random (all six components).
    """

    kind: Literal["strain"] = "strain"
    max: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    n: PositiveInt = 10
    modes: tuple[Mode, ...] = ("random",)


class MD(_Adding):
    """Langevin NVT trajectories.

    temperature_K: a temperature or several, each with trajectories of its own. ramp_to_K: the
    thermostat goes linearly there after equilibration. starts: trajectories a temperature, spread
    over the incoming frames (others at each temperature) and used again where there are fewer; one
    from each frame if not given.
    frames: frames a trajectory, every_fs apart, the first every_fs after equilibrate_fs.
    from_relaxed: begin with twice the kinetic energy, which a start at its minimum shares out
    between kinetic and potential energy. driver: which Potential moves the atoms; the caller
    decides what the name stands for.
    """

    kind: Literal["md"] = "md"
    temperature_K: tuple[PositiveFloat, ...] | PositiveFloat
    ramp_to_K: PositiveFloat | None = None
    starts: PositiveInt | None = None
    frames: PositiveInt = 40
    every_fs: PositiveFloat = 25.0
    equilibrate_fs: NonNegativeFloat = 500.0
    timestep_fs: PositiveFloat = 1.0
    friction_per_ps: PositiveFloat = 10.0
    from_relaxed: bool = False
    driver: Literal["teacher", "scout"] = "teacher"

    @property
    def temperatures(self) -> tuple[float, ...]:
        return self.temperature_K if isinstance(self.temperature_K, tuple) else (self.temperature_K,)

    @property
    def equilibration_steps(self) -> int:
        return round(self.equilibrate_fs / self.timestep_fs)

    @property
    def spacing_steps(self) -> int:
        return max(1, round(self.every_fs / self.timestep_fs))

    @property
    def steps(self) -> int:
        """Time steps of one trajectory; each is one evaluation, and one more begins it."""
        return self.equilibration_steps + self.frames * self.spacing_steps


class Select(_Frozen):
    """Keep the frames of an earlier step that are worth a label; the rest never were.

    of: that step; what draws ``from`` it later gets the frames that are left. n, share: how many or
    which fraction, exactly one of the two. method: ``random`` takes any; ``coverage`` those that
    together hold an environment like each of the pool's; ``farthest`` those whose environments are
    least like all others kept (by this and earlier steps).
    """

    kind: Literal["select"] = "select"
    of: str
    n: PositiveInt | None = None
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    method: Literal["random", "coverage", "farthest"] = "random"
    keep: ClassVar[bool] = False  # it adds no frames

    @model_validator(mode="after")
    def _one_number(self) -> Select:
        if (self.n is None) == (self.share is None):
            raise ValueError("select: wanted exactly one of n, share")
        return self

    def count(self, available: int) -> int:
        """How many of ``available`` frames are left."""
        if not available:
            return 0
        return min(available, self.n or max(1, round((self.share or 0.0) * available)))


Step = Annotated[Supercell | Rattle | Strain | MD | Select, Field(discriminator="kind")]


class SamplingConfig(_Frozen):
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
            if isinstance(step, Supercell):
                continue
            if isinstance(step, Select):
                if step.of not in earlier:
                    raise ValueError(
                        f"steps: {name!r} selects of {step.of!r}; "
                        f"wanted an earlier step that makes frames ({', '.join(earlier) or 'there is none'})"
                    )
                continue
            if step.from_ is not None and step.from_ not in earlier:
                raise ValueError(
                    f"steps: {name!r} draws from {step.from_!r}; "
                    f"wanted an earlier step that makes frames ({', '.join(earlier) or 'there is none'})"
                )
            earlier.append(name)
        return self


#: what a line says of a step: field -> unit
_SAID = {
    "repeat": "", "matrix": "", "min_length_a": " Å", "max_atoms": " atoms", "stdev_a": " Å", "max": "",
    "temperature_K": " K", "ramp_to_K": " K", "timestep_fs": " fs",
}  # fmt: skip


def summary(config: SamplingConfig) -> str:
    """The steps in a line: ``rattle 0.02, 0.04 Å; md 300, 600 K, 1 fs``."""
    steps = []
    for step in config.steps:
        if isinstance(step, Select):
            steps.append(f"select {step.n or f'{step.share:.0%}'} of {step.of}, {step.method}")
            continue
        values = ((getattr(step, name, None), unit) for name, unit in _SAID.items())
        said = [
            (", ".join(map(_short, value)) if isinstance(value, tuple) else _short(value)) + unit
            for value, unit in values
            if value is not None
        ]
        steps.append(f"{step.kind} {', '.join(said)}")
    return "; ".join(steps) or "the starting structures"


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
