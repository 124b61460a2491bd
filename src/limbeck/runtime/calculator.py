"""The ASE calculator of a student."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Self

from limbeck.errors import InputError
from limbeck.runtime.guard import Guard
from limbeck.runtime.session import DEFAULT_SKIN_A, SessionCalculator
from limbeck.runtime.student import Student


class Calculator(SessionCalculator):
    """ASE calculator on a student file, a released student's name, or a Student.

    Energies, forces, and stress where the structure is periodic in all three directions; ``stresses`` add up
    to ``stress``, each pair's share divided equally. For one thread; calculators in different threads may
    share a Student.

    >>> atoms.calc = Calculator("silicon-tiny")  # doctest: +SKIP

    Parameters
    ----------
    strict: raise :class:`OutOfDomainError` outside the training domain, instead of one warning of each kind
        and counting in ``guard.counts``.
    guarded: compare each evaluation with the ranges of the training data.
    skin: Å beyond the cutoff, see :class:`Session`.
    threads: of this calculator; None takes the student's number.
    options: of ``Student.load``, where the student is given by name.
    """

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
        if not isinstance(student, Student):
            student = Student.load(student, threads=threads, **options)
        elif options:
            raise InputError(
                "options of a student already loaded",
                got=", ".join(sorted(options)),
                remedy="give them to Student.load, or give Calculator the student's file or name",
            )
        self.student = student
        self.guard = Guard(student.card, student.architecture.elements, name=student.name, strict=strict)
        super().__init__(student, self.guard if guarded else None, skin=skin, threads=threads)

    def __copy__(self) -> Self:
        twin = super().__copy__()
        twin.guard = twin._watch or copy.deepcopy(self.guard)
        return twin
