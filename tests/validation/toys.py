"""Small analytic potentials and labelled sets for the tests of validation."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from limbeck.core.labels import LabelledSet, Labels
from limbeck.core.potential import AsePotential, Capabilities, Potential
from limbeck.core.structures import StructureBatch


def emt() -> AsePotential:
    return AsePotential(EMT(), Capabilities(), "emt")


class Springs(Potential):
    """Every atom on a spring of its own: E = k/2 |x - x0|^2, all structures alike in size."""

    name = "springs"
    capabilities = Capabilities(periodic=False, stress=False)

    def __init__(self, anchors: np.ndarray, k: float = 2.0) -> None:
        self.anchors, self.k = anchors, k

    def evaluate(self, batch: StructureBatch) -> Labels:
        d = batch.positions.reshape(len(batch), -1, 3) - self.anchors
        return Labels(0.5 * self.k * (d**2).sum(axis=(1, 2)), (-self.k * d).reshape(-1, 3))


def copper_frames(count: int, seed: int = 0, sizes: tuple[int, ...] = (1, 2, 1)) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(count):
        atoms = bulk("Cu", cubic=True).repeat((sizes[k % len(sizes)], 1, 1))
        atoms.symbols[0] = "Au"
        atoms.positions += rng.normal(size=atoms.positions.shape) * 0.08
        atoms.set_cell(atoms.cell.array * (1 + 0.02 * rng.normal()), scale_atoms=True)
        frames.append(atoms)
    return frames


def label_set(frames: list[Atoms], labels: Labels, groups=None, kelvin=None) -> LabelledSet:
    n = len(frames)
    return LabelledSet(
        structures=StructureBatch.from_atoms(frames),
        labels=labels,
        group=np.array(groups if groups is not None else [""] * n),
        config_type=np.array(groups if groups is not None else ["md"] * n),
        temperature_k=np.array(kelvin if kelvin is not None else [np.nan] * n, np.float64),
    )
