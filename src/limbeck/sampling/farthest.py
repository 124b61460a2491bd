"""Farthest-point sampling: choosing frames for what is least like anything chosen before."""

from __future__ import annotations

import numpy as np

from limbeck.sampling.environments import Environments

_SAME = 1e-3  # environments nearer than this are one and the same; the vectors are float32
_NEW_ELEMENT = 1e3  # farther than any environment: an element that no frame taken holds


def farthest_frames(environments: Environments, n: int, *, known: int = 0, seed: int = 0) -> np.ndarray:
    """Farthest-point sampling over environments (Gonzalez 1985): (n,) int64 frames, in order.

    Each time the frame is taken that holds the environment farthest from all environments of like
    centres in the frames taken so far. The first ``known`` frames count as taken and are not
    returned; where there are none, the first distances are those from the most ordinary frame, whose
    mean is nearest the mean of all. Elements that no frame taken holds come first, frames that hold
    nothing new last, in random order. O(n E A D) time for E environments of D numbers and A atoms a
    frame.
    """
    parts = [_Element(environments, z) for z in np.unique(environments.element)]
    free = np.arange(environments.n_frames) >= known
    for k in range(known):
        for part in parts:
            part.take(k)
    if not known:
        ordinary = _ordinary(environments)
        for part in parts:
            part.take(ordinary)
    wanted = min(n, environments.n_frames - known)
    order = np.random.default_rng(seed).permutation(environments.n_frames)
    chosen: list[int] = []
    while len(chosen) < wanted:
        novelty = np.where(free, np.max([part.novelty() for part in parts], axis=0), -1.0)
        best = int(np.argmax(novelty))
        if novelty[best] <= _SAME:
            chosen += order[free[order]][: wanted - len(chosen)].tolist()
            break
        free[best] = False
        if not known and not chosen:
            parts = [_Element(environments, z) for z in np.unique(environments.element)]
        chosen.append(best)
        for part in parts:
            part.take(best)
    return np.array(chosen, dtype=np.int64)


def _ordinary(environments: Environments) -> int:
    """The frame whose mean environment is nearest the mean of all frames'."""
    sums = np.zeros((environments.n_frames, environments.vectors.shape[1]))
    np.add.at(sums, environments.frame, environments.vectors)
    means = sums / np.bincount(environments.frame, minlength=environments.n_frames)[:, None]
    return int(np.argmin(((means - means.mean(axis=0)) ** 2).sum(axis=1)))


class _Element:
    """Environments of one element: how far each is from those taken."""

    def __init__(self, environments: Environments, element: int) -> None:
        own = environments.element == element
        self.x, self.frame = environments.vectors[own], environments.frame[own]
        self.square = (self.x**2).sum(axis=1)
        self.n_frames = environments.n_frames
        self.begin = np.searchsorted(self.frame, np.arange(self.n_frames + 1))
        self.nearest = np.full(len(self.x), np.inf, np.float32)  # (E,) squared

    def take(self, frame: int) -> None:
        """The environments of ``frame`` are now among those taken."""
        new = slice(self.begin[frame], self.begin[frame + 1])
        if new.start == new.stop:
            return
        # |a - b|² = |a|² + |b|² - 2ab in one product; its rounding stays below _SAME
        part = (self.square[new, None] - 2 * (self.x[new] @ self.x.T)).min(axis=0)
        self.nearest = np.minimum(self.nearest, np.maximum(self.square + part, 0.0))
        self.nearest[new] = 0.0

    def novelty(self) -> np.ndarray:
        """The greatest distance in each frame, (F,)."""
        greatest = np.zeros(self.n_frames)
        np.maximum.at(greatest, self.frame, np.minimum(np.sqrt(self.nearest), _NEW_ELEMENT))
        return greatest
