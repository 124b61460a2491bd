"""Choosing frames that stand for all others: every environment of the pool has one like it among them."""

from __future__ import annotations

import numpy as np

from limbeck.sampling.environments import Environments

MOST_DEMANDS = 3_000  # environments to be stood for; a sample of the pool, so frequent ones count more
_CHUNK = 20_000  # environments compared at a time: bounds memory


def covering_frames(
    environments: Environments, n: int, *, known: int = 0, seed: int = 0, power: float = 1.0
) -> np.ndarray:
    """Greedy facility location (Nemhauser, Wolsey, Fisher 1978): (n,) int64 frames, in order.

    Each time the frame is taken that lowers most the sum, over a sample of the pool's environments,
    of the distance (to the ``power``) to the nearest environment of a like centre in the frames
    taken so far. The first ``known`` frames count as taken, are not returned and need not be stood
    for. Frames that lower nothing come last, in random order. O(Q E D + n Q F) time for Q sampled
    environments of E with D numbers in F frames.
    """
    rng = np.random.default_rng(seed)
    pool = np.flatnonzero(environments.frame >= known)
    demands = np.sort(rng.permutation(pool)[:MOST_DEMANDS])
    distance = _distances(environments, demands) ** power  # (Q, F)
    free = np.arange(environments.n_frames) >= known
    # before any frame is taken, a distance that none exceeds
    nearest = np.full(len(demands), distance[np.isfinite(distance)].max(initial=0.0), np.float32)
    if known:
        nearest = np.minimum(nearest, distance[:, :known].min(axis=1))
    distance, frames = np.ascontiguousarray(distance[:, free].T), np.flatnonzero(free)  # (F, Q)
    wanted = min(n, len(frames))
    # gains only shrink as frames are taken, so a gain from before bounds that of now
    gain = np.maximum(nearest - distance, 0.0).sum(axis=1, dtype=np.float64)
    chosen: list[int] = []
    while len(chosen) < wanted:
        best = _best(gain, nearest, distance)
        if gain[best] <= 1e-6:
            rest = rng.permutation(np.setdiff1d(np.arange(len(frames)), chosen))
            chosen += rest[: wanted - len(chosen)].tolist()
            break
        chosen.append(best)
        nearest = np.minimum(nearest, distance[best])
        gain[best] = -1.0
    return frames[np.array(chosen, dtype=np.int64)]


def _best(gain: np.ndarray, nearest: np.ndarray, distance: np.ndarray) -> int:
    """The frame of the greatest gain; gains looked at are brought up to date."""
    while True:
        first = int(np.argmax(gain))
        if gain[first] <= 0:
            return first
        fresh = float(np.maximum(nearest - distance[first], 0.0).sum(dtype=np.float64))
        unchanged = fresh >= gain[first]
        gain[first] = fresh
        if unchanged or fresh >= np.max(gain):
            return first


def _distances(environments: Environments, demands: np.ndarray) -> np.ndarray:
    """From each demanded environment to the nearest of a like centre in each frame, (Q, F) float32."""
    distance = np.full((len(demands), environments.n_frames), np.inf, np.float32)
    for element in np.unique(environments.element[demands]):
        rows = np.flatnonzero(environments.element[demands] == element)
        wanted = environments.vectors[demands[rows]]
        own = np.flatnonzero(environments.element == element)
        begins, start = np.flatnonzero(np.diff(environments.frame[own], prepend=-1)), 0
        bounds = [*begins, len(own)]
        while start < len(begins):
            stop = max(start + 1, int(np.searchsorted(begins, bounds[start] + _CHUNK)) - 1)
            stop = min(stop, len(begins))
            part = own[bounds[start] : bounds[stop]]
            x = environments.vectors[part]
            square = (wanted**2).sum(axis=1)[:, None] + (x**2).sum(axis=1) - 2 * (wanted @ x.T)
            columns = environments.frame[part[begins[start:stop] - bounds[start]]]
            least = np.minimum.reduceat(square, begins[start:stop] - bounds[start], axis=1)
            distance[np.ix_(rows, columns)] = np.sqrt(np.maximum(least, 0.0))
            start = stop
    return distance
