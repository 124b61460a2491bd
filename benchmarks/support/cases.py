"""Structures and students: silicon crystals, a molecule of 16 atoms, released or random students."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

CUTOFF = 5.0  # Å
BENZAMIDE = "NC(=O)c1ccccc1"  # 16 atoms of H, C, N, O
RATTLE_A = 0.05
#: Atoms -> repeats of the cubic cell of eight
SILICON = {
    16: (2, 1, 1),
    64: (2, 2, 2),
    96: (3, 2, 2),
    512: (4, 4, 4),
    1_000: (5, 5, 5),
    10_000: (5, 10, 25),
    100_000: (20, 25, 25),
}
MOLECULE = "benzamide"
CLUSTER = "63 benzamides"  # 1,008 atoms


def structure(name: str) -> Atoms:
    """``Si 1000``: a rattled crystal; the molecule; or copies of it that do not interact."""
    if name.startswith("Si "):
        atoms = bulk("Si", cubic=True) * SILICON[int(name.split()[1])]
        atoms.rattle(RATTLE_A, seed=0)
        return atoms
    from limbeck.sampling.starts import smiles_conformers

    found = smiles_conformers(BENZAMIDE, seed=0)[0]
    molecule = Atoms(found.numbers, found.positions)
    if name == MOLECULE:
        return molecule
    shifts = 20.0 * np.array([(a, b, c) for a in range(4) for b in range(4) for c in range(4)][:63])
    positions = np.concatenate([molecule.positions + shift for shift in shifts])
    return Atoms(np.tile(molecule.numbers, len(shifts)), positions)


def write_case(name: str, folder: Path) -> dict[str, Any]:
    """Write a structure for the workers."""
    path = folder / f"{name.replace(' ', '_')}.extxyz"
    if not path.exists():
        ase.io.write(path, structure(name), columns=["symbols", "positions"])
    return {"name": name, "file": str(path)}


def n_atoms(name: str) -> int:
    return int(name.split()[1]) if name.startswith("Si ") else {MOLECULE: 16, CLUSTER: 1_008}[name]


def pairs_per_atom(name: str, cutoff: float = CUTOFF) -> float:
    """Undirected pairs within the cutoff, per atom."""
    atoms = structure(name)
    return len(neighbor_list("i", atoms, cutoff)) / 2 / len(atoms)


def student(name: str, folder: Path) -> tuple[str, str]:
    """A released student by name, or a file with random weights; and which of the two."""
    from limbeck.runtime.released import list_students

    for released in list_students():
        if released.name == name:
            return name, "released"
    system, _, preset = name.partition("-")
    path = folder / f"{name}.safetensors"
    if not path.exists():
        _write_random(path, preset, (14,) if system == "silicon" else (1, 6, 7, 8))
    return str(path), "random weights"


def _write_random(path: Path, preset: str, elements: tuple[int, ...]) -> None:
    from limbeck.artifact.file import StudentArtifact, write_student
    from limbeck.students.baseline import Baseline, zbl_radii
    from limbeck.students.specification import initial_weights, preset_architecture

    architecture = preset_architecture(preset, elements, cutoff=CUTOFF)
    weights = initial_weights(architecture, seed=0, mean_neighbours=28.0)
    baseline = Baseline(dict.fromkeys(elements, 0.0), zbl_radii(elements, {}))
    single = {key: value.astype(np.float32) for key, value in weights.items()}
    write_student(path, StudentArtifact(architecture, baseline, single, {"preset": preset}))
