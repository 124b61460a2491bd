"""How a run shares its time: sampling for training and test, training, and checks of the students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.artifact.file import StudentArtifact
from limbeck.config import DistillConfig, ValidationConfig
from limbeck.core.charge import ChargeState, spin_multiplicity, total_charge
from limbeck.core.potential import Potential
from limbeck.core.timing import ENOUGH_S, ROUNDS, break_even_steps, seconds_per_label, seconds_per_step
from limbeck.errors import InputError
from limbeck.planning.recipes import (
    Recipe,
    default_sampling,
    default_test_set,
    recipe_of,
    starts_to_train_on,
    timestep_fs,
)
from limbeck.planning.start import relaxed_first
from limbeck.progress import format_seconds
from limbeck.records.time_budget import FIRST_SHARE, LEAST_TRAINING_S, TimeBudget, share
from limbeck.runtime.student import Student
from limbeck.sampling import Contacts, Relax, SamplingConfig, count_evaluations, count_frames, run_sampling
from limbeck.sampling.config import summary
from limbeck.sampling.dynamics import Dynamics
from limbeck.sampling.steps import Driven, Preparing
from limbeck.students.baseline import Baseline, zbl_radii
from limbeck.students.specification import initial_weights, preset_architecture

INTERIM_PRESET = "tiny"
DYNAMICS_OVERHEAD_S = 3e-4  # ASE's integrator and the checks of a step
#: of the time that is left when the plan is made; training gets the rest
TEST_SHARE, SAMPLING_SHARE, CHECKING_SHARE = 0.10, 0.35, 0.15
#: default sampling stops labelling once this part of that time is gone
SAMPLING_ENDS_AT = 0.5
#: the part of its planned time that training gives at most to a test set that takes longer than planned
TRAINING_YIELDS = 0.5
LEAST_LABELS, MOST_LABELS, MOST_LABELS_BY_EPOCHS = 16, 4000, 600
#: stands for the budget where training ends by epochs
NOMINAL_S = 1800.0
INTERIM_S_BY_EPOCHS = 10.0


@dataclass(frozen=True)
class Costs:
    """Measured seconds: a label, and by preset a step of dynamics with the student."""

    label_s: float
    step_s: dict[str, float]
    workers: int

    def teacher_steps_s(self, evaluations: int, trajectories: int) -> float:
        """Time of dynamics that the teacher drives: each trajectory keeps one worker busy."""
        return evaluations * self.label_s * self.workers / max(1, min(self.workers, trajectories))

    def check_s(self, settings: ValidationConfig, starts: Sequence[Atoms], step_s: float) -> float:
        """What the checks of one student take."""
        timestep = settings.timestep_fs or min(1.0, timestep_fs(starts))
        steps, frames = settings.nve_fs / (timestep / 2), settings.onpolicy_frames
        if frames:
            equilibrate = min(2, frames) * settings.onpolicy_equilibrate_fs
            steps += (equilibrate + frames * settings.onpolicy_every_fs) / timestep
        return steps * step_s + frames * self.label_s * self.workers

    def break_even_steps(self, cost_s: float, preset: str) -> int | None:
        """MD steps after which a distillation of ``cost_s`` is paid off."""
        return break_even_steps(cost_s, self.label_s * self.workers, self.step_s[preset])

    def speeds_s(self, presets: int) -> float:
        """What teacher and students take to be timed at the end."""
        # a student's blocks are 50 ms and a call; a slow teacher is called three times
        return ENOUGH_S + 3 * self.label_s * self.workers + 0.06 * ROUNDS * presets


def measure(config: DistillConfig, teacher: Potential, probe: Atoms) -> Costs:
    """Time a label and a step of dynamics with each student on ``probe``."""
    cutoff, workers = config.training.cutoff, config.labelling.workers
    steps = {p: untrained_step_s(p, probe, cutoff) for p in {*config.presets, INTERIM_PRESET}}
    return Costs(seconds_per_label(teacher, probe, 2 * workers), steps, workers)


def untrained_student(preset: str, atoms: Atoms, cutoff: float) -> Student:
    """A student with random weights for the elements of ``atoms``: as fast as it will be when trained."""
    architecture = preset_architecture(preset, tuple(sorted(set(atoms.numbers.tolist()))), cutoff=cutoff)
    weights = initial_weights(architecture, seed=0, mean_neighbours=50.0)
    baseline = Baseline(
        references=dict.fromkeys(architecture.elements, 0.0), zbl_radius=zbl_radii(architecture.elements, {})
    )
    card = {"preset": preset, **ChargeState(total_charge(atoms), spin_multiplicity(atoms)).on_card()}
    float32 = {name: weight.astype(np.float32) for name, weight in weights.items()}
    return Student(StudentArtifact(architecture, baseline, float32, card))


def untrained_step_s(preset: str, atoms: Atoms, cutoff: float) -> float:
    """Seconds that a step of dynamics takes with a student of this preset."""
    return seconds_per_step(untrained_student(preset, atoms, cutoff), atoms) + DYNAMICS_OVERHEAD_S


def shortened(settings: ValidationConfig, factor: float) -> ValidationConfig:
    """Checks that take about ``factor`` of their time."""
    if factor >= 1.0:
        return settings
    changes: dict[str, float] = {"onpolicy_equilibrate_fs": round(factor * settings.onpolicy_equilibrate_fs)}
    if settings.onpolicy_frames:
        changes["onpolicy_frames"] = max(2, round(factor * settings.onpolicy_frames))
    if settings.nve_fs:
        changes["nve_fs"] = max(min(50.0, settings.nve_fs), round(factor * settings.nve_fs))
    return settings.model_copy(update=changes)


@dataclass(frozen=True)
class Plan:
    """How a run's time and disk are shared; all times are expectations in seconds.

    Attributes
    ----------
    sampling, test: what will be sampled. frames, test_frames: how many frames come of it.
    stages_s: MD and labels of each stage; a stage ends where an interim student is trained. test_set_s: of
        the test set. interim_s: training time of each interim student. interim_students: how many.
    atoms: of the largest frame. label_s: measured time of one label. labelling_s: of all stages.
    training_s: by preset. checking_s: by preset, what follows its training. finishing_s: what follows the
        last. check_factor: by how much the checks are shortened. iterations, active_learning_s: of active
        learning. break_even: by preset, MD steps after which the budget is paid off.
    labels_until_s: time spent at which labelling of a default sampling stops; None where it does not.
    test_set_until_s: the same for the test set's dynamics and labels. disk_mb: labels and checkpoints.
    """

    sampling: SamplingConfig
    test: SamplingConfig
    frames: int
    test_frames: int
    stages_s: tuple[tuple[float, float], ...]
    test_set_s: float
    interim_s: float
    interim_students: int
    labelling_s: float
    atoms: int = 0
    label_s: float = 0.0
    training_s: dict[str, float] = field(default_factory=dict)
    checking_s: dict[str, float] = field(default_factory=dict)
    check_factor: float = 1.0
    finishing_s: float = 0.0
    labels_until_s: float | None = None
    test_set_until_s: float | None = None
    disk_mb: float = 0.0
    budget_s: float | None = None
    spent_s: float = 0.0
    iterations: int = 0
    active_learning_s: float = 0.0
    break_even: dict[str, int | None] = field(default_factory=dict)

    @property
    def sampling_s(self) -> float:
        """What comes before training."""
        return self.labelling_s + self.test_set_s + self.interim_students * self.interim_s

    def reserved_s(self, presets: Sequence[str], slower: float = 1.0) -> float:
        """Time to keep for checks of ``presets``, ``slower`` times as long as planned, and for the end."""
        return slower * sum(self.checking_s[p] for p in presets) + self.finishing_s

    def lines(self, system: str) -> list[str]:
        """The plan for people; ``system``: the line on what is simulated."""
        seconds, steps = format_seconds, self.sampling.steps
        by_budget = self.labels_until_s is not None
        lines = [
            system,
            f"test set: {self.test_frames} frames of MD driven by the teacher: {seconds(self.test_set_s)}",
            f"frames to label: {self.frames} of {self.atoms} atoms, {self.label_s:.3g} s each: "
            f"{seconds(self.labelling_s)} with the MD that makes them",
            f"test set sampled: {summary(self.test)}",
            f"sampled: {summary(self.sampling)}",
        ]
        if self.budget_s is not None:
            spent = seconds(self.spent_s)
            lines.insert(0, f"budget: {seconds(self.budget_s)}, of which {spent} went into starting")
        if not any(isinstance(step, Dynamics) for step in steps):
            more = "; a larger --budget has time for it" if by_budget else ""
            lines.append(
                f"note: no dynamics is sampled, and students of still frames are rough in motion{more}"
            )
        if not any(isinstance(step, Contacts) for step in steps):
            more = "a larger --budget" if by_budget else "{kind: contacts, n: 8} under sampling.steps"
            lines.append(
                "note: no close contacts are sampled, so students are not accurate at distances shorter than "
                f"those of MD; remedy: {more}"
            )
        if self.frames < LEAST_LABELS:
            lines.append(
                f"note: {self.frames} frames are too few to learn from: steps that prepare add none; "
                "add steps such as rattle and md, or leave sampling out (see docs/sampling.md)"
            )
        if self.interim_students:
            lines.append(
                f"interim students, which drive MD for sampling: {self.interim_students}, "
                f"{seconds(self.interim_s)} of training each"
            )
        train = ", ".join(f"{k} {seconds(v)}" for k, v in self.training_s.items())
        lines.append(f"training: {train or 'by epochs'}")
        if self.iterations:
            more = f", {seconds(self.active_learning_s)}" if self.budget_s is not None else ""
            lines.append(f"active learning: up to {self.iterations}{more}")
        if paid := break_even_text(self.break_even):
            lines.append(f"pays off after about {paid} MD steps of {self.atoms} atoms")
        checks = sum(self.checking_s.values()) + self.finishing_s
        return [*lines, f"checks after training: {seconds(checks)}", f"disk: about {self.disk_mb:.0f} MB"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        samplings = {"sampling": self.sampling, "test": self.test}
        return asdict(self) | {k: v.model_dump(mode="json", by_alias=True) for k, v in samplings.items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Plan:
        """Inverse of ``to_dict``."""
        samplings = {name: SamplingConfig(**fields[name]) for name in ("sampling", "test")}
        return cls(**(fields | samplings | {"stages_s": tuple(map(tuple, fields["stages_s"]))}))


def plan(config: DistillConfig, starts: list[Atoms], teacher: Potential, time: TimeBudget) -> Plan:
    """Share what is left of the budget. Teacher and students are timed on a structure of the final size.

    What the user did not choose (sampling, test set, checks) is fitted to the budget.

    Raises
    ------
    InputError: the budget leaves no time to train.
    """
    budget, presets = time.budget_s, config.presets
    sampling = config.sampling or default_sampling(starts, recipe_of(config, starts), LEAST_LABELS, 0)
    probe = max(prepared(starts, sampling), key=len)  # the largest structure that will be labelled
    costs = measure(config, teacher, probe)
    spent_s = time.spent_s
    left = NOMINAL_S if budget is None else max(budget - spent_s, 1.0)
    full = {p: costs.check_s(config.validation, starts, costs.step_s[p]) for p in presets}
    factor = 1.0
    if budget is not None and not config.validation.model_fields_set:
        factor = float(np.clip(CHECKING_SHARE * left / sum(full.values()), 0.05, 1.0))
    checking = {p: factor * s + 1.0 for p, s in full.items()}
    finishing_s = 1.0 + costs.speeds_s(len(presets))
    least = LEAST_TRAINING_S * len(presets)
    for available in (left, 0.0):  # at last as little as can be
        work = _choose(config, starts, costs, available)
        rest = left - work.sampling_s - sum(checking.values()) - finishing_s
        if rest >= least:
            break
    training: dict[str, float] = {}
    if budget is not None:
        if rest < least:
            raise InputError(
                "the budget allows no epoch",
                got=format_seconds(budget),
                wanted=f"at least {format_seconds(np.ceil(budget - rest + least))} for {work.frames} labels, "
                f"{work.test_frames} test frames and training",
                remedy="raise --budget" + (", or sample fewer frames" if config.sampling else ""),
            )
        training = share(rest * (FIRST_SHARE if config.active_learning.iterations else 1.0), presets)
    train_s = sum(training.values())
    return replace(
        work,
        atoms=len(probe),
        label_s=costs.label_s,
        training_s=training,
        checking_s=checking,
        check_factor=factor,
        finishing_s=finishing_s,
        labels_until_s=None if budget is None or config.sampling else spent_s + SAMPLING_ENDS_AT * left,
        test_set_until_s=spent_s + work.test_set_s + TRAINING_YIELDS * train_s if training else None,
        disk_mb=1 + (work.frames + work.test_frames) * len(probe) * 2.4e-4 + 12 * len(presets),
        budget_s=budget,
        spent_s=spent_s,
        iterations=config.active_learning.iterations,
        active_learning_s=0.0 if budget is None else rest - train_s,
        break_even={} if budget is None else {p: costs.break_even_steps(budget, p) for p in presets},
    )


def _choose(config: DistillConfig, starts: list[Atoms], costs: Costs, left: float) -> Plan:
    """What comes before training: the user's sampling and test set, or default ones for their share."""
    recipe = recipe_of(config, starts)
    evaluations = TEST_SHARE * left / costs.label_s
    test = relaxed_first(
        config, config.test or default_test_set(starts, recipe, evaluations, config.seed, config.sampling)
    )
    held = count_frames(test, starts)
    driving_s = costs.teacher_steps_s(count_evaluations(test, starts), _trajectories(test, starts))
    interim_s = INTERIM_S_BY_EPOCHS if config.budget is None else float(np.clip(0.04 * left, 3, 60))
    sampling = config.sampling or _affordable(config, starts, recipe, costs, left, interim_s, test)
    sampling = relaxed_first(config, sampling)
    stages_s = _stages_s(sampling, starts, costs)
    return Plan(
        sampling,
        test,
        count_frames(sampling, starts),
        held,
        stages_s,
        test_set_s=held * costs.label_s + driving_s,
        interim_s=interim_s,
        interim_students=sum(map(is_student_driven, sampling.steps)),
        labelling_s=sum(map(sum, stages_s)),
    )


def _affordable(
    config: DistillConfig,
    starts: list[Atoms],
    recipe: Recipe,
    costs: Costs,
    left: float,
    interim_s: float,
    test: SamplingConfig,
) -> SamplingConfig:
    """Default sampling within its share of the time left: fewer labels, then fewer interim_students."""
    most = MOST_LABELS if config.training.epochs is None else MOST_LABELS_BY_EPOCHS
    index = starts_to_train_on(starts, recipe, test)
    for interim_students in (2, 1, 0):
        affordable_s = SAMPLING_SHARE * left - interim_students * interim_s
        labels = int(np.clip(affordable_s / costs.label_s, LEAST_LABELS, most))
        for _ in range(12):
            sampling = default_sampling(starts, recipe, labels, config.seed, interim_students, index)
            cost = sum(map(sum, _stages_s(relaxed_first(config, sampling), starts, costs)))
            if cost <= affordable_s and (labels >= 3 * LEAST_LABELS or not interim_students):
                return sampling
            if labels <= LEAST_LABELS:
                break
            labels = max(LEAST_LABELS, int(labels * np.clip(0.95 * affordable_s / cost, 0.2, 0.9)))
    return default_sampling(starts, recipe, LEAST_LABELS, config.seed, 0, index)


def _stages_s(
    sampling: SamplingConfig, starts: Sequence[Atoms], costs: Costs
) -> tuple[tuple[float, float], ...]:
    """Seconds of MD and of labels of each stage, without training the interim student that ends it."""
    steps = sampling.steps
    parts = [sampling.model_copy(update={"steps": steps[:k]}) for k in range(len(steps) + 1)]
    evaluations = np.diff([count_evaluations(part, starts) for part in parts])
    together = _trajectories(sampling, starts)
    making_s = [
        n * costs.step_s[INTERIM_PRESET]
        if is_student_driven(step)
        else costs.teacher_steps_s(int(n), together)
        for n, step in zip(evaluations, steps, strict=True)
    ]
    ends = [*(k for k, step in enumerate(steps) if is_student_driven(step)), len(steps)]
    frames = [0, *(count_frames(parts[end], starts) for end in ends)]
    return tuple(
        (float(sum(making_s[begin:end])), max(made, 0) * costs.label_s)
        for begin, end, made in zip([0, *ends], ends, np.diff(frames).tolist(), strict=False)
    )


def _trajectories(sampling: SamplingConfig, starts: Sequence[Atoms]) -> int:
    """Trajectories of a step that the teacher drives; they run side by side."""
    n_starts = len(sampling.start_index or starts)
    driven = [step for step in sampling.steps if isinstance(step, Driven) and not is_student_driven(step)]
    return max((step.n_runs(n_starts) for step in driven), default=1)


def is_student_driven(step: object) -> bool:
    """Whether an interim student drives the step."""
    return isinstance(step, Driven) and step.driver == "student"


def temperature_of(*samplings: SamplingConfig) -> float:
    """Highest temperature, K, that the steps sample of the first that has any; else 300."""
    for sampling in samplings:
        values = [step.hottest_K for step in sampling.steps if isinstance(step, Driven)]
        known = [value for value in values if value is not None]
        if known:
            return max(known)
    return 300.0


def prepared(starts: list[Atoms], sampling: SamplingConfig) -> list[Atoms]:
    """The starting structures as the steps of ``sampling`` that add frames find them, not relaxed."""
    cells = tuple(s for s in sampling.steps if isinstance(s, Preparing) and not isinstance(s, Relax))
    return run_sampling(starts, SamplingConfig(steps=cells, keep_starts=True), {})


def break_even_text(steps: Mapping[str, int | None]) -> str:
    """``41,000 (tiny), 40,000 (ultra-tiny)``; empty where no student is faster than the teacher."""
    return ", ".join(f"{n:,} ({preset})" for preset, n in steps.items() if n)
