"""Potentials that are open already, timed on one structure by the routine of ``limbeck bench``."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Sequence

from ase import Atoms

from limbeck.benchmark.rows import Timing
from limbeck.benchmark.turns import Limits, measure_in_turns
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.core.timing import LocalSubject, Unmeasured
from limbeck.errors import LimbeckError

#: a call of many seconds need not be repeated: its cold start is a small part of it
ROUNDS, ENOUGH_S, LEAST_CALLS = 9, 1.0, 1


def time_in_turns(potentials: Sequence[Potential], atoms: Atoms) -> list[Timing]:
    """Timings of steps of dynamics with each Potential, taken in alternating blocks.

    ``limbeck bench`` gives each model a process of its own, so that memory can be told apart and slow ones
    ended. Here the models stay where they are: to load a teacher again takes longer than all of this. A
    teacher in a worker process answers through its pipe, which takes about 0.2 ms of a call.

    Raises
    ------
    LimbeckError: energies or forces that are not finite; what a Potential raises.
    """
    opens = [functools.partial(LocalSubject, potential) for potential in potentials]
    limits = Limits(time.monotonic, row_s=math.inf, rounds=ROUNDS, enough_s=ENOUGH_S, least_calls=LEAST_CALLS)
    timings = []
    found = measure_in_turns(opens, StructureBatch.from_atoms([atoms]), limits)
    for potential, (result, _) in zip(potentials, found, strict=True):
        if isinstance(result, Unmeasured):
            raise LimbeckError("no speed could be measured", where=potential.name, got=str(result))
        timings.append(result)
    return timings


def seconds_per_step(potential: Potential, atoms: Atoms, calls: int = 3) -> float:
    """Seconds that a step of dynamics takes, the integrator's own not counted: a median after warm-up."""
    subject = LocalSubject(potential)
    subject.prepare(StructureBatch.from_atoms([atoms]), 0.0)
    return max(statistics.median(subject.time(calls, math.inf)), 1e-6)


def seconds_per_label(potential: Potential, atoms: Atoms, structures: int) -> float:
    """Seconds a structure of several (two or more) given at once, so that all workers are at work."""
    potential.evaluate(StructureBatch.from_atoms([atoms]))  # warms up
    batch = StructureBatch.from_atoms([atoms] * structures)
    return max(LocalSubject(potential).prepare(batch, 0.0).last_s / structures, 1e-6)
