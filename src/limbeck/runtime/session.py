"""Sessions: one student's state for one evolving structure, and the ASE calculator on it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes

from limbeck.core.potential import CachingCalculator
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.runtime.backends.interface import Backend, Evaluation
from limbeck.runtime.guard import Guard

DEFAULT_SKIN_A = 0.5  #: wider keeps the pairs for longer, with more beyond the cutoff to sort out
_VOIGT = np.array([0, 4, 8, 5, 2, 1])  # xx yy zz yz xz xy in the flat (3, 3)


class Evaluator(Protocol):
    """What a session needs of a student."""

    backend: Backend

    def number_of_threads(self, threads: int | None) -> int: ...

    def check(self, batch: StructureBatch) -> None: ...


class Session:
    """Evaluates structures that change little from one call to the next, as in dynamics.

    Pairs within ``cutoff + skin`` are kept until an atom has moved half the skin relative to the cell, so
    results are those of a fresh list. Any structure may follow any other. Threads wait for each other.
    """

    def __init__(
        self, student: Evaluator, *, skin: float = DEFAULT_SKIN_A, threads: int | None = None
    ) -> None:
        if not 0 <= skin < np.inf:
            raise InputError("invalid skin", got=skin, wanted="Å, zero or more")
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
        InputError: an element the student does not know, invalid positions or cell.
        """
        numbers, positions = atoms.arrays["numbers"], atoms.arrays["positions"]
        with self._lock:
            try:
                return self._system.evaluate(numbers, positions, atoms.cell.array, atoms.pbc, atom_virials)
            except LimbeckError:
                # faults of the structure itself have clearer errors there
                self.student.check(StructureBatch.from_atoms([atoms]))
                raise


def _make_session(student: Evaluator, skin: float, threads: int | None) -> Session:
    return Session(student, skin=skin, threads=threads)


class SessionCalculator(CachingCalculator):
    """ASE calculator on a session of a student; ``guard``, where given, checks each evaluation."""

    implemented_properties: ClassVar[list[str]] = [
        "energy", "free_energy", "forces", "stress", "energies", "stresses"
    ]  # fmt: skip

    def __init__(
        self,
        student: Evaluator,
        guard: Guard | None = None,
        *,
        skin: float = DEFAULT_SKIN_A,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        self._student, self._watch = student, guard
        self._session = Session(student, skin=skin, threads=threads)
        self._atom_virials = False

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        if atoms is not None and name in ("stress", "stresses") and not atoms.pbc.all():
            raise PropertyNotImplementedError(
                f"{name} not present in this calculation: not all three directions repeat"
            )
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        if "stresses" in properties and self._student.backend.gives_atom_virials:
            self._atom_virials = True  # they take time: from the first request on
        super().calculate(atoms, properties, system_changes)

    def results_of(self, atoms: Atoms) -> dict[str, Any]:
        found = self._session.evaluate(atoms, atom_virials=self._atom_virials and bool(atoms.pbc.all()))
        if self._watch is not None:
            self._watch.check(atoms, found)
        results: dict[str, Any] = {"energy": found.energy, "free_energy": found.energy}
        results |= {"forces": found.forces, "energies": found.atom_energies}
        if found.periodic:
            stress = (found.virial + found.virial.T) * (0.5 / found.volume)
            results["stress"] = stress.ravel()[_VOIGT]
            if found.atom_virials is not None:
                results["stresses"] = found.atom_virials.reshape(-1, 9)[:, _VOIGT] / found.volume
        return results

    def __copy__(self) -> Self:
        """The same student, with a session and a guard of its own."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.results, twin._watch = dict(self.results), copy.deepcopy(self._watch)
        twin._session = copy.copy(self._session)
        return twin
