"""A teacher's own ASE calculator in a plain loop over different frames, without Limbeck.

    python plain_loop_worker.py

Computes energy, forces and, for periodic structures, stress, as a label does. One calculator serves all
frames, as in a user's script.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import ase.io
from ase.calculators.calculator import Calculator


def load_chgnet() -> Calculator:
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(use_device="cpu")


def load_sevennet() -> Calculator:
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device="cpu")


def load_so3lr() -> Calculator:
    from so3krates_torch.calculator.so3 import SO3LRCalculator

    return SO3LRCalculator(device="cpu", default_dtype="float64")


def load_xtb() -> Calculator:
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", verbosity=0)


def load_emt() -> Calculator:
    from ase.calculators.emt import EMT

    return EMT()


LOADERS: dict[str, Callable[[], Calculator]] = {
    "chgnet": load_chgnet,
    "sevennet-0": load_sevennet,
    "so3lr": load_so3lr,
    "gfn2-xtb": load_xtb,
    "ase.calculators.emt:EMT": load_emt,
}


def loop(calculator: Calculator, file: str, count: int) -> dict[str, Any]:
    """Seconds and CPU seconds for the first ``count`` frames of a file, without reading them."""
    frames = ase.io.read(file, f":{count}")
    began, cpu = time.perf_counter(), time.process_time()
    for atoms in frames:
        atoms.calc = calculator
        atoms.get_forces()
        atoms.get_potential_energy()
        if atoms.pbc.all():
            atoms.get_stress()
    return {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # keep the output of packages out of the protocol
    os.dup2(2, 1)
    calculator: Calculator | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if calculator is None:
            calculator = LOADERS[request["teacher"]]()
        answers.write(json.dumps(loop(calculator, request["file"], request["count"])) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
