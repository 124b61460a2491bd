"""Random students and inconvenient structures for tests of students, files and runtime."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from limbeck.artifact.file import StudentArtifact
from limbeck.students.baseline import Baseline, zbl_radii
from limbeck.students.specification import (
    Architecture,
    initial_amplitudes,
    initial_weights,
    preset_architecture,
    with_cores,
)

ORGANIC_AND_SILICON = (1, 6, 7, 8, 14)


def random_weights(architecture: Architecture, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights unlike initial ones: biases are not zero, the readout is not small."""
    rng = np.random.default_rng([seed, 1])
    weights = initial_weights(architecture, seed=seed, mean_neighbours=200.0)
    for name, value in weights.items():
        if name.endswith("bias"):
            weights[name] = 0.1 * rng.normal(size=value.shape)
        elif "filter" in name:
            # more of the fast waves than at the start, fewer than leave finite differences no step
            slower = initial_amplitudes(architecture) * np.arange(1, len(value) + 1) ** 0.5
            weights[name] = value / slower[:, None]
        elif "out.weight" in name:
            # features multiply three times an interaction: dense structures would explode
            weights[name] = 0.1 * value
    weights["readout.1.weight"] = 5.0 * weights["readout.1.weight"]
    return weights


def random_record(
    preset: str = "ultra-tiny",
    elements=ORGANIC_AND_SILICON,
    *,
    seed: int = 0,
    dtype=np.float64,
) -> StudentArtifact:
    architecture = replace(preset_architecture(preset, elements), energy_scale=0.7)
    rng = np.random.default_rng([seed, 2])
    references = {int(z): float(-10 * rng.random()) for z in architecture.elements}
    radii = zbl_radii(architecture.elements, {})
    # cores so large that bonds lie within them: 1.2 sums of covalent radii, where ZBL has 0.8
    architecture = with_cores(architecture, {pair: 3.0 * radius for pair, radius in radii.items()})
    weights = {k: v.astype(dtype) for k, v in random_weights(architecture, seed).items()}
    return StudentArtifact(architecture, Baseline(references, radii), weights, {"preset": preset})


def checkpoint_state(record: StudentArtifact) -> dict[str, Any]:
    """What ``torch.save`` writes of a student and ``convert_checkpoint`` reads again."""
    import torch

    weights = {name: torch.from_numpy(np.array(value)) for name, value in record.weights.items()}
    return {"model_state_dict": weights, "limbeck": json.dumps(record.own_fields() | record.card)}


def rattled(atoms: Atoms, seed: int, width: float = 0.08) -> Atoms:
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(seed).normal(size=atoms.positions.shape) * width
    return atoms


def triclinic() -> Atoms:
    atoms = bulk("Si", cubic=True)
    strain = np.array([[1, 0.2, 0.1], [0, 0.95, -0.2], [0.05, 0, 1.05]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.symbols[::3] = "O"
    return rattled(atoms, 1)


def left_handed() -> Atoms:
    atoms = triclinic()
    atoms.set_cell(atoms.cell.array[[1, 0, 2]], scale_atoms=False)
    assert np.linalg.det(atoms.cell.array) < 0
    return atoms


def far_outside() -> Atoms:
    """Atoms several cells away from their own."""
    atoms = triclinic()
    atoms.positions += np.arange(len(atoms))[:, None] % 3 * atoms.cell.array[1] * -4
    return atoms


SYSTEMS = {
    "molecule": rattled(molecule("CH3CH2OH"), 0),
    "two atoms in a cell smaller than the cutoff": rattled(bulk("Si"), 3),
    "one atom in a cell": bulk("Si", "fcc", a=3.6),
    "triclinic": triclinic(),
    "left-handed": left_handed(),
    "far outside": far_outside(),
    "slab": Atoms(triclinic(), pbc=(True, True, False)),
    "isolated atom": Atoms("O", positions=[[0.3, -0.2, 0.1]]),
}
