"""The configuration of a run: what starts it, who teaches, who learns, and each stage's own part.

Stages own their configurations; here they are put together, with what only the whole run knows.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from limbeck.config.durations import format_budget, parse_budget
from limbeck.errors import InputError
from limbeck.labelling.config import LabellingConfig
from limbeck.sampling.config import SamplingConfig
from limbeck.sampling.liquids import Liquid
from limbeck.students.specification import check_preset
from limbeck.teachers.registry import get_card
from limbeck.training.config import TrainingConfig

SOURCES = ("structures", "smiles", "bulk", "liquid")
_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class Settings(BaseModel):
    """Frozen, and refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _absolute(path: Path, info: ValidationInfo) -> Path:
    """Absolute, so that the resolved configuration means the same from any folder.

    A relative path in a file is relative to that file's folder, given as the context.
    """
    return ((info.context or {}).get("folder", Path.cwd()) / os.path.expanduser(path)).absolute()


def _split_commas(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _known_presets(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        check_preset(name)
    if len(set(names)) < len(names) or not names:
        raise InputError("one or several presets are needed, each once", got=", ".join(names) or "none")
    return names


def _fraction_or_file(value: float | Path, info: ValidationInfo) -> float | Path:
    if isinstance(value, Path):
        return _absolute(value, info)
    if not 0 < value < 1:
        raise InputError(
            "not a fraction", got=f"{value:g}", wanted="more than 0 and less than 1, or a labelled file"
        )
    return value


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Presets = Annotated[
    tuple[str, ...],
    BeforeValidator(_split_commas),
    AfterValidator(_known_presets),
    Field(validate_default=True),
]
Budget = Annotated[float, BeforeValidator(parse_budget), PlainSerializer(format_budget)]
HeldBack = Annotated[float | Path, Field(union_mode="left_to_right"), AfterValidator(_fraction_or_file)]


#: K; students of hotter matter than this would be of a plasma
Temperatures = Annotated[
    tuple[Annotated[float, Field(gt=0, le=20_000, allow_inf_nan=False)], ...],
    Field(min_length=1),
    BeforeValidator(_split_commas),
]

#: minutes a preset gets where neither a budget nor epochs are given
DEFAULT_MINUTES = {"original": 40, "tiny": 20, "ultra-tiny": 15}


#: kinds of systems that sampling has a recipe for
RecipeName = Literal["crystal", "molecule", "liquid", "surface", "melt"]


class TeacherConfig(Settings):
    """Who labels.

    name: a built-in teacher or ``module:callable``, which gives any ASE calculator.
    options: keyword arguments; a model file's relative path is taken as other paths here are.
    python: interpreter of the environment that holds its package, where that is neither this one nor
    made by ``limbeck teachers install``. trust: its package may unpickle the model file that the
    options name. Processes, threads and device are said in ``labelling``.
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    python: AbsolutePath | None = None
    trust: bool = False

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if not _CALLABLE.fullmatch(name):
            get_card(name)
        return name

    @field_validator("options")
    @classmethod
    def _place_file(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        name = info.data.get("name", ":")
        key = None if ":" in name else get_card(name).file_option
        value = options.get(key) if key is not None else None
        if not isinstance(value, str) or (key == "model" and value in get_card(name).models):
            return options
        return {**options, str(key): str(_absolute(Path(value), info))}


class ValidationConfig(Settings):
    """What is run with each student after training.

    onpolicy_frames: frames of the student's own dynamics that the teacher labels (0: none),
    every onpolicy_every_fs after onpolicy_equilibrate_fs. nve_fs: length of the run without a
    thermostat that gives the drift (0: none). timestep_fs: of both; 0.5 fs where hydrogen is
    present and 1 fs elsewhere unless given. temperature_K: of both; the highest sampled unless given.
    """

    onpolicy_frames: NonNegativeInt = 20
    onpolicy_every_fs: PositiveFloat = 50.0
    onpolicy_equilibrate_fs: NonNegativeFloat = 250.0
    nve_fs: NonNegativeFloat = 1000.0
    timestep_fs: PositiveFloat | None = None
    temperature_K: PositiveFloat | None = None


class ActiveLearningConfig(Settings):
    """Active learning after the first training.

    iterations: at most; 0 for none. starts: MD runs of each student, from starting structures that are
    unchanged, compressed or stretched by ``strain`` along all axes. duration_ps: of each run.
    temperature_K: a quarter above the highest sampled unless given.
    frames_at_failure: frames from just before a failure that the teacher labels.
    frames_on_the_way: frames evenly over each run that it labels too, for the on-policy error.
    frames_beyond: frames of MD driven by an interim student from each failure on, over beyond_ps.
    deviation_factor, deviation_share: a frame is outside the training domain where the committee force
    deviation on an atom exceeds this multiple of the usual one on validation structures, and this
    share of the frame's forces.
    stable_share, force_r2: iterations end once this share of the runs is stable and on-policy forces reach
    this R².
    """

    iterations: NonNegativeInt = 0
    starts: PositiveInt = 10
    duration_ps: PositiveFloat = 20.0
    temperature_K: PositiveFloat | None = None
    strain: Annotated[float, Field(ge=0, le=0.2)] = 0.03
    frames_at_failure: PositiveInt = 8
    frames_on_the_way: PositiveInt = 4
    frames_beyond: NonNegativeInt = 8
    beyond_ps: PositiveFloat = 4.0
    deviation_factor: PositiveFloat = 3.0
    deviation_share: PositiveFloat = 0.5
    stable_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    force_r2: Annotated[float, Field(le=1)] = 0.98

    @model_validator(mode="before")
    @classmethod
    def _number_alone(cls, value: Any) -> Any:
        return {"iterations": value} if isinstance(value, int) and not isinstance(value, bool) else value


class LintConfig(Settings):
    """What lint before training passes over.

    ignore: codes of findings, as ``limbeck lint`` lists them.
    """

    ignore: tuple[str, ...] = ()

    @field_validator("ignore")
    @classmethod
    def _known(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        if codes:
            from limbeck.dataset.lint import check_codes

            check_codes(codes)
        return codes


class LabelKeys(Settings):
    """Names of the labels in a file, where they are not those ASE reads by itself."""

    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    virial_key: str | None = None

    @model_validator(mode="after")
    def _one_stress(self) -> LabelKeys:
        if self.stress_key is not None and self.virial_key is not None:
            raise InputError(
                "both --stress-key and --virial-key are given",
                got=f"{self.stress_key!r} and {self.virial_key!r}",
                wanted="one: stress = -virial / volume",
            )
        return self


class _Learning(Settings):
    """What `distill` and `train` share.

    presets: students to train. budget: seconds for the whole command. seed: of every random number
    that has no seed of its own. val: fraction of the labels, or a labelled file, that
    chooses the best weights; keys: names of the labels in that file.
    """

    presets: Presets = ("tiny",)
    budget: Budget | None = None
    seed: NonNegativeInt = 0
    val: HeldBack = 0.1
    keys: LabelKeys = LabelKeys()
    lint: LintConfig = LintConfig()
    training: TrainingConfig = TrainingConfig()

    def with_end(self) -> Self:
        """Itself, or with the default budget of its presets where nothing says when to end."""
        if self.budget is not None or self.training.epochs is not None:
            return self
        return self.model_copy(update={"budget": 60.0 * sum(DEFAULT_MINUTES[name] for name in self.presets)})


class DistillConfig(_Learning):
    """Everything ``limbeck distill`` does.

    name: of the run, for tables and cards. structures (a file, or a folder of them), smiles, bulk,
    liquid: exactly one begins the run. n_conformers: starts made from the SMILES.
    sampling, test: None lets a recipe choose; recipe: for which kind of system (evaluated from the
    structures unless given), temperatures_K: that the students are for.
    iterations: how often students learn from their own failures.
    target_force_rmse_mev_per_a: what a report recommends the cheapest preset for.
    out: the run folder.

    Raises
    ------
    pydantic.ValidationError: on construction; :func:`limbeck.config.load_config` tells it in a line.
    """

    name: str | None = None
    structures: AbsolutePath | None = None
    smiles: str | None = None
    bulk: str | None = None
    liquid: Liquid | None = None
    n_conformers: PositiveInt = 8
    teacher: TeacherConfig | None = None
    recipe: RecipeName | None = None
    temperatures_K: Temperatures | None = None
    sampling: SamplingConfig | None = None
    test: SamplingConfig | None = None
    labelling: LabellingConfig = LabellingConfig()
    validation: ValidationConfig = ValidationConfig()
    active_learning: ActiveLearningConfig = ActiveLearningConfig()
    target_force_rmse_mev_per_a: PositiveFloat | None = None
    out: AbsolutePath | None = None

    @model_validator(mode="after")
    def _one_source(self) -> DistillConfig:
        given = [source for source in SOURCES if getattr(self, source) is not None]
        if len(given) != 1:
            # told together, so that an empty file is not refused three times
            absent = [] if given else [name for name in ("teacher", "out") if getattr(self, name) is None]
            raise InputError(
                "one starting point is needed" if not given else "several starting points",
                got=", ".join(given) or (f"none, and no {' or '.join(absent)}" if absent else None),
                wanted=f"exactly one of {', '.join(SOURCES)}",
                remedy="give --structures FILE, --smiles SMILES, --bulk SYMBOL or --liquid MOLECULES",
            )
        return self

    @model_validator(mode="after")
    def _keys_of_a_file(self) -> DistillConfig:
        if self.keys != LabelKeys() and not isinstance(self.val, Path):
            raise InputError("names of labels without a file", wanted="--val FILE beside them")
        return self

    @property
    def source(self) -> str:
        """Which of ``SOURCES`` is given."""
        return next(source for source in SOURCES if getattr(self, source) is not None)

    def required_teacher(self, *, writes: bool = False) -> TeacherConfig:
        """The teacher; InputError where none is given. ``writes``: a run folder is needed as well."""
        if self.teacher is None:
            both = writes and self.out is None
            raise InputError(
                "no teacher and no run folder given" if both else "no teacher given",
                wanted="the name of a teacher" + " and a folder" * both,
                remedy=f"add --teacher NAME{' and --out RUN' * both}; see 'limbeck teachers'",
            )
        return self.teacher

    def run_folder(self) -> Path:
        """The folder to write to; InputError where none is given."""
        if self.out is None:
            raise InputError("no run folder given", wanted="a folder", remedy="add --out RUN")
        return self.out


class LabelRunConfig(Settings):
    """What ``limbeck label`` does."""

    teacher: TeacherConfig
    labelling: LabellingConfig = LabellingConfig()


class TrainRunConfig(_Learning):
    """What ``limbeck train`` does.

    init: a student whose weights training starts from.
    """

    init: AbsolutePath | None = None

    @model_validator(mode="after")
    def _one_end(self) -> TrainRunConfig:
        if self.budget is not None and self.training.epochs is not None:
            raise InputError(
                "both a budget and a number of epochs are given",
                got=f"{format_budget(self.budget)} and {self.training.epochs}",
                wanted="one of --budget and --epochs",
            )
        return self
