"""Entries of a labelled file that look like labels but are not read."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

_TENSORS = {(6,), (9,), (3, 3)}
#: kind of label, as in the option --KIND-key -> words of a name that mean it, and shapes of its values
_KINDS: dict[str, tuple[set[str], set[tuple[int, ...]]]] = {
    "energy": ({"energy", "energies"}, {(), (1,)}),
    "forces": ({"force", "forces"}, set()),  # (atoms, 3)
    "stress": ({"stress"}, _TENSORS),
    "virial": ({"virial", "virials"}, _TENSORS),
}
#: words of names of other entries: parts of an energy, errors, columns of Limbeck's own files
_OTHER = frozenset(
    """kinetic per rmse mae error errors std stdev var sigma max min mean cutoff weight weights student
    formation hull free zero fermi dipole atom atomic isolated vdw dispersion bond corrected raw
    id is mask has""".split()
)


def warn_of_unused(frames: Sequence[Atoms], where: str, keys: Mapping[str, str | None], stress: bool) -> None:
    """Warn of entries that look like labels but are not read, with the option that reads them.

    ``keys``: names given by the user, by kind, which need no warning. ``stress``: some stress was read.
    """
    used = {kind for kind, key in keys.items() if key is not None}
    if stress or used & {"stress", "virial"}:
        used |= {"stress", "virial"}
    kinds = [kind for kind in _KINDS if kind not in used]
    pairs = [(name, f"--{kind}-key") for kind in kinds for name in sorted(_names(frames, kind))]
    if pairs:
        named = ", ".join(name for name, _ in pairs)
        options = " ".join(f"{option} {name}" for name, option in pairs)
        text = f"{named} look like labels and are not used; {options} read them"
        if len(pairs) == 1:
            text = f"{named} looks like a label and is not used; {options} reads it"
        warnings.warn(f"{where}: {text}", stacklevel=4)


def _names(frames: Sequence[Atoms], kind: str) -> set[str]:
    """Names of entries of this kind in any frame, of the right shape."""
    names: set[str] = set()
    for frame in frames:
        entries: Mapping[str, Any] = frame.arrays if kind == "forces" else frame.info
        for name in map(str, entries):
            words = {word.lower() for word in re.split(r"[^A-Za-z]+", name)}
            if words & _KINDS[kind][0] and not words & _OTHER and _fits(entries.get(name), len(frame), kind):
                names.add(name)
    return names


def _fits(value: Any, n_atoms: int, kind: str) -> bool:
    if value is None or isinstance(value, str | dict):
        return False
    try:
        shape = np.asarray(value, dtype=np.float64).shape
    except (TypeError, ValueError):
        return False
    return shape == (n_atoms, 3) if kind == "forces" else shape in _KINDS[kind][1]
