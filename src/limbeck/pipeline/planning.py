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
from limbeck.pipeline.costs import SCOUT_PRESET, Costs, check_s, measure, speeds_s
from limbeck.pipeline.opening import relaxed_first
from limbeck.pipeline.recipes import Recipe, default_heldout, default_sampling, recipe_of, starts_to_train_on
from limbeck.progress import format_seconds
from limbeck.sampling.config import SamplingConfig, count_evaluations, count_frames, summary
from limbeck.sampling.contacts import Contacts
from limbeck.sampling.dynamics import Dynamics
from limbeck.sampling.relax import Relax
from limbeck.sampling.run import run_sampling
from limbeck.sampling.steps import Driven, Preparing

LEAST_TRAINING_S = 5.0
#: how training time is shared among presets: the larger ones are slower a step
TIME_SHARE = {"original": 5.0, "tiny": 2.0, "ultra-tiny": 1.5}
#: of the time that is left when the plan is made; training gets the rest
HELDOUT_SHARE, SAMPLING_SHARE, CHECKING_SHARE = 0.10, 0.35, 0.15
#: default sampling stops labelling once so much of that time is gone
SAMPLING_ENDS_AT = 0.5
#: of its planned time training gives at most so much to a held-out set that takes longer than planned
TRAINING_YIELDS = 0.5
LEAST_LABELS, MOST_LABELS, MOST_LABELS_BY_EPOCHS = 16, 4000, 600
#: of the training time, for what comes before the first round that learns from failures: with few labels,
#: students are soon as good as those labels make them
FIRST_SHARE = 0.3
#: stands for the budget where training ends by epochs
NOMINAL_S = 1800.0
SCOUT_S_BY_EPOCHS = 10.0


@dataclass(frozen=True)
class Plan:
    """How a run's time and disk are shared; all times are expectations in seconds.

    Attributes
    ----------
    sampling, heldout: what will be sampled. frames, heldout_frames: how many frames come of it.
    label_s: measured time of one label. labelling_s: labels and all dynamics that make their frames.
    scout_s: training time of each scout. scouts: how many. training_s: by preset. checking_s: by
    preset, what follows its training. finishing_s: what follows the last. check_factor: by how much
    the checks are shortened. labels_until_s: time spent at which labelling of a default sampling
    stops; None where it does not. heldout_until_s: the same for the held-out set's dynamics and
    labels. disk_mb: labels and checkpoints. stages_s: of ``labelling_s``, the dynamics and the labels of
    each stage; a stage ends where a scout learns from what there is.
    """

    sampling: SamplingConfig
    heldout: SamplingConfig
    frames: int
    heldout_frames: int
    atoms: int
    label_s: float
    labelling_s: float
    heldout_s: float
    scout_s: float
    scouts: int
    training_s: dict[str, float]
    checking_s: dict[str, float]
    check_factor: float
    finishing_s: float
    labels_until_s: float | None
    disk_mb: float
    budget_s: float | None
    spent_s: float
    heldout_until_s: float | None = None
    rounds: int = 0
    rounds_s: float = 0.0
    stages_s: tuple[tuple[float, float], ...] = ()

    def lines(self) -> list[str]:
        """The plan for people."""
        train = ", ".join(f"{k} {format_seconds(v)}" for k, v in self.training_s.items())
        lines = [
            f"test set: {self.heldout_frames} frames of MD driven by the teacher: "
            f"{format_seconds(self.heldout_s)}",
            f"frames to label: {self.frames} of {self.atoms} atoms, {self.label_s:.3g} s each: "
            f"{format_seconds(self.labelling_s)} with the MD that makes them",
            f"test set sampled: {summary(self.heldout)}",
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
        if self.scouts:
            lines.append(
                f"interim students, which drive MD for sampling: {self.scouts}, "
                f"{format_seconds(self.scout_s)} of training each"
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
        fields["heldout"] = self.heldout.model_dump(mode="json", by_alias=True)
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Plan:
        """Inverse of ``to_dict``."""
        parts = {name: SamplingConfig(**fields[name]) for name in ("sampling", "heldout")}
        stages = {"stages_s": tuple(map(tuple, fields.get("stages_s", ())))}
        return cls(**(fields | parts | stages))


def plan(config: DistillConfig, starts: list[Atoms], teacher: Potential, spent_s: float = 0.0) -> Plan:
    """Share what is left of the budget. Teacher and students are timed on a structure of the final size.

    What the user did not choose (sampling, held-out set, checks) is fitted to the budget.

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
                f"{work.heldout_frames} held-out frames and training",
                remedy="raise --budget" + (", or sample fewer frames" if config.sampling else ""),
            )
        training = share_time(config.presets, rest * (FIRST_SHARE if config.rounds.n else 1.0))
    rounds_s = rest - sum(training.values()) if budget is not None else 0.0
    bounded = budget is not None and config.sampling is None
    yielded_s = TRAINING_YIELDS * sum(training.values())
    return Plan(
        sampling=work.sampling, heldout=work.heldout, frames=work.frames, heldout_frames=work.heldout_frames,
        atoms=len(probe), label_s=costs.label_s, labelling_s=work.labelling_s, heldout_s=work.heldout_s,
        scout_s=work.scout_s, scouts=work.scouts, training_s=training, checking_s=checking,
        check_factor=factor, finishing_s=finishing_s,
        labels_until_s=spent_s + SAMPLING_ENDS_AT * left if bounded else None,
        disk_mb=1 + (work.frames + work.heldout_frames) * len(probe) * 2.4e-4 + 12 * len(config.presets),
        budget_s=budget, spent_s=spent_s, rounds=config.rounds.n, rounds_s=rounds_s,
        heldout_until_s=spent_s + work.heldout_s + yielded_s if training else None, stages_s=work.stages_s,
    )  # fmt: skip


def one_end(config: DistillConfig) -> DistillConfig:
    """Itself with one of a budget and a number of epochs; epochs go before a budget."""
    config = config.with_end()
    return config if config.training.epochs is None else config.model_copy(update={"budget": None})


@dataclass(frozen=True)
class _Work:
    """What comes before training, and its expected seconds."""

    sampling: SamplingConfig
    heldout: SamplingConfig
    frames: int
    heldout_frames: int
    stages_s: tuple[tuple[float, float], ...]
    heldout_s: float
    scout_s: float

    @property
    def labelling_s(self) -> float:
        return sum(map(sum, self.stages_s))

    @property
    def scouts(self) -> int:
        return sum(map(is_scouted, self.sampling.steps))

    @property
    def seconds(self) -> float:
        return self.labelling_s + self.heldout_s + self.scouts * self.scout_s


def _choose(config: DistillConfig, starts: list[Atoms], costs: Costs, left: float) -> _Work:
    """The user's sampling and held-out set, or default ones for their share of the time ``left``."""
    recipe = recipe_of(config, starts)
    evaluations = HELDOUT_SHARE * left / costs.label_s
    heldout = relaxed_first(
        config, config.heldout or default_heldout(starts, recipe, evaluations, config.seed, config.sampling)
    )
    held = count_frames(heldout, starts)
    n_held = _n_starts(heldout, starts)
    driving_s = costs.teacher_steps_s(count_evaluations(heldout, starts), _trajectories(heldout, n_held))
    scout_s = SCOUT_S_BY_EPOCHS if config.budget is None else float(np.clip(0.04 * left, 3, 60))
    sampling = relaxed_first(
        config, config.sampling or _affordable(config, starts, recipe, costs, left, scout_s, heldout)
    )
    return _Work(
        sampling=sampling,
        heldout=heldout,
        frames=count_frames(sampling, starts),
        heldout_frames=held,
        stages_s=_stages_s(sampling, starts, costs),
        heldout_s=held * costs.label_s + driving_s,
        scout_s=scout_s,
    )


def share_time(presets: Sequence[str], seconds: float) -> dict[str, float]:
    """Training time by preset."""
    whole = sum(TIME_SHARE[p] for p in presets)
    return {p: seconds * TIME_SHARE[p] / whole for p in presets}


def is_scouted(step: object) -> bool:
    """Whether a scout drives the step."""
    return isinstance(step, Driven) and step.driver == "scout"


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
    scout_s: float,
    heldout: SamplingConfig,
) -> SamplingConfig:
    """Default sampling within its share of the time left: fewer labels, then fewer scouts."""
    most = MOST_LABELS if config.training.epochs is None else MOST_LABELS_BY_EPOCHS
    index = starts_to_train_on(starts, recipe, heldout)
    for scouts in (2, 1, 0):
        share = SAMPLING_SHARE * left - scouts * scout_s
        labels = int(np.clip(share / costs.label_s, LEAST_LABELS, most))
        for _ in range(12):
            sampling = default_sampling(starts, recipe, labels, config.seed, scouts, index)
            cost = sum(map(sum, _stages_s(relaxed_first(config, sampling), starts, costs)))
            if cost <= share and (labels >= 3 * LEAST_LABELS or not scouts):
                return sampling
            if labels <= LEAST_LABELS:
                break
            labels = max(LEAST_LABELS, int(labels * np.clip(0.95 * share / cost, 0.2, 0.9)))
    return default_sampling(starts, recipe, LEAST_LABELS, config.seed, 0, index)


def _stages_s(
    sampling: SamplingConfig, starts: Sequence[Atoms], costs: Costs
) -> tuple[tuple[float, float], ...]:
    """Seconds of dynamics and of labels of each stage, without the training of the scout that ends it."""
    parts = [
        sampling.model_copy(update={"steps": sampling.steps[:k]}) for k in range(len(sampling.steps) + 1)
    ]
    evaluations = np.diff([count_evaluations(part, starts) for part in parts])
    together = _trajectories(sampling, _n_starts(sampling, starts))
    making_s = [
        n * costs.step_s[SCOUT_PRESET] if is_scouted(step) else costs.teacher_steps_s(int(n), together)
        for n, step in zip(evaluations, sampling.steps, strict=True)
    ]
    scouted = [k for k, step in enumerate(sampling.steps) if is_scouted(step)]
    begins, ends = [0, *scouted], [*scouted, len(sampling.steps)]
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
            if isinstance(step, Driven) and not is_scouted(step)
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
