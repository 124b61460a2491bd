"""Atoms of a crystal repel each other when pushed together, down to the repulsion of nuclei."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read

from limbeck import Student

LICL = Path(__file__).parents[2] / "examples" / "licl.cif"
# without silicon-hot, which was trained without close-contact scans (students/README.md)
CRYSTALS = {
    "silicon": lambda: bulk("Si", cubic=True) * (2, 2, 2),
    "cu111": lambda: bulk("Cu", cubic=True) * (3, 3, 3),
    "licl": lambda: read(LICL) * (2, 2, 2),
}


def pushed(crystal: Atoms, distances: np.ndarray) -> list[Atoms]:
    """The first atom and its nearest neighbour at each of the relative distances, their midpoint fixed."""
    apart = crystal.get_distances(0, range(len(crystal)), mic=True)
    other = int(np.argsort(apart)[1])
    along = crystal.get_distance(0, other, mic=True, vector=True) / apart[other]
    frames = []
    for distance in distances * apart[other]:
        frame = crystal.copy()
        frame.positions[0] += along * (apart[other] - distance) / 2
        frame.positions[other] -= along * (apart[other] - distance) / 2
        frames.append(frame)
    return frames


@pytest.mark.parametrize("preset", ["tiny", "ultra-tiny"])
@pytest.mark.parametrize("name", CRYSTALS)
def test_released_students_repel_at_close_contact(name, preset):
    student = Student.load(f"{name}-{preset}", threads=1)
    energies = student.evaluate(pushed(CRYSTALS[name](), np.linspace(0.9, 0.15, 40))).energy
    assert (np.diff(energies) > 0).all(), np.round(energies - energies[0], 2)
    assert energies[-1] - energies[0] > 50  # Thomas and Fermi: hundreds of eV well inside 1 Å
