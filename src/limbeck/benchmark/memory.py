"""How much memory a piece of work takes, at its peak, in this process."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from pathlib import Path

_MB = 1e6
_PROC = Path("/proc/self")


class PeakMemory:
    """Growth of memory from :meth:`start` to its peak: resident memory, on a GPU what torch allocated there.

    On Linux the kernel's own mark of the peak is set back at the start. Elsewhere the mark cannot be set
    back, so growth below an earlier peak of the process is not seen.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._before = 0.0

    def start(self) -> None:
        """Count from here."""
        if self.device != "cpu":
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._before = float(torch.cuda.memory_allocated())
            return
        gc.collect()
        if sys.platform == "linux":
            # memory that malloc holds free would not count as growth when it is taken up again
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
            if trim is not None:
                trim(0)
        self._before = _resident() if _reset_peak() else _peak()

    def grown_mb(self) -> float:
        """10^6 bytes at the peak since then, beyond what was there."""
        if self.device != "cpu":
            import torch

            return max(0.0, float(torch.cuda.max_memory_allocated()) - self._before) / _MB
        return max(0.0, _peak() - self._before) / _MB


def _reset_peak() -> bool:
    try:
        (_PROC / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _resident() -> float:
    """Bytes in memory now."""
    pages = int((_PROC / "statm").read_text(encoding="ascii").split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def _peak() -> float:
    """Bytes at the peak."""
    try:
        for line in (_PROC / "status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return 1024.0 * int(line.split()[1])
    except OSError:
        pass  # no /proc: the portable figure below
    most = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return most if sys.platform == "darwin" else 1024.0 * most
