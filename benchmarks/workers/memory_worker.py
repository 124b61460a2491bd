"""Memory of one evaluation: growth of peak resident memory in a separate process.

    python memory_worker.py STUDENT REPEATS      (REPEATS of the cubic Si cell, such as 20x25x25)

Imports and the evaluation of a small crystal come first, so that code and threads do not count. Then the
large crystal is evaluated twice, with displacements in between. Prints one line of JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import sys
from pathlib import Path

from ase import Atoms
from ase.build import bulk

import limbeck


def resident() -> int:
    """Bytes in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def release() -> None:
    """Return free memory of Python and malloc: reused, it would not count as growth."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def evaluate(atoms: Atoms) -> None:
    atoms.get_potential_energy()
    atoms.get_forces()
    atoms.get_stress()


def main() -> None:
    student, repeats = sys.argv[1], tuple(int(n) for n in sys.argv[2].split("x"))
    cell = bulk("Si", cubic=True)
    small, large = cell * (2, 2, 2), cell * repeats
    for atoms in (small, large):
        atoms.rattle(0.05, seed=0)
    small.calc = limbeck.Calculator(student)
    evaluate(small)
    large.calc = limbeck.Calculator(student)
    release()
    # "5" resets the peak to the current value (Linux)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = resident()
    for seed in (1, 2):
        evaluate(large)
        large.rattle(1e-3, seed=seed)
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    print(
        json.dumps(
            {
                "atoms": len(large),
                "growth_bytes": peak - before,
                "peak_of_process_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            }
        )
    )


if __name__ == "__main__":
    main()
