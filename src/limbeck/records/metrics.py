"""What evaluation found, as metrics.json holds it: students, splits, groups, errors.

A file may come from another program or be cut short, so ``from_json`` takes what fits: finite numbers
where numbers belong, words where words do. Facts without a field of their own are carried in ``more``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

from limbeck.core.earlier import with_new_keys
from limbeck.core.labels import Labels

RUN = "run"  #: in metrics.json the key of facts that are no errors; the name of no preset and no split
TEST, VALIDATION, ON_POLICY = "test", "validation", "on_policy"
GIVEN = "given"  #: the split of labels that a command was given to compare the students on
RESOLVED_MEV_PER_A = 0.05  #: what single precision leaves of a force when far atoms move
T = TypeVar("T")


@dataclass(frozen=True)
class Errors:
    """Errors over structures; None where one is not defined or was not measured.

    Energies in meV/atom, forces in meV/Å, stress in meV/Å³; their formulas: `limbeck.validation.metrics`.
    """

    energy_mae_mev_per_atom: float | None = None
    energy_rmse_mev_per_atom: float | None = None
    force_mae_mev_per_a: float | None = None
    force_rmse_mev_per_a: float | None = None
    force_r2: float | None = None
    force_cosine: float | None = None
    stress_mae_mev_per_a3: float | None = None
    n_structures: int | None = None
    n_atoms: int | None = None

    def to_json(self) -> dict[str, float | int | None]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


METRIC_KEYS = tuple(one.name for one in fields(Errors))
#: an element has no energy and no stress of its own
_OF_ELEMENT = tuple(key for key in METRIC_KEYS if key.startswith(("force_", "n_")))


@dataclass(frozen=True)
class GroupedErrors:
    """Errors on one split: over everything, and by element, group and temperature (``"300"``, K)."""

    all: Errors
    by_element: dict[str, Errors] = field(default_factory=dict)
    by_config_type: dict[str, Errors] = field(default_factory=dict)
    by_temperature: dict[str, Errors] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            group: {name: errors.to_json() for name, errors in getattr(self, group).items()}
            for group in ("by_element", "by_config_type", "by_temperature")
        }
        for name, errors in found["by_element"].items():
            found["by_element"][name] = {key: errors[key] for key in _OF_ELEMENT}
        return {"all": self.all.to_json()} | found

    @classmethod
    def from_json(cls, value: Any) -> GroupedErrors:
        held = as_dict(value)
        groups = {
            one.name: {name: read(Errors, errors) for name, errors in as_dict(held.get(one.name)).items()}
            for one in fields(cls)[1:]
        }
        return cls(read(Errors, held.get("all")), **groups)


@dataclass(frozen=True)
class WorstFrame:
    """One of the structures with the largest force errors.

    Attributes
    ----------
    index: its number in the file of the labels (``LabelledSet.frame``).
    group, config_type, temperature_k: where it came from.
    force_rmse_mev_per_a, energy_error_mev_per_atom: of this structure (energy: signed).
    worst_atom: index within the structure of the atom with the largest |F' - F|.
    worst_element: its symbol. worst_force_error_mev_per_a: its |F' - F|.
    """

    index: int
    group: str
    config_type: str
    temperature_k: float | None
    force_rmse_mev_per_a: float
    energy_error_mev_per_atom: float
    worst_atom: int
    worst_element: str
    worst_force_error_mev_per_a: float


@dataclass(frozen=True)
class ValidationReport:
    """Errors by group, predictions, worst frames; ``worst_places``: where those stand in the labelled set."""

    errors: GroupedErrors
    prediction: Labels
    worst: tuple[WorstFrame, ...]
    worst_places: tuple[int, ...]

    @property
    def metrics(self) -> dict[str, Any]:
        """``errors`` as metrics.json has them for one split."""
        return self.errors.to_json()


@dataclass(frozen=True)
class LongRangeReport:
    """Change of forces when atoms beyond a radius move.

    Attributes
    ----------
    radius_a: Å. displacement_a: standard deviation of each coordinate beyond it, Å.
    force_rms_mev_per_a: rms change of a force component of the probes, meV/Å; None where not tested.
    share: that over the rms force component of the whole structures; None where those have no forces.
    n_atoms_probed: probe atoms, one an evaluation. n_atoms: atoms of the widest structure evaluated.
    reason: why it was not tested, or not to the end ("" otherwise).
    """

    radius_a: float
    displacement_a: float
    force_rms_mev_per_a: float | None = None
    share: float | None = None
    n_atoms_probed: int = 0
    n_atoms: int = 0
    reason: str = ""

    def text(self, *, reason: bool = True) -> str:
        """One line for cards and reports; ``reason``: says why nothing was measured."""
        beyond = f"teacher's forces beyond {self.radius_a:.1f} Å"
        if self.force_rms_mev_per_a is None:
            return f"{beyond}: not measured" + (f", {self.reason}" if reason else "")
        change = self.force_rms_mev_per_a
        resolved = change >= RESOLVED_MEV_PER_A
        size = f"{change:.1f}" if resolved else f"below {RESOLVED_MEV_PER_A:g}"
        share = "" if self.share is None or not resolved else f" ({100 * self.share:.2g}% of the rms force)"
        return f"{beyond}: {size} meV/Å rms when atoms there move by {self.displacement_a:g} Å{share}"


@dataclass(frozen=True)
class OnPolicyFacts:
    """How MD driven by the student went: ``stable`` to its end, or not and why."""

    temperature_k: float | None = None
    stable: bool | None = None
    reason: str = ""


@dataclass(frozen=True)
class DriftFacts:
    """Energy drift without a thermostat, and the run that it was measured on."""

    drift_mev_per_atom_per_ps: float | None = None
    energy_std_mev_per_atom: float | None = None
    completed: bool | None = None
    reason: str = ""
    temperature_k: float | None = None
    timestep_fs: float | None = None
    duration_fs: float | None = None


@dataclass(frozen=True)
class StudentMetrics:
    """One student: errors by split, and facts that are no errors (under ``run`` in the file).

    ``threads``: of student and teacher alike. ``compression``: the teacher's parameters over its own.
    ``break_even_steps``: MD steps after which the run has taken less time than the teacher's MD would.
    """

    splits: dict[str, GroupedErrors] = field(default_factory=dict)
    parameters: int | None = None
    file_kb: float | None = None
    compression: float | None = None
    atoms_per_s: float | None = None
    speedup: float | None = None
    break_even_steps: int | None = None
    threads: int | None = None
    on_policy: OnPolicyFacts | None = None
    nve: DriftFacts | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def errors(self, split: str) -> Errors:
        """Errors on the whole of a split; none where the student was not evaluated on it."""
        return self.splits[split].all if split in self.splits else Errors()

    @property
    def training_loss(self) -> float | None:
        """At the end of training."""
        loss = as_dict(self.more.get("training")).get("training_loss")
        return loss if is_number(loss) else None

    def to_json(self) -> dict[str, Any]:
        return {split: errors.to_json() for split, errors in self.splits.items()} | {
            RUN: _facts(self, "splits")
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> StudentMetrics:
        facts = as_dict(value.get(RUN))
        parts = {"on_policy": OnPolicyFacts, "nve": DriftFacts}
        return replace(
            read(cls, facts),
            splits={
                split: GroupedErrors.from_json(part)
                for split, part in value.items()
                if split != RUN and "all" in as_dict(part)
            },
            more=_more(cls, facts),
            **{key: read(record, facts[key]) for key, record in parts.items() if as_dict(facts.get(key))},
        )


@dataclass(frozen=True)
class TeacherFacts:
    """The teacher as the run knows it; its rate on ``device`` with ``threads`` beside the students'."""

    name: str = ""
    parameters: int | None = None
    atoms_per_s: float | None = None
    threads: int | None = None
    device: str = ""
    long_range: tuple[LongRangeReport, ...] = ()


@dataclass(frozen=True)
class Metrics:
    """A run's metrics.json. ``speed_atoms``: of the structure that rates at the end of the run are of."""

    students: dict[str, StudentMetrics]
    name: str = ""
    command: str = ""
    speed_atoms: int | None = None
    teacher: TeacherFacts = field(default_factory=TeacherFacts)
    more: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {name: one.to_json() for name, one in self.students.items()} | {RUN: _facts(self, "students")}

    @classmethod
    def from_json(cls, value: Any) -> Metrics:
        """The students that were evaluated on the test or the validation set, and facts of the run."""
        held = as_dict(with_new_keys(value))
        facts = as_dict(held.get(RUN))
        known = as_dict(facts.get("teacher"))
        long_range = known.get("long_range")
        measured = [
            read(LongRangeReport, one)
            for one in (long_range if isinstance(long_range, list) else [])
            if {"radius_a", "displacement_a"} <= set(_fitting(LongRangeReport, one))
        ]
        students = {
            name: StudentMetrics.from_json(part)
            for name, part in held.items()
            if name != RUN and any("all" in as_dict(as_dict(part).get(s)) for s in (TEST, VALIDATION))
        }
        return cls(
            students=students,
            teacher=replace(read(TeacherFacts, known), long_range=tuple(measured)),
            more=_more(cls, facts),
            **_fitting(cls, facts),
        )


def read(record: type[T], value: Any) -> T:
    """A record of those entries of a JSON object that fit its fields of numbers, words and truth values."""
    return record(**_fitting(record, value))


def as_dict(value: Any) -> dict[str, Any]:
    """``value`` where it is an object, else an empty one: other programs write these files."""
    return value if isinstance(value, dict) else {}


def is_number(value: Any) -> bool:
    """Whether it can be counted with: finite, no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


#: kinds of value by the first word of a field's annotation; other fields are read by name
_KINDS = {
    "float": is_number,
    "int": lambda value: is_number(value) and isinstance(value, int),
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
}


def _fitting(record: type, value: Any) -> dict[str, Any]:
    kinds = {one.name: _KINDS.get(str(one.type).split(" ")[0]) for one in fields(record)}
    return {name: one for name, one in as_dict(value).items() if (fits := kinds.get(name)) and fits(one)}


def _more(record: type, facts: dict[str, Any]) -> dict[str, Any]:
    own = {one.name for one in fields(record)}
    return {name: one for name, one in facts.items() if name not in own}


def _facts(record: StudentMetrics | Metrics, besides: str) -> dict[str, Any]:
    """Known facts that there are, and those carried along."""
    found = asdict(record)
    del found[besides]
    return {
        name: one for name, one in found.items() if name != "more" and one not in (None, "")
    } | record.more
