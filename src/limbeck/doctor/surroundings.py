"""Threads, vector instructions, torch with its GPU, and Limbeck's own folder."""

from __future__ import annotations

import ctypes
import math
import os
import re
import shutil
from pathlib import Path

from limbeck.core import machine
from limbeck.core.devices import REMEDY
from limbeck.doctor import looking
from limbeck.doctor.findings import Finding
from limbeck.teachers.environments import limbeck_home

_SETTINGS = (
    "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_DYNAMIC", "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "SLURM_CPUS_PER_TASK",
)  # fmt: skip
_LEAST_FREE_GB = 3.0  # an environment of a teacher takes 1 to 3


def check_threads() -> Finding:
    """Cores, what of them this process may use, and whether as many threads are set."""
    cores, usable, limit = os.cpu_count() or 1, machine.usable_cores(), machine.cgroup_cores()
    settings = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
    takes = machine.available_threads()
    facts = {
        "cores": cores, "usable_cores": usable, "cgroup_cores": limit, "threads": takes, "settings": settings,
    }  # fmt: skip
    said = "".join(f", {name}={value}" for name, value in settings.items())
    allowed = "" if limit is None else f", {limit:g} of them allowed by the container"
    detail = f"Limbeck takes {takes}; {cores} cores, {usable} usable{allowed}{said}"
    most = usable if limit is None else max(1, min(usable, math.floor(limit)))
    given = settings.get("OMP_NUM_THREADS")
    if given is not None and not (given.isdigit() and int(given) > 0):
        detail += "; OMP_NUM_THREADS is no number of threads and is ignored"
    elif takes > most:
        detail += f"; more threads than the {most} that can run at once are slow"
    else:
        return Finding("machine", "threads", "ok", detail, None, facts)
    return Finding("machine", "threads", "warning", detail, f"export OMP_NUM_THREADS={most}", facts)


def check_vectors() -> Finding:
    """Vector extensions of the processor."""
    found = machine.vector_instructions()
    detail = f"{machine.processor_name()}: {', '.join(found) or 'vector extensions unknown'}"
    return Finding("machine", "processor", "ok", detail, None, {"vector_instructions": found})


def check_torch() -> Finding:
    """Version of torch, what it was built for, and the GPUs that the driver has; torch is not imported."""
    version, file = looking.package_version("torch"), looking.module_file("torch")
    if version is None or file is None:
        detail = "not installed; trains students, and runs teachers and exports"
        return Finding("torch", "torch", "missing", detail, REMEDY, {"version": None})
    build, devices = _torch_build(file.parent), count_gpus()
    facts = {"version": version, "build": build, "gpus": devices}
    detail = f"{version}, built for {build}; " + ("no GPU" if not devices else f"{devices} NVIDIA GPU(s)")
    if devices and build == "CPU":
        remedy = "a CUDA build of torch: the command at https://pytorch.org/get-started/locally"
        return Finding("torch", "torch", "warning", f"{detail} that it cannot use", remedy, facts)
    return Finding("torch", "torch", "ok", detail, None, facts)


def _torch_build(folder: Path) -> str:
    """``CPU``, ``CUDA 12.8``, ``ROCm 6.4`` or ``unknown``, as torch/version.py has it."""
    try:
        text = (folder / "version.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    built = dict(re.findall(r"^(cuda|hip)\b[^=\n]*=\s*'([^']*)'", text, re.MULTILINE))
    if "cuda" in built:
        return f"CUDA {built['cuda']}"
    return f"ROCm {built['hip']}" if "hip" in built else "CPU"


def count_gpus() -> int:
    """NVIDIA GPUs that the driver shows to this process; zero without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def check_home() -> Finding:
    """Whether Limbeck's folder, where environments of teachers go, can be written and has room."""
    home = limbeck_home()
    near = next(path for path in (home, *home.parents) if path.exists())
    writable = near.is_dir() and os.access(near, os.W_OK | os.X_OK)
    free_gb = shutil.disk_usage(near).free / 1e9
    facts = {"folder": str(home), "writable": writable, "free_gb": round(free_gb, 1)}
    detail = f"{home}: {free_gb:,.1f} GB free"
    remedy = "export LIMBECK_HOME=FOLDER    (one that can be written and has room)"
    if not writable:
        what = "cannot be written" if near.is_dir() else f"{near} is a file"
        return Finding("disk", "LIMBECK_HOME", "warning", f"{home}: {what}", remedy, facts)
    if free_gb < _LEAST_FREE_GB:
        detail += f", and an environment of a teacher takes up to {_LEAST_FREE_GB:g}"
        return Finding("disk", "LIMBECK_HOME", "warning", detail, remedy, facts)
    return Finding("disk", "LIMBECK_HOME", "ok", detail, None, facts)
