"""Configuration of sampling: an ordered list of steps, what it makes and what it costs.

Preparing steps (``supercell``, ``slab``, ``vacancy``, ``interstitial``, ``relax``, ``thin``) replace the
starting structures for every step after them. All others draw from the starting structures, or with
``from: NAME`` from the frames of an earlier step, and add their frames to the result unless they say
``keep: false``:

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
import re
from collections.abc import Sequence
from typing import Annotated

from ase import Atoms
from pydantic import Field, model_validator

from limbeck.core.scans import is_scan
from limbeck.errors import InputError
from limbeck.sampling.contacts import Contacts, element_pairs
from limbeck.sampling.defects import Interstitial, Vacancy
from limbeck.sampling.dynamics import MD, Melt
from limbeck.sampling.modes import Modes
from limbeck.sampling.perturb import Rattle, Strain, Torsions
from limbeck.sampling.preparing import Relax, Slab, Supercell, Thin
from limbeck.sampling.rattle_relax import RattleRelax
from limbeck.sampling.steps import Driven, Frozen, Preparing

Prepare = Supercell | Slab | Vacancy | Interstitial | Relax | Thin
Step = Annotated[
    Prepare | Rattle | Strain | MD | Melt | RattleRelax | Modes | Torsions | Contacts,
    Field(discriminator="kind"),
]


class SamplingConfig(Frozen):
    """What to sample; the test set is a second one with its own seed and starts.

    seed: with step and start it fixes every random number. start_index: which of the starting
    structures are used (all unless given). keep_starts: the prepared starts belong to the result.
    """

    seed: int = Field(0, ge=0)
    start_index: tuple[int, ...] | None = None
    keep_starts: bool = False
    steps: tuple[Step, ...] = ()

    @property
    def kept_steps(self) -> list[str]:
        """Names of the steps whose frames belong to the result."""
        steps = zip(self.names, self.steps, strict=True)
        return [name for name, step in steps if not isinstance(step, Preparing) and step.keep]

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


def summary(config: SamplingConfig) -> str:
    """The steps in a line: ``rattle 0.02, 0.04 Å; md 300, 600 K, 1 fs (twice)``."""
    steps = []
    for step in config.steps:
        parts = [_filled(part, step) for part in step.said.split(", ")]
        steps.append(f"{step.kind} {', '.join(filter(None, parts))}")
    runs = ((step, len(list(alike))) for step, alike in itertools.groupby(steps))
    times = {1: "", 2: " (twice)"}
    return "; ".join(step + times.get(n, f" ({n} times)") for step, n in runs) or "the starting structures"


def _filled(part: str, step: Step) -> str:
    """A part of what is said of a step with its values; "" where one is not set."""
    values = {name: getattr(step, name) for name in re.findall(r"{(\w+)}", part)}
    if any(value is None or value is False for value in values.values()):
        return ""
    return part.format(**{name: _short(value) for name, value in values.items()})


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ("x" if isinstance(value[0], int) else ", ").join(map(_short, value))
    return "" if value is True else f"{value:g}" if isinstance(value, float) else str(value)


def count_frames(config: SamplingConfig, starts: int | Sequence[Atoms]) -> int:
    """The most frames that :func:`run_sampling` returns: where no run ends early and every step fits.

    ``starts``: the starting structures; or their number, of which the most that can be is counted (how
    many variants of a defect there are depends on the structures; ``contacts`` takes one pair of elements).
    """
    made, prepared = _plan(config, starts)
    kept = sum(made[name] for name in config.kept_steps)
    return kept + (prepared[-1] if config.keep_starts or not config.kept_steps else 0)


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
            total += step.n_runs(incoming) * step.size(n_atoms).evaluations
    return total


def _plan(config: SamplingConfig, starts: int | Sequence[Atoms]) -> tuple[dict[str, int], list[int]]:
    """Frames a step makes, by name, and the starts each step has, the last entry after all steps.

    Of a number of starts the most that can come of it, of the structures themselves what does
    (as far as relaxing them does not change which sites are alike).
    """
    varying = any(isinstance(step, Preparing) and step.counts_vary for step in config.steps)
    if isinstance(starts, int):
        present, number, n_pairs = None, starts, 1
        if config.start_index is not None:
            number = len(config.start_index)
    else:
        present, n_pairs = choose_starts(starts, config), len(element_pairs(starts))
        number = len(present)
    prepared: list[int] = [number]
    made: dict[str, int] = {}
    for index, (name, step) in enumerate(zip(config.names, config.steps, strict=True)):
        if not isinstance(step, Preparing):
            made[name] = step.count(number if step.from_ is None else made[step.from_], n_pairs)
        elif varying and present is not None:
            present = step.build(present, (config.seed, index))
            number = len(present)
        else:
            number = step.count(number)
        prepared.append(number)
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
