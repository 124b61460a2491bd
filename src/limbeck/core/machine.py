"""What this process may use of the machine."""

from __future__ import annotations

import os


def available_threads() -> int:
    """OMP_NUM_THREADS where it is set, else the cores this process may run on (SLURM, taskset)."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    if text.isdigit() and int(text) > 0:
        return int(text)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
