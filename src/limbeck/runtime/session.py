"""The evaluation state of one student for one evolving structure."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError

if TYPE_CHECKING:
    from limbeck.runtime.student import Student

DEFAULT_SKIN_A = 0.5  #: wider keeps the pairs for longer, with more beyond the cutoff to sort out


@dataclass(frozen=True)
class Evaluation:
    """What a student says of one structure of N atoms.

    Attributes
    ----------
    energy: eV. forces: (N, 3) float64, eV/Å. atom_energies: (N,) float64, eV.
    virial: (3, 3) float64, eV, dE/d(strain); stress is virial / volume where ``periodic``.
    shortest: (Z, Z) float64, Å, symmetric; closest distance of each pair of the student's Z elements
        (ascending atomic numbers) within the cutoff, inf where no such pair is.
    periodic: whether the structure repeats in all three directions, so that stress is defined.
    volume: Å³, zero without a cell.
    atom_virials: (N, 3, 3) float64, eV, half of each pair's to either atom; None unless asked for.
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray
    atom_energies: np.ndarray
    shortest: np.ndarray
    periodic: bool
    volume: float
    atom_virials: np.ndarray | None = None


class Session:
    """Evaluates structures that change little from one call to the next, as dynamics makes them.

    Pairs within ``cutoff + skin`` are kept until an atom has moved half the skin (beyond what the
    cell's own deformation moves it), so results are those of a fresh list. Any structure may follow
    any other. One thread uses it at a time; others wait.
    """

    def __init__(self, student: Student, *, skin: float = DEFAULT_SKIN_A, threads: int | None = None) -> None:
        if not 0 <= skin < np.inf:
            raise InputError("the skin is not a length", got=skin, wanted="Å, zero or more")
        self.student, self.skin, self.threads = student, float(skin), threads
        self._system = student.backend.system(self.skin, student.number_of_threads(threads))
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        # systems hold memory of the compiled core: a copy makes its own
        return _make_session, (self.student, self.skin, self.threads)

    def evaluate(self, atoms: Atoms, *, atom_virials: bool = False) -> Evaluation:
        """Energy, forces, virial and the closest contacts of one structure.

        Raises
        ------
        InputError: an element the student does not know, positions or a cell that make no sense.
        """
        numbers, positions = atoms.arrays["numbers"], atoms.arrays["positions"]
        cell, pbc = atoms.cell.array, atoms.pbc
        with self._lock:
            try:
                found = self._system.evaluate(numbers, positions, cell, pbc, atom_virials)
            except LimbeckError:
                # what is wrong with the structure itself is said in the student's words
                self.student.check(StructureBatch.from_atoms([atoms]))
                raise
        volume = _volume(cell)
        return Evaluation(
            energy=found.energy,
            forces=found.forces,
            virial=found.virial,
            atom_energies=found.atom_energies,
            shortest=found.shortest,
            periodic=bool(pbc.all()) and volume > 0,
            volume=volume,
            atom_virials=found.atom_virials,
        )


def _volume(cell: np.ndarray) -> float:
    # plain floats: numpy's determinant costs as much as a small molecule's messages
    (a, b, c), (d, e, f), (g, h, i) = cell.tolist()
    return float(abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)))


def _make_session(student: Student, skin: float, threads: int | None) -> Session:
    return Session(student, skin=skin, threads=threads)
