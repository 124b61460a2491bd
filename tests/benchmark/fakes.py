"""Potentials and a clock that cost what a test says, without waiting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from limbeck.core.labels import Labels
from limbeck.core.potential import Capabilities, Potential
from limbeck.core.structures import StructureBatch


class Clock:
    """Seconds that pass only when something takes them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Costly(Potential):
    """Zero forces at a known cost for each call; ``log`` lists whose turn it was."""

    capabilities = Capabilities()

    def __init__(
        self, name: str, clock: Clock, cost_s: Callable[[StructureBatch], float], log: list | None = None
    ) -> None:
        self.name, self.clock, self.cost_s = name, clock, cost_s
        self.log = [] if log is None else log
        self.bad_after: int | None = None
        self.cold_s = 0.0  #: more where another model of the same log was called before

    def evaluate(self, batch: StructureBatch) -> Labels:
        cold = self.log[-1:] != [self.name]
        self.log.append(self.name)
        self.clock.now += self.cost_s(batch) + (self.cold_s if cold else 0.0)
        bad = self.bad_after is not None and self.log.count(self.name) > self.bad_after
        return Labels(
            energy=np.zeros(len(batch)),
            forces=np.full((batch.n_atoms, 3), np.nan if bad else 0.0),
            stress=None,
            atom_energies=None,
        )
