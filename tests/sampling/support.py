"""Teachers whose results are known, and what several tests compare."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from limbeck.core.hashing import hash_structure
from limbeck.core.potential import AsePotential, Capabilities
from limbeck.core.structures import StructureBatch
from limbeck.sampling import SamplingConfig, run_sampling


class Counting(AsePotential):
    """EMT that counts, can be told to fail, and is made anew for each thread's evaluation."""

    thread_safe = True

    def __init__(
        self, stress: bool = True, fail_after: int | None = None, error: type[Exception] = RuntimeError
    ) -> None:
        super().__init__(EMT(), Capabilities(stress=stress), "emt")
        self.calls, self.fail_after, self.error = 0, fail_after, error

    def evaluate(self, batch):
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise self.error("killed")
        return AsePotential(EMT(), self.capabilities, self.name).evaluate(batch)


def copper(*repeat: int, group: str = "Cu#0") -> Atoms:
    atoms = bulk("Cu", cubic=True) * (repeat or (1, 1, 1))
    atoms.info["group"] = group
    return atoms


def named_molecule(name: str) -> Atoms:
    atoms = molecule(name)
    atoms.info["group"] = f"{name}#0"
    return atoms


def sample(start: Atoms | list[Atoms], *steps, teacher=None, seed: int = 0, **options) -> list[Atoms]:
    starts = start if isinstance(start, list) else [start]
    potentials = {} if teacher is None else {"teacher": teacher}
    return run_sampling(starts, SamplingConfig(seed=seed, steps=steps), potentials, **options)


def hashes(frames: list[Atoms]) -> list[str]:
    return [hash_structure(frame) for frame in frames]


def labels_of(frames: list[Atoms]):
    return AsePotential(EMT(), Capabilities(stress=False), "emt").evaluate(StructureBatch.from_atoms(frames))


def largest_force(atoms: Atoms) -> float:
    return float(np.linalg.norm(labels_of([atoms]).forces, axis=1).max())
