"""The universal repulsion of atomic cores (Ziegler, Biersack, Littmark 1985)."""

from __future__ import annotations

import numpy as np

# universal screening; a in Å, e²/(4πε0) in eV Å
SCREEN_WEIGHTS = np.array([0.18175, 0.50986, 0.28022, 0.02817])
SCREEN_RATES = np.array([3.19980, 0.94229, 0.40290, 0.20162])
BOHR_A = 0.529177210903
COULOMB_EV_A = 14.399645478


def zbl_pair(z1: np.ndarray, z2: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ZBL energy (eV) and its derivative (eV/Å), never switched off, for pairs at r (Å), all (P,)."""
    a = 0.8854 * BOHR_A / (z1**0.23 + z2**0.23)
    terms = SCREEN_WEIGHTS * np.exp(-SCREEN_RATES * (r / a)[:, None])  # (P, 4)
    screen, dscreen = terms.sum(1), (-SCREEN_RATES / a[:, None] * terms).sum(1)
    bare = COULOMB_EV_A * z1 * z2 / r
    return bare * screen, bare * (dscreen - screen / r)
