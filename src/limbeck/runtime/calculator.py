"""The ASE calculator of a student."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes

from limbeck.core.potential import CachingCalculator
from limbeck.errors import InputError
from limbeck.runtime.guard import Guard
from limbeck.runtime.session import DEFAULT_SKIN_A, Session
from limbeck.runtime.student import Student

_VOIGT = np.array([0, 4, 8, 5, 2, 1])  # xx yy zz yz xz xy in the flat (3, 3)


class Calculator(CachingCalculator):
    """ASE calculator on a student file, a released student's name, or a Student.

    Energies, forces, and stress where the structure repeats in all three directions; ``stresses``
    add up to ``stress``, a pair giving half to each of its atoms. It is meant for one thread;
    calculators in different threads may share a Student.

    >>> atoms.calc = Calculator("silicon-tiny")  # doctest: +SKIP

    Parameters
    ----------
    strict: raise :class:`OutOfDomainError` where the structure leaves the training data's domain,
        instead of warning once a kind and counting in ``guard.counts``.
    guarded: compare each evaluation with the training data's ranges; counts stay at zero without.
    skin: Å beyond the cutoff, see :class:`Session`.
    threads: of this calculator; None takes the student's number.
    options: of ``Student.load``, where the student is given by name.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy", "free_energy", "forces", "stress", "energies", "stresses"
    ]  # fmt: skip

    def __init__(
        self,
        student: Student | Path | str,
        *,
        strict: bool = False,
        guarded: bool = True,
        skin: float = DEFAULT_SKIN_A,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        if isinstance(student, Student):
            if options:
                raise InputError(
                    "options of a student that is loaded already",
                    got=", ".join(sorted(options)),
                    remedy="give them to Student.load, or give Calculator the student's file or name",
                )
            self.student = student
        else:
            self.student = Student.load(student, threads=threads, **options)
        super().__init__()
        self.guard = Guard(
            self.student.card, self.student.architecture.elements, name=self.student.name, strict=strict
        )
        self.guarded = guarded
        self._session: Session = self.student.session(skin=skin, threads=threads)
        self._atom_virials = False

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        if atoms is not None and name in ("stress", "stresses") and not atoms.pbc.all():
            raise PropertyNotImplementedError(
                f"{name} not present in this calculation: not all three directions repeat"
            )
        if name == "stresses" and allow_calculation and self.student.backend.gives_atom_virials:
            self._atom_virials = True  # they cost time, so not before somebody asks; from then on always
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        if "stresses" in properties and self.student.backend.gives_atom_virials:
            self._atom_virials = True
        super().calculate(atoms, properties, system_changes)

    def results_of(self, atoms: Atoms) -> dict[str, Any]:
        found = self._session.evaluate(atoms, atom_virials=self._atom_virials and bool(atoms.pbc.all()))
        if self.guarded:
            self.guard.check(atoms, found)
        results: dict[str, Any] = {
            "energy": found.energy,
            "free_energy": found.energy,
            "forces": found.forces,
            "energies": found.atom_energies,
        }
        if found.periodic:
            stress = (found.virial + found.virial.T) * (0.5 / found.volume)
            results["stress"] = stress.ravel()[_VOIGT]
            if found.atom_virials is not None:
                results["stresses"] = found.atom_virials.reshape(-1, 9)[:, _VOIGT] / found.volume
        return results

    def __copy__(self) -> Calculator:
        """The same student, with a session and a guard of its own."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.results, twin.guard = dict(self.results), copy.deepcopy(self.guard)
        twin._session = self.student.session(skin=self._session.skin, threads=self._session.threads)
        return twin
