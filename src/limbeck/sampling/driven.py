"""The runs of a driven step: what fixes each, and how it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.core.potential import Potential
from limbeck.sampling.dynamics import Trajectory, run_trajectory, trajectory_family
from limbeck.sampling.modes import sample_modes
from limbeck.sampling.moves import Modes, RattleRelax
from limbeck.sampling.rattle_relax import grow_tree
from limbeck.sampling.step import Condition, Driven, Dynamics

FAMILIES_PER_STEP = 10

OnStep = Callable[[], None]
Stop = Callable[[], bool]


@dataclass(frozen=True)
class DrivenRun:
    """One trajectory, tree or expansion.

    Attributes
    ----------
    start: what it begins from. numbers: with seed and step they fix its random numbers.
    about: what else fixes it beside step and start, JSON-able. family: of its frames, or their prefix.
    make: makes it. group: which of the step's conditions (or starts of trees) it is a run of.
    """

    start: Atoms
    numbers: tuple[int, ...]
    about: list[Any]
    family: str
    make: Callable[[np.random.Generator, OnStep, Stop], Trajectory]
    group: int = 0


def runs_of(name: str, step: Driven, incoming: Sequence[Atoms], potential: Potential) -> list[DrivenRun]:
    """Every run of a step, in the order of its frames."""
    if isinstance(step, Dynamics):
        return _trajectories(name, step, incoming, potential)
    if isinstance(step, RattleRelax):
        return _trees(name, step, incoming, potential)
    if isinstance(step, Modes):
        return _expansions(name, step, incoming, potential)
    raise TypeError(f"no runs for a step of kind {getattr(step, 'kind', type(step).__name__)!r}")


def _trajectories(
    name: str, step: Dynamics, incoming: Sequence[Atoms], potential: Potential
) -> list[DrivenRun]:
    runs = []
    count = step.starts or len(incoming)
    for t, condition in enumerate(step.conditions):
        for k in range(count):
            start = incoming[spread(k, count, len(incoming), t / len(step.conditions))]
            family = trajectory_family(start.info["family"], name, step, condition, k)
            make = _trajectory(start, potential, step, condition, family)
            about = [condition.temperature_K, condition.pressure_gpa]
            runs.append(DrivenRun(start, (k, t), about, family, make, group=t))
    return runs


def _trajectory(
    start: Atoms, potential: Potential, step: Dynamics, condition: Condition, family: str
) -> Callable[[np.random.Generator, OnStep, Stop], Trajectory]:
    kelvin, pressure = condition.temperature_K, condition.pressure_gpa
    return lambda rng, on_step, stop: run_trajectory(
        start, potential, step, kelvin, rng, family, on_step, stop, pressure_gpa=pressure
    )


def _trees(name: str, step: RattleRelax, incoming: Sequence[Atoms], potential: Potential) -> list[DrivenRun]:
    def make(start: Atoms, family: str) -> Callable[[np.random.Generator, OnStep, Stop], Trajectory]:
        return lambda rng, on_step, stop: grow_tree(start, potential, step, rng, family, on_step, stop)

    runs = []
    for k, start in enumerate(incoming):
        for tree in range(step.trees):
            family = f"{start.info['family']}/{name}-t{tree}"
            runs.append(DrivenRun(start, (k, tree), [], family, make(start, family), group=k))
    return runs


def _expansions(name: str, step: Modes, incoming: Sequence[Atoms], potential: Potential) -> list[DrivenRun]:
    # draws are independent, so that blocks of them make families, as rattled copies do
    blocks = max(1, min(step.n, FAMILIES_PER_STEP // len(incoming)))

    def make(start: Atoms) -> Callable[[np.random.Generator, OnStep, Stop], Trajectory]:
        family = start.info["family"]

        def family_of(temperature_k: float, number: int) -> str:
            return (
                family if step.from_ else f"{family}/{name}-{temperature_k:g}K-b{number * blocks // step.n}"
            )

        return lambda rng, on_step, stop: sample_modes(start, potential, step, rng, family_of, on_step, stop)

    return [
        DrivenRun(start, (k, 0), [blocks], start.info["family"], make(start))
        for k, start in enumerate(incoming)
    ]


def spread(k: int, wanted: int, available: int, shift: float = 0.0) -> int:
    """Which incoming frame trajectory ``k`` starts from.

    Evenly spread, moved by the part ``shift`` of their distance so that temperatures start from
    different frames; used again when too few.
    """
    return int((k + shift) * available / wanted) if wanted <= available else k % available
