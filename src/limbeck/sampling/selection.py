"""Selection: which of many candidate frames are worth a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from ase import Atoms

from limbeck.core.committee import committee_spread
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.sampling.coverage import covering_frames
from limbeck.sampling.environments import describe_environments
from limbeck.sampling.farthest import farthest_frames

Method = Literal["random", "coverage", "farthest", "ensemble"]


def select_frames(
    frames: Sequence[Atoms],
    n: int,
    method: Method = "random",
    *,
    seed: int = 0,
    known: Sequence[Atoms] = (),
    potentials: Sequence[Potential] = (),
) -> np.ndarray:
    """Which ``n`` of ``frames`` to label, (n,) int64 in the order chosen; all where there are no more.

    Parameters
    ----------
    method: ``random``; ``coverage``, so that every environment has one like it among the chosen
        (:func:`covering_frames`); ``farthest``, the most unusual ones (:func:`farthest_frames`);
        ``ensemble``: of the 2n frames on whose forces ``potentials`` differ most, the n farthest
        from each other.
    seed: fixes every random choice.
    known: frames that have labels already, which all methods but ``random`` take into account.
    potentials: two or more, for ``ensemble``.

    Raises
    ------
    InputError: n below 1, an unknown method, too few potentials, frames that cannot be used.
    LimbeckError: dscribe is not installed (all methods but ``random``).
    """
    if n < 1:
        raise InputError("cannot select so few frames", got=n, wanted="at least 1")
    if method not in get_args(Method):
        raise InputError("no such way of selecting", got=method, wanted=", ".join(get_args(Method)))
    if n >= len(frames):
        return np.arange(len(frames))
    if method == "random":
        return np.random.default_rng(seed).permutation(len(frames))[:n]
    candidates = np.arange(len(frames))
    if method == "ensemble":
        candidates = np.argsort(-force_spread(frames, potentials), kind="stable")[: 2 * n]
    environments = describe_environments([*known, *(frames[int(k)] for k in candidates)], seed=seed)
    pick = covering_frames if method == "coverage" else farthest_frames
    return candidates[pick(environments, n, known=len(known), seed=seed) - len(known)]


def force_spread(frames: Sequence[Atoms], potentials: Sequence[Potential]) -> np.ndarray:
    """How far ``potentials`` differ in the forces on each frame's most disputed atom, (F,) eV/Å.

    See :func:`limbeck.core.committee.committee_spread`.
    """
    if len(potentials) < 2:
        raise InputError(
            "an ensemble needs potentials that can differ", got=len(potentials), wanted="at least 2"
        )
    batch = StructureBatch.from_atoms(frames)
    return committee_spread(np.stack([p.evaluate(batch).forces for p in potentials]), batch)
