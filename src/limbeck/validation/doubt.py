"""Labels that a student's errors cannot explain: forces in another unit, or of the other sign."""

from __future__ import annotations

import numpy as np

from limbeck.core.label_units import force_units

_PARALLEL = 0.9  #: cosine from which on two sets of forces differ in little but a factor
_TOLERANCE = 0.15


def doubt_labels(reference: np.ndarray, predicted: np.ndarray) -> str:
    """What would explain ``reference`` forces that are parallel to ``predicted`` ones but not as long.

    Parameters
    ----------
    reference, predicted: (N, 3), eV/Å. Returns a sentence, empty where nothing is suspicious.
    """
    own, other = float(np.linalg.norm(predicted)), float(np.linalg.norm(reference))
    if not (own > 0 and other > 0):
        return ""
    cosine, ratio = float((predicted * reference).sum()) / (own * other), other / own
    if cosine < -_PARALLEL:
        return (
            f"the labels' forces point against the student's (cosine {cosine:.2f}): gradients, or the sign "
            "of another program? wanted forces, eV/Å"
        )
    units = force_units(ratio, _TOLERANCE) if cosine > _PARALLEL else ""
    if not units:
        return ""
    return (
        f"the labels' forces are parallel to the student's (cosine {cosine:.2f}) and {ratio:.3g} times as "
        f"long: in {units}? wanted eV/Å"
    )
