"""How a run shares its time: what is sampled and held out, how long students train and are checked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.config import DistillConfig
from limbeck.core.potential import Potential
from limbeck.errors import InputError
from limbeck.pipeline.costs import INTERIM_PRESET, Costs, check_s, measure, speeds_s
from limbeck.pipeline.opening import relaxed_first
from limbeck.pipeline.recipes import Recipe, default_sampling, default_test_set, recipe_of, starts_to_train_on
from limbeck.progress import format_seconds
from limbeck.sampling.config import SamplingConfig, count_evaluations, count_frames, summary
from limbeck.sampling.contacts import Contacts
from limbeck.sampling.dynamics import Dynamics
from limbeck.sampling.preparing import Relax
from limbeck.sampling.run import run_sampling
from limbeck.sampling.steps import Driven, Preparing

LEAST_TRAINING_S = 5.0
#: how training time is shared among presets: the larger ones are slower a step
TIME_SHARE = {"original": 5.0, "tiny": 2.0, "ultra-tiny": 1.5}
#: of the time that is left when the plan is made; training gets the rest
TEST_SHARE, SAMPLING_SHARE, CHECKING_SHARE = 0.10, 0.35, 0.15
#: default sampling stops labelling once so much of that time is gone
SAMPLING_ENDS_AT = 0.5
#: of its planned time training gives at most so much to a test set that takes longer than planned
TRAINING_YIELDS = 0.5
LEAST_LABELS, MOST_LABELS, MOST_LABELS_BY_EPOCHS = 16, 4000, 600
#: of the training time, for what comes before the first round that learns from failures: with few labels,
#: students are soon as good as those labels make them
FIRST_SHARE = 0.3
#: stands for the budget where training ends by epochs
NOMINAL_S = 1800.0
INTERIM_S_BY_EPOCHS = 10.0


@dataclass(frozen=True)
class Plan:
    """How a run's time and disk are shared; all times are expectations in seconds.

    Attributes
    ----------
    sampling, test: what will be sampled. frames, test_frames: how many frames come of it.
    label_s: measured time of one label. labelling_s: labels and all dynamics that make their frames.
    interim_s: training time of each interim. interim_students: how many. training_s: by preset. checking_s: by
    preset, what follows its training. finishing_s: what follows the last. check_factor: by how much
    the checks are shortened. labels_until_s: time spent at which labelling of a default sampling
    stops; None where it does not. test_set_until_s: the same for the test set's dynamics and
    labels. disk_mb: labels and checkpoints. stages_s: of ``labelling_s``, the dynamics and the labels of
    each stage; a stage ends where an interim student learns from what there is.
    """

    sampling: SamplingConfig
    test: SamplingConfig
    frames: int
    test_frames: int
    atoms: int
    label_s: float
    labelling_s: float
    test_set_s: float
    interim_s: float
    interim_students: int
    training_s: dict[str, float]
    checking_s: dict[str, float]
    check_factor: float
    finishing_s: float
    labels_until_s: float | None
    disk_mb: float
    budget_s: float | None
    spent_s: float
    test_set_until_s: float | None = None
    rounds: int = 0
    rounds_s: float = 0.0
    stages_s: tuple[tuple[float, float], ...] = ()

    def lines(self) -> list[str]:
        """The plan for people."""
        train = ", ".join(f"{k} {format_seconds(v)}" for k, v in self.training_s.items())
        lines = [
            f"test set: {self.test_frames} frames of MD driven by the teacher: "
            f"{format_seconds(self.test_set_s)}",
            f"frames to label: {self.frames} of {self.atoms} atoms, {self.label_s:.3g} s each: "
            f"{format_seconds(self.labelling_s)} with the MD that makes them",
            f"test set sampled: {summary(self.test)}",
            f"sampled: {summary(self.sampling)}",
        ]
        if not any(isinstance(step, Dynamics) for step in self.sampling.steps):
            lines.append(
                "note: no dynamics is sampled, and students of still frames are rough in motion"
                + ("; a larger --budget has time for it" if self.labels_until_s is not None else "")
            )
        if not any(isinstance(step, Contacts) for step in self.sampling.steps):
            lines.append(
                "note: no close contacts are sampled, so students are not accurate at distances shorter than "
                "those of MD; remedy: "
                + (
                    "a larger --budget"
                    if self.labels_until_s is not None
                    else "{kind: contacts, n: 8} under sampling.steps"
                )
            )
        if self.frames < LEAST_LABELS:
            lines.append(
                f"note: {self.frames} frames are too few to learn from: steps that prepare add none; "
                "add steps such as rattle and md, or leave sampling out (see docs/sampling.md)"
            )
        if self.interim_students:
            lines.append(
                f"interim students, which drive MD for sampling: {self.interim_students}, "
                f"{format_seconds(self.interim_s)} of training each"
            )
        lines += [
            f"training: {train or 'by epochs'}",
            *self._round_lines(),
            f"checks after training: {format_seconds(sum(self.checking_s.values()) + self.finishing_s)}",
            f"disk: about {self.disk_mb:.0f} MB",
        ]
        if self.budget_s is not None:
            spent = format_seconds(self.spent_s)
            lines.insert(0, f"budget: {format_seconds(self.budget_s)}, of which {spent} went into starting")
        return lines

    def _round_lines(self) -> list[str]:
        if not self.rounds:
            return []
        seconds = f", {format_seconds(self.rounds_s)}" if self.budget_s is not None else ""
        return [f"rounds that learn from failures: up to {self.rounds}{seconds}"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        fields = asdict(self)
        fields["sampling"] = self.sampling.model_dump(mode="json", by_alias=True)
        fields["test"] = self.test.model_dump(mode="json", by_alias=True)
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Plan:
        """Inverse of ``to_dict``."""
        parts = {name: SamplingConfig(**fields[name]) for name in ("sampling", "test")}
        stages = {"stages_s": tuple(map(tuple, fields.get("stages_s", ())))}
        return cls(**(fields | parts | stages))


def plan(config: DistillConfig, starts: list[Atoms], teacher: Potential, spent_s: float = 0.0) -> Plan:
    """Share what is left of the budget. Teacher and students are timed on a structure of the final size.

    What the user did not choose (sampling, test set, checks) is fitted to the budget.

    Raises
    ------
    InputError: the budget leaves no time to train.
    """
    config = one_end(config)
    budget = config.budget
    began = time.monotonic()
    probe = _probe(config, starts)
    costs = measure(config, teacher, probe)
    spent_s += time.monotonic() - began
    left = NOMINAL_S if budget is None else max(budget - spent_s, 1.0)
    full = {p: check_s(config.validation, starts, costs.step_s[p], costs) for p in config.presets}
    factor = 1.0
    if budget is not None and not config.validation.model_fields_set:
        factor = float(np.clip(CHECKING_SHARE * left / sum(full.values()), 0.05, 1.0))
    checking = {p: factor * s + 1.0 for p, s in full.items()}
    finishing_s = 1.0 + speeds_s(costs, len(config.presets))
    work = _choose(config, starts, costs, left)
    least = LEAST_TRAINING_S * len(config.presets)
    rest = left - work.seconds - sum(checking.values()) - finishing_s
    if rest < least:
        work = _choose(config, starts, costs, 0.0)  # as little as can be
        rest = left - work.seconds - sum(checking.values()) - finishing_s
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
        training = share_time(config.presets, rest * (FIRST_SHARE if config.rounds.n else 1.0))
    rounds_s = rest - sum(training.values()) if budget is not None else 0.0
    bounded = budget is not None and config.sampling is None
    yielded_s = TRAINING_YIELDS * sum(training.values())
    return Plan(
        sampling=work.sampling, test=work.test, frames=work.frames, test_frames=work.test_frames,
        atoms=len(probe), label_s=costs.label_s, labelling_s=work.labelling_s, test_set_s=work.test_set_s,
        interim_s=work.interim_s, interim_students=work.interim_students, training_s=training, checking_s=checking,
        check_factor=factor, finishing_s=finishing_s,
        labels_until_s=spent_s + SAMPLING_ENDS_AT * left if bounded else None,
        disk_mb=1 + (work.frames + work.test_frames) * len(probe) * 2.4e-4 + 12 * len(config.presets),
        budget_s=budget, spent_s=spent_s, rounds=config.rounds.n, rounds_s=rounds_s,
        test_set_until_s=spent_s + work.test_set_s + yielded_s if training else None, stages_s=work.stages_s,
    )  # fmt: skip


def one_end(config: DistillConfig) -> DistillConfig:
    """Itself with one of a budget and a number of epochs; epochs go before a budget."""
    config = config.with_end()
    return config if config.training.epochs is None else config.model_copy(update={"budget": None})


@dataclass(frozen=True)
class _Work:
    """What comes before training, and its expected seconds."""

    sampling: SamplingConfig
    test: SamplingConfig
    frames: int
    test_frames: int
    stages_s: tuple[tuple[float, float], ...]
    test_set_s: float
    interim_s: float

    @property
    def labelling_s(self) -> float:
        return sum(map(sum, self.stages_s))

    @property
    def interim_students(self) -> int:
        return sum(map(is_student_driven, self.sampling.steps))

    @property
    def seconds(self) -> float:
        return self.labelling_s + self.test_set_s + self.interim_students * self.interim_s


def _choose(config: DistillConfig, starts: list[Atoms], costs: Costs, left: float) -> _Work:
    """The user's sampling and test set, or default ones for their share of the time ``left``."""
    recipe = recipe_of(config, starts)
    evaluations = TEST_SHARE * left / costs.label_s
    test = relaxed_first(
        config, config.test or default_test_set(starts, recipe, evaluations, config.seed, config.sampling)
    )
    held = count_frames(test, starts)
    n_held = _n_starts(test, starts)
    driving_s = costs.teacher_steps_s(count_evaluations(test, starts), _trajectories(test, n_held))
    interim_s = INTERIM_S_BY_EPOCHS if config.budget is None else float(np.clip(0.04 * left, 3, 60))
    sampling = relaxed_first(
        config, config.sampling or _affordable(config, starts, recipe, costs, left, interim_s, test)
    )
    return _Work(
        sampling=sampling,
        test=test,
        frames=count_frames(sampling, starts),
        test_frames=held,
        stages_s=_stages_s(sampling, starts, costs),
        test_set_s=held * costs.label_s + driving_s,
        interim_s=interim_s,
    )


def share_time(presets: Sequence[str], seconds: float) -> dict[str, float]:
    """Training time by preset."""
    whole = sum(TIME_SHARE[p] for p in presets)
    return {p: seconds * TIME_SHARE[p] / whole for p in presets}


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
        share = SAMPLING_SHARE * left - interim_students * interim_s
        labels = int(np.clip(share / costs.label_s, LEAST_LABELS, most))
        for _ in range(12):
            sampling = default_sampling(starts, recipe, labels, config.seed, interim_students, index)
            cost = sum(map(sum, _stages_s(relaxed_first(config, sampling), starts, costs)))
            if cost <= share and (labels >= 3 * LEAST_LABELS or not interim_students):
                return sampling
            if labels <= LEAST_LABELS:
                break
            labels = max(LEAST_LABELS, int(labels * np.clip(0.95 * share / cost, 0.2, 0.9)))
    return default_sampling(starts, recipe, LEAST_LABELS, config.seed, 0, index)


def _stages_s(
    sampling: SamplingConfig, starts: Sequence[Atoms], costs: Costs
) -> tuple[tuple[float, float], ...]:
    """Seconds of dynamics and of labels of each stage, without the training of the interim student that ends it."""
    parts = [
        sampling.model_copy(update={"steps": sampling.steps[:k]}) for k in range(len(sampling.steps) + 1)
    ]
    evaluations = np.diff([count_evaluations(part, starts) for part in parts])
    together = _trajectories(sampling, _n_starts(sampling, starts))
    making_s = [
        n * costs.step_s[INTERIM_PRESET]
        if is_student_driven(step)
        else costs.teacher_steps_s(int(n), together)
        for n, step in zip(evaluations, sampling.steps, strict=True)
    ]
    student_driven = [k for k, step in enumerate(sampling.steps) if is_student_driven(step)]
    begins, ends = [0, *student_driven], [*student_driven, len(sampling.steps)]
    frames = [0, *(count_frames(parts[end], starts) for end in ends)]
    return tuple(
        (float(sum(making_s[begin:end])), max(made, 0) * costs.label_s)
        for begin, end, made in zip(begins, ends, np.diff(frames).tolist(), strict=True)
    )


def _trajectories(sampling: SamplingConfig, n_starts: int) -> int:
    """Trajectories of a step that the teacher drives; they run side by side."""
    return max(
        (
            step.n_runs(n_starts)
            for step in sampling.steps
            if isinstance(step, Driven) and not is_student_driven(step)
        ),
        default=1,
    )


def _n_starts(sampling: SamplingConfig, starts: Sequence[Atoms]) -> int:
    return len(sampling.start_index) if sampling.start_index else len(starts)


def prepared(starts: list[Atoms], sampling: SamplingConfig) -> list[Atoms]:
    """The starting structures as the steps of ``sampling`` that add frames find them, not relaxed."""
    cells = tuple(s for s in sampling.steps if isinstance(s, Preparing) and not isinstance(s, Relax))
    return run_sampling(starts, SamplingConfig(steps=cells, keep_starts=True), {})


def _probe(config: DistillConfig, starts: list[Atoms]) -> Atoms:
    """The largest structure that will be labelled."""
    return max(
        prepared(
            starts, config.sampling or default_sampling(starts, recipe_of(config, starts), LEAST_LABELS, 0)
        ),
        key=len,
    )
