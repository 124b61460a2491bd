"""The cores this process may use, and a description of the machine for timings."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")
_CGROUP = Path("/sys/fs/cgroup")

#: For PyTorch's threads (GNU OpenMP), which wait for each other in a busy loop, also for one whose core is
#: taken. On a busy machine, CHGNet with two threads on two cores took 8 s instead of 0.5; with a short loop
#: 1 s, and no more than before where cores are free. Read when the library is loaded.
SHORT_WAIT = {"GOMP_SPINCOUNT": "5000"}


def available_threads() -> int:
    """OMP_NUM_THREADS where it is set, else the cores this process may run on (SLURM, taskset)."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) > 0 else usable_cores()


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_cores(root: Path = _CGROUP) -> float | None:
    """CPU time, in cores, that a container or a batch system allows; None where there is no limit.

    From cgroups of version 2 (``cpu.max``: quota and period) or 1 (``cpu.cfs_quota_us``) at ``root``.
    """
    try:
        if (root / "cpu.max").is_file():
            quota, period = (root / "cpu.max").read_text(encoding="ascii").split()
        else:
            files = (root / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
            quota, period = (file.read_text(encoding="ascii").strip() for file in files)
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 else None
    except (OSError, ValueError):
        return None


def processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """The processor's name, or its architecture."""
    return _cpu_field("model name", cpuinfo) or platform.processor() or platform.machine() or "unknown"


def vector_instructions(cpuinfo: Path = _CPUINFO) -> list[str]:
    """Vector extensions of the processor that the native core uses, narrowest first; empty where unknown."""
    flags = set((_cpu_field("flags", cpuinfo) or _cpu_field("Features", cpuinfo) or "").split())
    wanted = "sse4_2 avx fma avx2 avx512f avx512dq avx512bw avx512vl asimd sve".split()
    return [name for name in wanted if name in flags]


def _cpu_field(name: str, cpuinfo: Path) -> str | None:
    """The value of the first line ``name : value``."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), None)


def describe_machine() -> dict[str, Any]:
    """Processor, cores, system, Python and load, to be reported with a timing."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
