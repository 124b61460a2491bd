"""Compiler and native core: what the engine is built with and what is built."""

from __future__ import annotations

import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

from limbeck.doctor import looking
from limbeck.doctor.findings import Finding
from limbeck.teachers.environments import OWN

GROUP = "engine"
_COMPILERS = ("g++", "clang++", "c++")
_GET_COMPILER = "sudo apt install g++    (conda: conda install -c conda-forge cxx-compiler)"
_BUILD = f"{looking.PIP} --force-reinstall --no-deps -e ."
#: names of the instruction sets as CMakeLists.txt has them, widest first
INSTRUCTION_SETS = ("avx512", "avx2", "portable")

# In a process of its own: a core for another processor may end it.
_PROBE = f"""\
import json
from limbeck import _native
print(json.dumps({{
    "file": _native.__file__,
    "used": _native.best_instruction_set(),
    "runs": [name for name in {INSTRUCTION_SETS!r} if _native.runs_here(name)],
}}))
"""


def find_compiler() -> tuple[str, str] | None:
    """The C++ compiler (``$CXX`` first) and the first line it says of itself."""
    for name in filter(None, (os.environ.get("CXX"), *_COMPILERS)):
        words = shlex.split(name)
        if words and looking.find_program(words[0]):
            code, out, _ = looking.run([*words, "--version"])
            if code == 0:
                return name, (out.strip().splitlines() or ["unknown version"])[0]
    return None


def check_compiler() -> Finding:
    """Whether the core, and packages of AOTInductor, can be compiled here."""
    found = find_compiler()
    if found is None:
        detail = "none found; builds the core, and AOTInductor packages of exports"
        return Finding(GROUP, "compiler", "missing", detail, _GET_COMPILER, {"name": None})
    name, version = found
    return Finding(GROUP, "compiler", "ok", f"{name}: {version}", None, {"name": name, "version": version})


def check_core(has_compiler: bool, vectors: list[str]) -> Finding:
    """Whether the core loads, for which instruction sets it is compiled, and which one it takes here.

    Parameters
    ----------
    vectors: extensions of the processor, as :func:`~limbeck.core.machine.vector_instructions` has them.
    """
    code, out, errors = looking.run([str(OWN.path), "-c", _PROBE], OWN.environment())
    if code != 0 or not out.strip():
        remedy = _BUILD if has_compiler else f"{_GET_COMPILER}, then {_BUILD}"
        return Finding(GROUP, "native core", "broken", _reason(code, errors), remedy, {"loaded": False})
    facts: dict[str, Any] = {"loaded": True, **json.loads(out.strip().splitlines()[-1])}
    held = _read(Path(facts["file"]))
    # types of each instruction set stand in the file under its namespace's name
    facts["compiled"] = [n for n in INSTRUCTION_SETS if f"limbeck_{n}".encode() in held]
    detail = f"loads; compiled for {', '.join(facts['compiled']) or 'unknown sets'}; uses {facts['used']}"
    if facts["used"] == "portable" and "avx2" in vectors:
        detail = f"{detail}, though the processor has AVX2"
        return Finding(GROUP, "native core", "warning", detail, _BUILD, facts)
    return Finding(GROUP, "native core", "ok", detail, None, facts)


def _reason(code: int, errors: str) -> str:
    """Why the core did not load: the signal, or the last line of what Python said."""
    if code < 0:
        return f"does not load: the process ended with {signal.Signals(-code).name}"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return f"does not load: {lines[-1][:200] if lines else f'exit code {code}'}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
