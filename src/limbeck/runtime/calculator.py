"""The ASE calculator of a student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.core.potential import PotentialCalculator
from limbeck.runtime.student import Student


class Calculator(PotentialCalculator):
    """ASE calculator on a student file or a released student's name.

    >>> atoms.calc = Calculator("silicon-tiny")  # doctest: +SKIP
    """

    def __init__(self, student: Student | Path | str, **options: Any) -> None:
        self.student = student if isinstance(student, Student) else Student.load(student, **options)
        super().__init__(self.student)
