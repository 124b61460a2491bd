"""How fast a Potential is on one structure: energy, forces and stress, neighbour list included."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch


def atoms_per_second(
    potentials: Sequence[Potential], atoms: Atoms, *, repeats: int = 5, seconds: float = 3.0
) -> list[float]:
    """Median atoms/s of each Potential, measured in alternation after one warm-up call each.

    Positions change a little from call to call, as in dynamics, so that nothing can be cached.
    A Potential stops after ``repeats`` calls, or once its calls took ``seconds``, but never before two.
    """
    rng = np.random.default_rng(0)
    times: list[list[float]] = [[] for _ in potentials]
    for potential in potentials:
        potential.evaluate(StructureBatch.from_atoms([atoms]))
    for _ in range(max(2, repeats)):
        for potential, taken in zip(potentials, times, strict=True):
            if len(taken) >= 2 and sum(taken) > seconds:
                continue
            moved = atoms.copy()
            moved.positions += rng.normal(scale=1e-3, size=moved.positions.shape)
            batch = StructureBatch.from_atoms([moved])
            began = time.perf_counter()
            potential.evaluate(batch)
            taken.append(time.perf_counter() - began)
    return [len(atoms) / statistics.median(taken) for taken in times]
