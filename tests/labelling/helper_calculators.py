"""Calculators that tests load into workers by ``helper_calculators:NAME``; only ASE is imported."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones


class CountingLJ(LennardJones):
    """Lennard-Jones that adds a line to ``log`` at each evaluation."""

    def __init__(self, log: str, **kwargs: object) -> None:
        self.log = Path(log)
        super().__init__(**kwargs)

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        with self.log.open("a") as stream:
            stream.write(f"{self.atoms.positions.sum():.12f}\n")


class SpyEMT(EMT):
    """EMT that writes its threads and the loaded modules to ``log``, and prints, as packages do."""

    variables = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")

    def __init__(self, log: str) -> None:
        self.log = Path(log)
        super().__init__()

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        print("chatter that must not reach the protocol")
        os.write(1, b"chatter past sys.stdout\n")
        self.log.write_text("\n".join([os.environ[name] for name in self.variables] + [*sys.modules]))


class Failing(LennardJones):
    """Fails on helium, dies on neon by SIGKILL and on krypton by leaving."""

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        if 2 in atoms.numbers:
            raise RuntimeError("SCF did\nnot converge")
        if 10 in atoms.numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        if 36 in atoms.numbers:
            print("last words")
            os._exit(3)
        super().calculate(atoms, properties, system_changes)


class Endless(Calculator):
    """Holds a lock on ``log`` as long as its process lives, and never finishes an evaluation."""

    implemented_properties = ("energy", "forces")

    def __init__(self, log: str) -> None:
        super().__init__()
        self.handle = os.open(log, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.handle, fcntl.LOCK_EX)

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        threading.Event().wait()


class Meeting(LennardJones):
    """Evaluates only together with another process that does: each end of ``fifo`` waits for the other."""

    def __init__(self, fifo: str, first: str, **kwargs: object) -> None:
        self.fifo, self.first = fifo, Path(first)
        super().__init__(**kwargs)

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        try:
            self.first.mkdir()
            end = os.O_RDONLY
        except FileExistsError:
            end = os.O_WRONLY
        os.close(os.open(self.fifo, end))
        super().calculate(atoms, properties, system_changes)


class Zero(Calculator):
    """No energy and no forces at once, of ``rows`` atoms in place of all where given."""

    implemented_properties = ("energy", "forces")

    def __init__(self, rows: int | None = None) -> None:
        self.rows = rows
        super().__init__()

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        self.results = {"energy": 0.0, "forces": np.zeros((self.rows or len(atoms), 3))}
