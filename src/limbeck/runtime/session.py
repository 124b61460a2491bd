"""Sessions: one student's state for one evolving structure."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any, Protocol

import numpy as np
from ase import Atoms

from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.runtime.backends.interface import Backend, Evaluation

DEFAULT_SKIN_A = 0.5  #: wider keeps the pairs for longer, with more beyond the cutoff to sort out


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
        return partial(Session, skin=self.skin, threads=self.threads), (self.student,)

    def evaluate(self, atoms: Atoms, *, atom_virials: bool = False) -> Evaluation:
        """Energy, forces, virial and the closest contacts of one structure.

        Raises
        ------
        InputError: an element the student does not know, invalid positions or cell.
        """
        with self._lock:
            try:
                return self._system.evaluate(atoms, atom_virials)
            except LimbeckError:
                # faults of the structure itself have clearer errors there
                self.student.check(StructureBatch.from_atoms([atoms]))
                raise
