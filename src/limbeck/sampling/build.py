"""Preparing steps carried out: from starting structures to those that later steps draw from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.core.checks import check_structures
from limbeck.errors import InputError
from limbeck.sampling.defects import interstitials, vacancies
from limbeck.sampling.perturb import supercell
from limbeck.sampling.preparing import Interstitial, Preparing, Relax, Slab, Supercell, Thin, Vacancy
from limbeck.sampling.surfaces import can_be_cut, slab
from limbeck.sampling.thinning import thin

#: what a step that makes nothing of any start would need
_FITTING = {
    "slab": "a crystal: periodic in three directions, without vacuum and without molecules",
    "vacancy": "a start with a surface (vacuum of more than 5 Å)",
    "interstitial": "a periodic structure",
}


def build(step: Preparing, starts: Sequence[Atoms], seed: Sequence[int]) -> list[Atoms]:
    """The structures that ``step`` makes of ``starts``; a ``relax`` step leaves them as they are.

    Parameters
    ----------
    starts: frames, each with a family.
    seed: fixes what is chosen at random, with the number of the start.

    Raises
    ------
    InputError: the step fits none of the structures, or one of them in a way that it must.
    """
    if isinstance(step, Supercell):
        if not any(a.pbc.any() for a in starts):
            supercell(starts[0], step.variants[0])  # says why it cannot
        return [
            _named(supercell(a, one), a, one, step) if a.pbc.any() else a
            for a in starts
            for one in (step.variants if a.pbc.any() else step.variants[:1])
        ]
    if isinstance(step, Thin):
        return thin(starts, step.max)
    rngs = [np.random.default_rng([*seed, k]) for k in range(len(starts))]
    if isinstance(step, Slab):
        return _each(starts, lambda a, k: [slab(a, step)] if can_be_cut(a) else [], step)
    if isinstance(step, Vacancy):
        return _each(starts, lambda a, k: vacancies(a, step, rngs[k]), step)
    if isinstance(step, Interstitial):
        return _each(starts, lambda a, k: interstitials(a, step, rngs[k]), step)
    assert isinstance(step, Relax)
    return list(starts)


def count_starts(steps: Sequence[object], starts: int | Sequence[Atoms], seed: int) -> list[int]:
    """How many starts each step draws from, and at the end how many there are.

    Of a number of starts the most that can come of it, of the structures themselves what does
    (as far as relaxing them does not change which sites are alike).
    """
    preparing = [s for s in steps if isinstance(s, Preparing)]
    exact = not isinstance(starts, int) and any(s.counts_vary for s in preparing)
    present: list[Atoms] = list(starts) if exact and not isinstance(starts, int) else []
    number = starts if isinstance(starts, int) else len(starts)
    numbers = [number]
    for index, step in enumerate(steps):
        if isinstance(step, Preparing):
            if exact:
                present = build(step, present, (seed, index))
            number = len(present) if exact else step.count(number)
        numbers.append(number)
    return numbers


def _each(
    starts: Sequence[Atoms],
    make: Callable[[Atoms, int], list[Atoms]],
    step: Slab | Vacancy | Interstitial,
) -> list[Atoms]:
    """What is made of each start, after the start itself where it stays; untouched starts stay too."""
    made = [make(atoms, k) for k, atoms in enumerate(starts)]
    if not any(made):
        first = starts[0]
        raise InputError(
            f"the step {step.kind} fits none of the starting structures",
            where=f"step {step.kind}",
            got=f"{first.get_chemical_formula()}, pbc {first.pbc.tolist()}" + ", ..." * (len(starts) > 1),
            wanted=_FITTING[step.kind],
        )
    for atoms, new in zip(starts, made, strict=True):
        check_structures([atoms, *new], f"step {step.kind}, start {atoms.info.get('family', '')}")
    return [a for atoms, new in zip(starts, made, strict=True)
            for a in ([atoms, *new] if step.add or not new else new)]  # fmt: skip


def _named(made: Atoms, parent: Atoms, one: Supercell, step: Supercell) -> Atoms:
    """Supercells of several sizes are families of their own."""
    if step.sizes and one.repeat is not None:
        size: tuple[Any, ...] = one.repeat
        made.info["family"] = f"{parent.info.get('family', '')}/{'x'.join(map(str, size))}"
    return made
