"""Steps that need no Potential: rattled, strained and turned copies of each incoming frame."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from limbeck.sampling.config import Rattle, Strain
from limbeck.sampling.driven import FAMILIES_PER_STEP
from limbeck.sampling.moves import Torsions
from limbeck.sampling.perturb import apply_strain, rattle, strains
from limbeck.sampling.torsions import torsion_copies

Copying = Rattle | Strain | Torsions


def perturbed(parent: Atoms, step: Copying, rng: np.random.Generator) -> list[tuple[str, list[Atoms]]]:
    """(label, copies) for each amplitude or mode."""
    if isinstance(step, Torsions):
        return [(f"{step.max_degrees:g}deg", torsion_copies(parent, step, rng))]
    if isinstance(step, Strain):
        return [(mode, [apply_strain(parent, e) for e in strains(step, mode, rng)]) for mode in step.modes]
    out = []
    for stdev in step.amplitudes:
        copies = []
        for _ in range(step.n):
            copy = parent.copy()
            copy.positions = rattle(parent, stdev, step, rng)
            copies.append(copy)
        out.append((f"{stdev:g}A", copies))
    return out


def _blocks(step: Copying, n_incoming: int) -> int:
    """Families that the copies of one start make: enough to split, few enough to list."""
    return max(1, min(step.n, FAMILIES_PER_STEP // n_incoming))


def copy_family(step: Copying, name: str, label: str, parent: Atoms, number: int, n_incoming: int) -> str:
    """Draws from a start are independent, so they make families of their own in blocks; copies of
    sampled frames stay with the frame that they resemble."""
    family = str(parent.info["family"])
    if step.from_:
        return family
    return f"{family}/{name}-{label}-b{number * _blocks(step, n_incoming) // step.n}"
