"""The interface of backends, which evaluate students, and their result for one structure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from limbeck.core.structures import StructureBatch
from limbeck.students.engine import Outputs


@dataclass(frozen=True)
class Evaluation:
    """Results for one structure of N atoms.

    Attributes
    ----------
    energy: eV. forces: (N, 3) float64, eV/Å. atom_energies: (N,) float64, eV.
    virial: (3, 3) float64, eV, dE/d(strain); stress is virial / volume where ``periodic``.
    shortest: (Z, Z) float64, Å, symmetric; closest distance of each pair of the student's Z elements
        (ascending atomic numbers) within the cutoff, inf where no such pair is.
    periodic: in all three directions, so that stress is defined.
    volume: Å³, zero without a cell.
    atom_virials: (N, 3, 3) float64, eV, half of each pair's for either atom; None unless requested
        of the native core.
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray
    atom_energies: np.ndarray
    shortest: np.ndarray
    periodic: bool
    volume: float
    atom_virials: np.ndarray | None = None


def extent(atoms: Atoms) -> tuple[bool, float]:
    """``periodic`` and ``volume`` of an :class:`Evaluation`."""
    # plain floats: numpy's determinant costs as much as a small molecule's messages
    (a, b, c), (d, e, f), (g, h, i) = atoms.cell.array.tolist()
    volume = float(abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)))
    return bool(atoms.pbc.all()) and volume > 0, volume


class System(ABC):
    """One evolving structure and its neighbour list with a skin. For one thread."""

    @abstractmethod
    def evaluate(self, atoms: Atoms, atom_virials: bool = False) -> Evaluation:
        """Results for one structure; any may follow any other."""


class Backend(ABC):
    """Evaluates one student; any number of threads may use it."""

    name: str

    @abstractmethod
    def system(self, skin: float, threads: int) -> System:
        """A new :class:`System`."""

    @abstractmethod
    def evaluate(self, batch: StructureBatch, threads: int) -> Outputs:
        """Outputs for a batch of structures."""
