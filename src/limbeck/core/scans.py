"""Frames of close-contact scans, recognised by their ``config_type``.

They train the repulsion of colliding atoms and are not typical of the system: shortest bonds, ranges,
reference energies and validation leave them out.
"""

from __future__ import annotations

import numpy as np

SCAN_STEP = "contacts"


def is_scan(step: str) -> bool:
    """Whether a step of this name makes close-contact scans (``contacts``, ``contacts-2``)."""
    return step.startswith(SCAN_STEP)


def scan_mask(steps: np.ndarray) -> np.ndarray:
    """(S,) bool of (S,) step names."""
    return np.array([is_scan(str(step)) for step in steps], dtype=bool)
