"""How many frames a configuration makes and what it costs, before any work is done."""

from __future__ import annotations

from collections.abc import Sequence

from ase import Atoms

from limbeck.errors import InputError
from limbeck.sampling.build import count_starts
from limbeck.sampling.config import Rattle, SamplingConfig
from limbeck.sampling.contacts import element_pairs
from limbeck.sampling.moves import Contacts, Torsions
from limbeck.sampling.preparing import Preparing
from limbeck.sampling.step import Driven


def count_frames(config: SamplingConfig, starts: int | Sequence[Atoms]) -> int:
    """The most frames that :func:`run_sampling` returns: where no run ends early and every step fits.

    ``starts``: the starting structures; or their number, of which the most that can be is counted (how
    many variants of a defect there are depends on the structures; ``contacts`` takes one pair of elements).
    """
    made, prepared = _plan(config, starts)
    kept = sum(made[name] for name in kept_steps(config))
    return kept + (prepared[-1] if config.keep_starts or not kept_steps(config) else 0)


def count_evaluations(config: SamplingConfig, starts: int | Sequence[Atoms]) -> int:
    """The most evaluations of a Potential that relaxing and driven steps take; labels are not among them."""
    made, prepared = _plan(config, starts)
    n_atoms = 1 if isinstance(starts, int) else max(map(len, starts), default=1)
    total = 0
    for step, present in zip(config.steps, prepared, strict=False):
        if isinstance(step, Preparing):
            total += step.evaluations(present)
        elif isinstance(step, Driven):
            incoming = present if step.from_ is None else made[step.from_]
            total += step.n_runs(incoming) * step.evaluations_per_run(n_atoms)
    return total


def kept_steps(config: SamplingConfig) -> list[str]:
    """Names of the steps whose frames belong to the result."""
    return [
        name
        for name, step in zip(config.names, config.steps, strict=True)
        if not isinstance(step, Preparing) and step.keep
    ]


def _plan(config: SamplingConfig, starts: int | Sequence[Atoms]) -> tuple[dict[str, int], list[int]]:
    """Frames a step makes, by name, and the starts each step has, the last entry after all steps."""
    if isinstance(starts, int):
        chosen: int | Sequence[Atoms] = starts if config.start_index is None else len(config.start_index)
    else:
        chosen = choose_starts(starts, config)
    prepared = count_starts(config.steps, chosen, config.seed)
    made: dict[str, int] = {}
    for name, step, present in zip(config.names, config.steps, prepared, strict=False):
        if isinstance(step, Preparing):
            continue
        incoming = present if step.from_ is None else made[step.from_]
        if isinstance(step, Driven):
            made[name] = step.n_runs(incoming) * step.frames_per_run
        elif isinstance(step, Contacts):
            pairs = 1 if isinstance(starts, int) else len(element_pairs(starts))
            made[name] = pairs * min(step.scans, incoming) * step.n
        elif isinstance(step, Torsions):
            made[name] = incoming * step.n
        else:
            kinds = len(step.amplitudes) if isinstance(step, Rattle) else len(step.modes)
            made[name] = incoming * kinds * step.n
    return made, prepared


def choose_starts(starts: Sequence[Atoms], config: SamplingConfig) -> list[Atoms]:
    """The starts that ``start_index`` names, or all; InputError where it names one that is not there."""
    if config.start_index is None:
        return list(starts)
    outside = [k for k in config.start_index if not -len(starts) <= k < len(starts)]
    if outside:
        raise InputError(
            "no such starting structure",
            where="sampling, start_index",
            got=outside[0],
            wanted=f"0 to {len(starts) - 1}",
        )
    return [starts[k] for k in config.start_index]
