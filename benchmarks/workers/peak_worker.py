"""The machine's peak of float32 multiply-adds, by native/peak.cpp and the machine's own compiler."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from serve import Opened, serve

from limbeck import _native

SOURCE = Path(__file__).parents[1] / "native" / "peak.cpp"
COMPILER = os.environ.get("CXX", "c++")
#: The flags that CMakeLists.txt gives each instruction set.
FLAGS = {
    "avx512": ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"],
    "avx2": ["-mavx2", "-mfma"],
    "portable": [],
}
ITERATIONS = 2_000_000


def open_model(model: str, case: dict[str, Any]) -> Opened:
    chosen = _native.best_instruction_set()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        flags = ["-std=c++17", "-O3", "-fPIC", "-shared", *FLAGS.get(chosen, [])]
        subprocess.run([COMPILER, *flags, str(SOURCE), "-o", str(library)], check=True)
        core = ctypes.CDLL(str(library))
    core.limbeck_flops.argtypes = core.limbeck_multiply_add.argtypes = [ctypes.c_longlong]
    core.limbeck_flops.restype = ctypes.c_longlong
    core.limbeck_multiply_add.restype = ctypes.c_float
    facts = {"instruction_set": chosen, "flops": core.limbeck_flops(ITERATIONS)}
    return Opened(lambda: core.limbeck_multiply_add(ITERATIONS), facts)


def describe() -> dict[str, Any]:
    said = subprocess.run([COMPILER, "--version"], check=True, capture_output=True, text=True).stdout
    return {"versions": {"compiler": said.splitlines()[0]}}


if __name__ == "__main__":
    serve(open_model, describe)
