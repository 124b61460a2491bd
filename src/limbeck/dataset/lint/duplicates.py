"""Structures that are there twice, in a set or on both sides of a split."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from limbeck.core.hashing import hash_structure
from limbeck.core.labels import LabelledSet, concatenate_labelled
from limbeck.dataset.lint.close import ClosePairs, find_close
from limbeck.dataset.lint.finding import Finding
from limbeck.dataset.lint.material import Material

_SAME_A = 1e-4
_COPY_A = 1e-6
_RATTLED_A = 0.01
_SAME_STRAIN = 1e-6
_ENERGY_EV_PER_ATOM = 1e-3
_FORCE_EV_PER_A = 0.05
_COUNTS = 1e-3  # of splines summed over pairs: rounded positions differ by less
_FORCE_ALIKE_EV_PER_A = 1e-4
_MANY = 0.01  # share of the set


def check_duplicates(material: Material) -> Iterator[Finding]:
    """Equal structures; with different labels one of them is wrong."""
    first, second = _equal_pairs(material)
    size = material.batch.counts[first]
    de = np.abs(material.energy[first] - material.energy[second]) / size
    df = np.abs(material.force_rms[first] - material.force_rms[second])
    differ = (de > _ENERGY_EV_PER_ATOM) | (df > _FORCE_EV_PER_A)
    if differ.any():
        yield Finding(
            "duplicates-differ",
            "error",
            f"equal structures have different labels ({int(differ.sum())} pairs, up to "
            f"{de[differ].max() * 1e3:.0f} meV/atom)",
            material.frames(np.concatenate([first[differ], second[differ]])),
            "keep the label that is right; look whether settings or charge differed",
        )
    if len(alike := np.unique(second[~differ])):
        share = len(alike) / len(material.labelled)
        yield Finding(
            "duplicates",
            "warning" if share > _MANY and len(alike) > 1 else "note",
            f"{len(alike)} structures repeat an earlier one",
            material.frames(alike),
            "remove them: they count twice in training and may stand on both sides of a split",
        )
    if len(turned := np.setdiff1d(_equivalent(material), np.concatenate([first, second]))):
        yield Finding(
            "duplicates-equivalent",
            "note",
            f"{len(turned)} structures are others turned, mirrored or with their atoms in another order",
            material.frames(turned),
        )


def check_leak(material: Material) -> Iterator[Finding]:
    """Validation structures that are also, or nearly, in the training data; common families."""
    held = material.expected.validation
    if held is None or not len(held):
        return
    count = len(material.labelled)
    both = concatenate_labelled([material.labelled, held])
    near = find_close(both)
    across = (near.first < count) & (near.second >= count) & _leaks(near)
    if material.expected.copies_removed:
        across &= near.distance > _COPY_A
    leaked = np.unique(near.second[across]) - count
    if len(leaked):
        yield Finding(
            "leak",
            "error" if len(leaked) > 0.01 * len(held) else "warning",
            f"{len(leaked)} of {len(held)} validation structures are in the training data, or within "
            f"{_RATTLED_A} Å of one",
            material.frames(near.first[across]),
            "remove them from the training data; errors on them say nothing",
        )
    common = sorted((set(material.labelled.family) & set(held.family)) - {""})
    if common:
        yield Finding(
            "leak-family",
            "warning",
            f"{len(common)} families are on both sides ({common[0]}, ...)",
            material.frames(np.isin(material.labelled.family, common)),
            "put whole trajectories on one side",
        )


def find_copies(labelled: LabelledSet, test: LabelledSet) -> np.ndarray:
    """(S,) bool: structures of ``labelled`` that are in ``test``, or within 0.01 Å of one."""
    known = {hash_structure(atoms) for atoms in test.structures.to_atoms()}
    copies = np.array([hash_structure(atoms) in known for atoms in labelled.structures.to_atoms()], bool)
    while len(test) and not copies.all():
        rest = np.flatnonzero(~copies)
        near = find_close(concatenate_labelled([labelled.select(rest), test]))
        across = (near.first < len(rest)) & (near.second >= len(rest)) & _leaks(near)
        if not across.any():
            break
        # of many copies only the few nearest are found at a time
        copies[rest[near.first[across]]] = True
    return copies


def _leaks(near: ClosePairs) -> np.ndarray:
    """(P,) bool: so near that an error on one tells nothing of a student that learned the other."""
    return (near.distance < _RATTLED_A) & (near.strain < _SAME_STRAIN)


def _equal_pairs(material: Material) -> tuple[np.ndarray, np.ndarray]:
    """Equal up to translation, rotation of molecules, and rounding."""
    close = material.close
    same = (close.distance < _SAME_A) & (close.strain < _SAME_STRAIN)
    return close.first[same], close.second[same]


def _equivalent(material: Material) -> np.ndarray:
    """Structures with the pair distances, volume, energy and forces of an earlier one.

    Equal labels are asked for, as two polytypes may agree in their nearest shells.
    """
    surrogate = material.surrogate
    if surrogate is None:
        return np.zeros(0, np.int64)
    key = np.column_stack([material.counts, np.round(material.volume, 3), np.round(material.energy, 4)])
    group = np.unique(key, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(group, kind="stable")
    later, earlier = order[1:], order[:-1]
    alike = group[later] == group[earlier]
    later, earlier = later[alike], earlier[alike]
    shape = np.abs(surrogate.counts[later] - surrogate.counts[earlier]).max(axis=1, initial=0.0)
    force = np.abs(material.force_rms[later] - material.force_rms[earlier])
    return np.unique(later[(shape < _COUNTS) & (force < _FORCE_ALIKE_EV_PER_A)])
