"""Frames of close-contact scans are known by the name of their step, in structures and in labels.

They teach what happens when atoms collide, and are no part of what a system does by itself: shortest
bonds, ranges, energy references and validation leave them out.
"""

from __future__ import annotations

import numpy as np

SCAN_STEP = "contacts"


def is_scan(step: str) -> bool:
    """Whether a step of this name makes contact scans (``contacts``, ``contacts-2``)."""
    return step.startswith(SCAN_STEP)


def scan_mask(steps: np.ndarray) -> np.ndarray:
    """(S,) bool of (S,) step names."""
    return np.array([is_scan(str(step)) for step in steps], dtype=bool)
