"""What this process may use of the machine, and what a timing needs said of it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")
_CGROUP = Path("/sys/fs/cgroup")

#: For PyTorch's threads (GNU OpenMP): they wait in a busy loop for one that has no core, and so keep it from
#: one. Beside other work, CHGNet with two threads on two cores took 8 s instead of 0.5; with a short loop
#: 1 s, and no more than before where cores are free. It counts when the library is loaded.
SHORT_WAIT = {"GOMP_SPINCOUNT": "5000"}


def available_threads() -> int:
    """OMP_NUM_THREADS where it is set, else the cores this process may run on (SLURM, taskset)."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    if text.isdigit() and int(text) > 0:
        return int(text)
    return usable_cores()


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_cores(root: Path = _CGROUP) -> float | None:
    """Cores' worth of time that a container or a batch system allows; None where there is no limit.

    Read of version 2 (``cpu.max``: quota and period) and 1 (``cpu.cfs_quota_us``), of the group that is
    mounted at ``root``, which is a container's own.
    """
    try:
        if (root / "cpu.max").is_file():
            quota, period = (root / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (root / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip()
                for name in ("quota", "period")
            )
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 else None
    except (OSError, ValueError):
        return None


def processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """The processor as it names itself; the architecture where it does not."""
    return _cpu_field("model name", cpuinfo) or platform.processor() or platform.machine() or "unknown"


def vector_instructions(cpuinfo: Path = _CPUINFO) -> list[str]:
    """Vector extensions of the processor that matter to the core, narrowest first; empty where unknown."""
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
    """Processor, cores, system, Python and load: what makes a timing mean something."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
