"""Isolated parts of machine and engine, compiled by the machine's own compiler.

Models: ``peak`` (multiply-adds in registers, native/peak.cpp), ``product`` and ``table KNOTS`` (radial
filters of one layer of ``tiny``, native/filters.cpp).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from serve import Opened, serve

from limbeck import _native

SOURCES = Path(__file__).parents[1] / "native"
INCLUDE = Path(__file__).parents[2] / "native" / "include"
COMPILER = os.environ.get("CXX", "c++")
#: flags per instruction set, as in CMakeLists.txt
FLAGS = {
    "avx512": [
        "-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"
    ],
    "avx2": ["-mavx2", "-mfma"],
    "portable": [],
}  # fmt: skip
MATH = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros"]
ITERATIONS = 2_000_000
THREADS = int(os.environ["OMP_NUM_THREADS"])


def compiled(source: str, instruction_set: str, flags: list[str]) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "compiled.so"
        always = ["-std=c++17", "-fPIC", "-shared", *FLAGS.get(instruction_set, [])]
        subprocess.run([COMPILER, *always, *flags, str(SOURCES / source), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))


def open_model(model: str, case: dict[str, Any]) -> Opened:
    chosen = _native.best_instruction_set()
    if model == "peak":
        core = compiled("peak.cpp", chosen, ["-O3"])
        core.limbeck_flops.argtypes = core.limbeck_multiply_add.argtypes = [ctypes.c_longlong]
        core.limbeck_flops.restype = ctypes.c_longlong
        core.limbeck_multiply_add.restype = ctypes.c_float
        facts = {"instruction_set": chosen, "flops": THREADS * core.limbeck_flops(ITERATIONS)}
        if THREADS == 1:
            return Opened(lambda: core.limbeck_multiply_add(ITERATIONS), facts)
        pool = ThreadPoolExecutor(THREADS)
        # ctypes releases the GIL during a call
        return Opened(lambda: list(pool.map(core.limbeck_multiply_add, [ITERATIONS] * THREADS)), facts)
    way, chosen = model.split(":")
    if not _native.runs_here(chosen):
        raise ValueError(f"this machine does not run {chosen}")
    core = compiled("filters.cpp", chosen, [*MATH, f"-I{INCLUDE}", "-DLIMBECK_ISA=limbeck_bench"])
    core.limbeck_pairs.restype = core.limbeck_table_bytes.restype = ctypes.c_longlong
    core.limbeck_table_error.restype, core.limbeck_filters.restype = ctypes.c_double, ctypes.c_float
    knots = 0 if way == "product" else int(way.split()[1])
    facts = {"instruction_set": chosen, "pairs": core.limbeck_pairs()}
    if knots:
        facts["table_bytes"] = core.limbeck_table_bytes(knots)
        facts["slope_error"] = core.limbeck_table_error(knots)
    return Opened(lambda: core.limbeck_filters(knots), facts)


def describe() -> dict[str, Any]:
    version = subprocess.run([COMPILER, "--version"], check=True, capture_output=True, text=True).stdout
    return {"versions": {"compiler": version.splitlines()[0]}}


if __name__ == "__main__":
    serve(open_model, describe)
