"""Functions of a pair's distance: the repulsion of atomic cores, and the smooth step of all cutoffs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

BOHR_A = 0.529177210903
COULOMB_EV_A = 14.399645478  #: e²/(4πε0)
SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))


def zbl_terms(z1: Any, z2: Any, r: Any, exp: Callable[[Any], Any] = np.exp) -> tuple[Any, list[Any]]:
    """Length a (Å) and the four terms of the universal screening function at r (Å), of arrays or tensors.

    Ziegler, Biersack, Littmark 1985: E = e²/(4πε0) z1 z2 / r · sum of w exp(-k r / a).
    """
    a = 0.8854 * BOHR_A / (z1**0.23 + z2**0.23)
    return a, [weight * exp(-rate * (r / a)) for weight, rate in SCREENING]


def zbl_pair(z1: np.ndarray, z2: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ZBL energy (eV) and its derivative (eV/Å), never switched off, for pairs at r (Å), all (P,)."""
    a, terms = zbl_terms(z1, z2, r)
    slope = sum(-rate / a * term for (_, rate), term in zip(SCREENING, terms, strict=True))
    bare = COULOMB_EV_A * z1 * z2 / r
    return bare * sum(terms), bare * (slope - sum(terms) / r)


def smooth_step(x: Any) -> Any:
    """10 x³ - 15 x⁴ + 6 x⁵: 0 at x = 0 and 1 at x = 1 with two derivatives zero there; array or tensor."""
    return x**3 * (10 + x * (6 * x - 15))


def smooth_step_slope(x: np.ndarray) -> np.ndarray:
    """Its derivative, 30 x² - 60 x³ + 30 x⁴."""
    return x * x * (30 + x * (30 * x - 60))
