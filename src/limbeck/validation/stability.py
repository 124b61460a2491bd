"""How long a student's own dynamics lasts where it is hot, compressed and stretched.

A run ends at the first frame that is unphysical (contacts, temperature, numbers that are not finite)
or that ``objection`` finds outside the training domain; the student needs labels of what came just before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from ase import Atoms

from limbeck.core.frames import Trajectory, TrajectoryCache
from limbeck.core.hashing import hash_json, hash_structure
from limbeck.core.potential import Potential
from limbeck.core.trajectory import Constant, OnStep, Stop, run_trajectory

WATCH_EVERY_FS = 20.0  #: how often a run's frames are looked at and kept

Objection = Callable[[Atoms], str | None]


@dataclass(frozen=True)
class StabilityRun:
    """One run.

    Attributes
    ----------
    reached_ps: time of its last frame. stable: it lasted as long as was asked.
    reason: why it ended early ("" where it did not).
    frames: every ``WATCH_EVERY_FS``; the last one is that which was objected to, where one was.
    """

    reached_ps: float
    stable: bool
    reason: str
    frames: list[Atoms]

    def last(self, count: int) -> list[Atoms]:
        """The frames from just before the end of a run that failed."""
        return [] if self.stable else self.frames[-count:]

    def spread_out(self, count: int) -> list[Atoms]:
        """At most ``count`` frames, evenly over the run as far as nothing was wrong."""
        usable = self.frames if self.stable else self.frames[:-1]
        places = np.linspace(0, len(usable), min(count, len(usable)) + 1)[1:] - 1
        return [usable[int(k)] for k in places]


def strained_starts(structures: Sequence[Atoms], count: int, strain: float) -> list[Atoms]:
    """``count`` starts alternating as they are, compressed and stretched by ``strain`` along all axes.

    What does not repeat in three directions stays as it is.
    """
    starts = []
    for k in range(count):
        atoms = structures[k % len(structures)]
        size = (0.0, -strain, strain)[k % 3]
        strained = atoms.copy()
        if size and atoms.pbc.all():
            strained.set_cell((1 + size) * atoms.cell.array, scale_atoms=True)
        strained.info["group"] = f"{atoms.info.get('group', 'start')}/{k}"
        starts.append(strained)
    return starts


def run_stability(
    student: Potential,
    starts: Sequence[Atoms],
    *,
    temperature_k: float,
    duration_ps: float,
    timestep_fs: float,
    seed: int,
    name: str = "stability",
    objection: Objection = lambda frame: None,
    cache: TrajectoryCache | None = None,
    key: str = "",
    on_step: OnStep = lambda: None,
    stop: Stop = lambda: False,
) -> list[StabilityRun]:
    """Langevin dynamics with the student from each start; the runs that came to their end.

    Parameters
    ----------
    duration_ps: of each run.
    objection: why a frame must not be trusted, or None; it ends the run.
    cache, key: where finished runs are kept, and what tells this student and evaluate from others.
    stop: once true, the run at work is given up and no other is begun.
    """
    frames = max(1, round(1000.0 * duration_ps / WATCH_EVERY_FS))
    course = Constant(name, frames, timestep_fs, WATCH_EVERY_FS)
    cache = cache or TrajectoryCache(None)
    runs: list[StabilityRun] = []
    for k, start in enumerate(starts):
        group = f"{start.info.get('group', 'start')}/{name}-{temperature_k:g}K"
        own = hash_json([key, asdict(course), temperature_k, seed, k, group, hash_structure(start)])
        trajectory = cache.get(own)
        if trajectory is None:
            if stop():
                break
            rng = np.random.default_rng([seed, k])
            trajectory = run_trajectory(
                start, student, course, temperature_k, rng, group, on_step, stop, watch=objection
            )
            if trajectory.cut:
                break
            cache.put(own, trajectory)
        runs.append(_judged(trajectory))
    return runs


def _judged(trajectory: Trajectory) -> StabilityRun:
    return StabilityRun(
        reached_ps=len(trajectory.frames) * WATCH_EVERY_FS / 1000.0,
        stable=trajectory.stopped is None,
        reason=trajectory.stopped or "",
        frames=trajectory.frames,
    )
