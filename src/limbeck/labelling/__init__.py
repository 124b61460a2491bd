"""Labels by a teacher: worker processes, repair of close-contact scans.

Names are imported when first used, so that a worker process imports only what it needs.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    **dict.fromkeys(("WorkerPotential", "open_teacher"), "remote"),
    **dict.fromkeys(("LabelReport", "isolated_atom_energies", "label"), "run"),
    "LabellingConfig": "config",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
