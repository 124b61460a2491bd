"""Fewer frames of a long trajectory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from limbeck.core.hashing import hash_structure


def thin(frames: Sequence[Atoms], most: int) -> list[Atoms]:
    """At most ``most`` frames: exact duplicates go, of the rest evenly spaced ones stay, ends included.

    Frames of a trajectory differ the more the further they are apart in time, so that an even
    stride spreads them; what each adds to what is known is not looked at here.
    """
    distinct = list({hash_structure(frame): frame for frame in reversed(frames)}.values())[::-1]
    if len(distinct) <= most:
        return distinct
    if most == 1:
        return distinct[:1]
    return [distinct[k] for k in np.round(np.linspace(0, len(distinct) - 1, most)).astype(int)]
