"""The examination: compiler and core, machine, torch, teachers, packages, and Limbeck's own folder.

Nothing is imported to find its version.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from limbeck import __version__
from limbeck.core import machine
from limbeck.core.devices import REMEDY
from limbeck.teachers import TeacherCard, environments, list_cards

#: ``ok``; ``missing`` (something else does without it); ``warning`` (works, but not as it could);
#: ``broken`` (Limbeck cannot work)
Status = Literal["ok", "missing", "warning", "broken"]
_State = tuple[Status, str, str | None]  # status, detail, remedy
#: how an extra of Limbeck, or a package, is installed
PIP = "pip install -c constraints.txt"
_COMPILERS = ("g++", "clang++", "c++")
_GET_COMPILER = "sudo apt install g++    (conda: conda install -c conda-forge cxx-compiler)"
_BUILD = f"{PIP} --force-reinstall --no-deps -e ."
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
_SETTINGS = (
    "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_DYNAMIC", "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "SLURM_CPUS_PER_TASK",
)  # fmt: skip
_LEAST_FREE_GB = 3.0  # an environment of a teacher takes 1 to 3
#: group, distributions of which one is enough, extra of Limbeck that brings it, and what it is for
PACKAGES = (
    ("exporters", ("onnx",), None, "exports to ONNX"),
    ("exporters", ("onnxscript",), None, "exports to ONNX"),
    ("exporters", ("onnxruntime", "onnxruntime-gpu"), None, "runs and certifies exports to ONNX"),
    ("optional", ("rdkit",), "molecules", "starts from SMILES"),
    ("optional", ("packmol",), "liquids", "packs liquids"),
    ("optional", ("matplotlib",), "plots", "draws plots"),
    ("optional", ("lightning-fabric",), "train", "trains students"),
    ("optional", ("plotly",), "report", "draws the report"),
    ("optional", ("tblite",), "xtb", "runs the teacher gfn2-xtb"),
)


@dataclass(frozen=True)
class Finding:
    """One line of ``limbeck doctor``.

    Attributes
    ----------
    group: engine, machine, torch, teachers, exporters, optional or disk.
    detail: what was found, or what it is missing for. remedy: one command or act, where one helps.
    facts: the same as values, for programs.
    """

    group: str
    name: str
    status: Status
    detail: str
    remedy: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in the order of the report."""

    versions: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> list[Finding]:
        """Findings without whose remedy Limbeck does not work."""
        return [finding for finding in self.findings if finding.status == "broken"]

    def to_dict(self) -> dict[str, Any]:
        """``ok``, versions and findings as plain values."""
        return {"ok": not self.broken, **asdict(self)}


def examine() -> Diagnosis:
    """Look at everything; takes about a second, imports neither torch nor a teacher, and writes nothing."""
    compiler, vectors = check_compiler(), machine.vector_instructions()
    processor = f"{machine.processor_name()}: {', '.join(vectors) or 'vector extensions unknown'}"
    return Diagnosis(
        versions={"limbeck": __version__, "python": platform.python_version()},
        findings=(
            check_core(compiler.status == "ok", vectors),
            compiler,
            check_threads(),
            Finding("machine", "processor", "ok", processor, None, {"vector_instructions": vectors}),
            check_torch(),
            *(check_teacher(card) for card in list_cards()),
            *check_packages(),
            check_home(),
        ),
    )


def check_compiler() -> Finding:
    """Whether the core can be compiled here: by ``$CXX`` first; with the first line of its version."""
    for name in filter(None, (os.environ.get("CXX"), *_COMPILERS)):
        words = shlex.split(name)
        if words and shutil.which(words[0]):
            code, out, _ = environments.run_short([*words, "--version"])
            if code == 0:
                version = (out.strip().splitlines() or ["unknown version"])[0]
                facts = {"name": name, "version": version}
                return Finding("engine", "compiler", "ok", f"{name}: {version}", None, facts)
    none = "none found; builds the core"
    return Finding("engine", "compiler", "missing", none, _GET_COMPILER, {"name": None})


def check_core(has_compiler: bool, vectors: list[str]) -> Finding:
    """Whether the core loads, for which instruction sets it is compiled, and which of ``vectors`` it uses."""
    own = environments.OWN
    code, out, errors = environments.run_short([str(own.path), "-c", _PROBE], own.environment())
    if code != 0 or not out.strip():
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        reason = lines[-1][:200] if lines else f"exit code {code}"
        if code < 0:
            reason = f"the process ended with {signal.Signals(-code).name}"
        remedy = _BUILD if has_compiler else f"{_GET_COMPILER}, then {_BUILD}"
        detail = f"does not load: {reason}"
        return Finding("engine", "native core", "broken", detail, remedy, {"loaded": False})
    facts: dict[str, Any] = {"loaded": True, **json.loads(out.strip().splitlines()[-1])}
    file = Path(facts["file"])
    held = file.read_bytes() if file.is_file() else b""
    # types of each instruction set stand in the file under its namespace's name
    facts["compiled"] = [n for n in INSTRUCTION_SETS if f"limbeck_{n}".encode() in held]
    detail = f"loads; compiled for {', '.join(facts['compiled']) or 'unknown sets'}; uses {facts['used']}"
    if facts["used"] == "portable" and "avx2" in vectors:
        more = ", though the processor has AVX2"
        return Finding("engine", "native core", "warning", detail + more, _BUILD, facts)
    return Finding("engine", "native core", "ok", detail, None, facts)


def check_threads() -> Finding:
    """Cores, what of them this process may use, and whether as many threads are set."""
    cores, usable, limit = os.cpu_count() or 1, machine.usable_cores(), machine.cgroup_cores()
    settings = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
    takes = machine.available_threads()
    facts = {
        "cores": cores, "usable_cores": usable, "cgroup_cores": limit, "threads": takes, "settings": settings,
    }  # fmt: skip
    set_here = "".join(f", {name}={value}" for name, value in settings.items())
    allowed = "" if limit is None else f", {limit:g} of them allowed by the container"
    detail = f"Limbeck takes {takes}; {cores} cores, {usable} usable{allowed}{set_here}"
    most = usable if limit is None else max(1, min(usable, math.floor(limit)))
    given = settings.get("OMP_NUM_THREADS", "1")
    if not (given.isdigit() and int(given) > 0):
        detail += "; OMP_NUM_THREADS is no number of threads and is ignored"
    elif takes > most:
        detail += f"; more threads than the {most} that can run at once are slow"
    else:
        return Finding("machine", "threads", "ok", detail, None, facts)
    return Finding("machine", "threads", "warning", detail, f"export OMP_NUM_THREADS={most}", facts)


def check_torch() -> Finding:
    """Version of torch, what it was built for, and the GPUs that the driver has; torch is not imported."""
    version, file = package_version("torch"), module_file("torch")
    if version is None or file is None:
        detail = "not installed; trains students, and runs teachers and exports"
        return Finding("torch", "torch", "missing", detail, REMEDY, {"version": None})
    try:
        text = (file.parent / "version.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        built, build = {}, "unknown"
    else:
        built, build = dict(re.findall(r"^(cuda|hip)\b[^=\n]*=\s*'([^']*)'", text, re.MULTILINE)), "CPU"
    for kind, name in (("hip", "ROCm"), ("cuda", "CUDA")):
        build = f"{name} {built[kind]}" if kind in built else build
    devices = count_gpus()
    facts = {"version": version, "build": build, "gpus": devices}
    detail = f"{version}, built for {build}; " + ("no GPU" if not devices else f"{devices} NVIDIA GPU(s)")
    if devices and build == "CPU":
        remedy = "a CUDA build of torch: the command at https://pytorch.org/get-started/locally"
        return Finding("torch", "torch", "warning", f"{detail} that it cannot use", remedy, facts)
    return Finding("torch", "torch", "ok", detail, None, facts)


def count_gpus() -> int:
    """NVIDIA GPUs that the driver shows to this process; zero without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    failed = driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0
    return 0 if failed else count.value


def check_teacher(card: TeacherCard) -> Finding:
    """One teacher: in this environment, in one of its own, or not installed."""
    folder = environments.environment_folder(card)
    facts: dict[str, str | None] = {"installed": None, "version": None}
    again = f"{card.remedy} --overwrite"
    if card.installed:
        version = card.version()
        facts = {"installed": "this environment", "version": version or None}
        found: _State = "ok", f"{card.distribution} {version}".strip(), None
    elif environments.installed_python(card) is not None:
        facts["installed"] = str(folder)
        older: _State = "warning", f"in {folder}, made from an older list of versions", again
        found = ("ok", f"in {folder}", None) if environments.is_current(card) else older
    elif (folder / environments.RECORD).is_file():
        found = "warning", f"in {folder}, whose Python is gone", again
    else:
        found = "missing", card.domain, card.remedy
    return Finding("teachers", card.name, *found, facts)


def check_packages() -> list[Finding]:
    """What exports are written and run with, and packages that some commands want."""
    found = []
    for group, names, extra, purpose in PACKAGES:
        version = next(filter(None, map(package_version, names)), None)
        remedy = f"{PIP} -e '.[{extra}]'" if extra else f"{PIP} {names[0]}"
        state: tuple[Status, str, str | None] = (
            ("ok", version, None) if version else ("missing", purpose, remedy)
        )
        found.append(Finding(group, names[0], *state, {"version": version}))
    return found


def check_home() -> Finding:
    """Whether Limbeck's folder, where environments of teachers go, can be written and has room."""
    home = environments.limbeck_home()
    near = next(path for path in (home, *home.parents) if path.exists())
    writable = near.is_dir() and os.access(near, os.W_OK | os.X_OK)
    free_gb = shutil.disk_usage(near).free / 1e9
    facts = {"folder": str(home), "writable": writable, "free_gb": round(free_gb, 1)}
    detail = f"{home}: {free_gb:,.1f} GB free"
    if not writable:
        detail = f"{home}: " + ("cannot be written" if near.is_dir() else f"{near} is a file")
    elif free_gb < _LEAST_FREE_GB:
        detail += f", and an environment of a teacher takes up to {_LEAST_FREE_GB:g}"
    else:
        return Finding("disk", "LIMBECK_HOME", "ok", detail, None, facts)
    remedy = "export LIMBECK_HOME=FOLDER    (one that can be written and has room)"
    return Finding("disk", "LIMBECK_HOME", "warning", detail, remedy, facts)


def package_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def module_file(name: str) -> Path | None:
    """The file of a top-level module, found without importing it; None where there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin)
