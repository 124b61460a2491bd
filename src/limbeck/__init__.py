"""Limbeck: slow, accurate interatomic potentials distilled into compact, fast students."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "Calculator": "limbeck.runtime.student",
    "Student": "limbeck.runtime.student",
    "distill": "limbeck.workflows",
    "InputError": "limbeck.errors",
    "LimbeckError": "limbeck.errors",
}

__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
