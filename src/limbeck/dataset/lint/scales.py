"""Parts of a set whose forces or stresses are in another unit, along other axes, or of another sign."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from limbeck.dataset.lint.finding import Finding
from limbeck.dataset.lint.manybody import ManyBody
from limbeck.dataset.lint.material import Material, median_deviation, rare
from limbeck.dataset.lint.surrogate import axis_table
from limbeck.dataset.lint.units import force_units

_FOLLOWS = 0.9  # correlation of a structure's forces from which their size can be judged
_LEAST_ATOMS, _LEAST_FORCE_EV_PER_A = 4, 0.05
_LEAST_JUDGED = 12
#: logarithm of a structure's size of forces over that of most: least that is told, in deviations too
#: (clean sets reach 0.3 where the deviation is 0.05, and 0.6 where it is 0.09)
_OFF, _DEVIATIONS = 0.45, 8.0
_APART, _WITHIN = 0.35, 3.0  # two heaps: gap, and gap over the deviation within
_NAMED = 0.35  # tolerance in naming units
_AXIS_FIT, _AXIS_GAIN = 0.5, 0.4  # correlation with the best axis, and over that with its own
_ZERO_SHARE = 0.3  # of the usual size of a component that distances say is there
_MOST_AXES = ("x", "y", "z")


def check_frame_units(material: Material) -> Iterator[Finding]:
    """Structures whose forces point where they should, but are all larger or smaller than elsewhere."""
    fitted = material.many_body
    if fitted is None:
        return
    size, judged = _sizes(material, fitted)
    if judged.sum() < _LEAST_JUDGED:
        return
    logs = np.log(size[judged])
    off = _far(logs) | _heap(logs)
    if not off.any():
        return
    middle = np.exp(np.median(logs[off]) - np.median(logs[~off]))
    named = force_units(float(middle), _NAMED)
    yield Finding(
        "frames-unit",
        "note" if rare(int(off.sum()), len(material.batch)) else "error" if named else "warning",
        f"the forces of {int(off.sum())} structures are about {middle:.2g} times as large as their distances "
        "and the other structures say" + (f": looks like {named}" if named else ""),
        material.frames(fitted.index[judged][off]),
        "give all forces in eV/Å",
    )


def _sizes(material: Material, fitted: ManyBody) -> tuple[np.ndarray, np.ndarray]:
    """(T,) labelled over fitted size of each structure's forces, and the mask of those that can be judged."""
    part = material.batch.select(fitted.index)
    given = material.forces[material.batch.atom_index(fitted.index)]
    both = np.add.reduceat((given * fitted.forces).sum(axis=1), part.offsets[:-1])
    own = np.add.reduceat((fitted.forces**2).sum(axis=1), part.offsets[:-1])
    size = np.divide(both, own, out=np.zeros(len(both)), where=own > 0)
    force = material.force_rms[fitted.index]
    judged = (np.nan_to_num(fitted.agreement) > _FOLLOWS) & (part.counts >= _LEAST_ATOMS) & (size > 0)
    # small forces are told from a structure at rest by what the fit says
    expected = np.sqrt(own / (3 * part.counts))
    return size, judged & (np.maximum(force, expected) > _LEAST_FORCE_EV_PER_A)


def _far(logs: np.ndarray) -> np.ndarray:
    middle, spread = median_deviation(logs)
    far = np.abs(logs - middle) > max(_OFF, _DEVIATIONS * spread)
    return far if far.sum() < 0.3 * len(logs) else np.zeros(len(logs), bool)


def _heap(logs: np.ndarray) -> np.ndarray:
    """The smaller of two heaps that lie apart, as a mask; empty where there is one."""
    order = np.argsort(logs)
    gaps = np.diff(logs[order])
    least = max(2, len(logs) // 20)
    inner = gaps[least - 1 : len(gaps) - least + 1]
    none = np.zeros(len(logs), bool)
    if not len(inner):
        return none
    at = int(inner.argmax()) + least
    low, high = logs[order[:at]], logs[order[at:]]
    within = max(median_deviation(low)[1], median_deviation(high)[1])
    apart = float(np.median(high) - np.median(low))
    if apart < _APART or apart < _WITHIN * within or inner.max() < 0.4 * apart:
        return none
    none[order[:at] if len(low) < len(high) else order[at:]] = True
    return none


def check_axes(material: Material) -> Iterator[Finding]:
    """Components of forces that are missing, of the other sign, or in each other's place.

    What follows from distances is alike along all axes, so a fit to one component predicts the others.
    """
    fitted = material.many_body
    if fitted is None:
        return
    part = material.batch.select(fitted.index)
    given = material.forces[material.batch.atom_index(fitted.index)]
    missing = _missing(given, fitted.forces, part.offsets, part.counts)  # (T, 3)
    frames = np.asarray(missing.any(axis=1))
    if frames.any():
        axes = ", ".join(
            name for name, gone in zip(_MOST_AXES, np.asarray(missing.any(axis=0)), strict=True) if gone
        )
        yield Finding(
            "forces-axes",
            "note" if rare(int(frames.sum()), len(frames)) else "error",
            f"the {axes} components of the forces are zero in {int(frames.sum())} structures where "
            "distances say that they are not",
            material.frames(fitted.index[frames]),
            "read all three components",
        )
        return
    table = axis_table(material.labelled)
    best = np.abs(table).argmax(axis=1)
    size = np.abs(table).max(axis=1)
    wrong = (size > _AXIS_FIT) & (size - np.diag(table) > _AXIS_GAIN)
    if not wrong.any() or size.min() < _AXIS_FIT:
        return
    said = [
        f"{_MOST_AXES[k]} follows {'minus ' if table[k, best[k]] < 0 else ''}{_MOST_AXES[best[k]]}"
        for k in np.flatnonzero(wrong)
    ]
    yield Finding(
        "forces-axes",
        "error",
        f"components of the forces do not fit the positions: {', '.join(said)}",
        remedy="check the order and the signs of the three components",
    )


def _missing(given: np.ndarray, fitted: np.ndarray, offsets: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(T, 3) mask of components that are exactly zero for all atoms of a structure, and should not be."""
    zero = np.logical_and.reduceat(given == 0, offsets[:-1])
    expected = np.sqrt(np.add.reduceat(fitted**2, offsets[:-1]) / counts[:, None])
    usual = np.sqrt((given**2).sum(axis=1).mean() / 3)
    some = ~zero.all(axis=1, keepdims=True)
    # a fit to few of three components is a part of what it should be, so little is asked of it
    return zero & some & (expected > _ZERO_SHARE * usual * np.where(zero.mean(axis=0) > 0.5, 0.3, 1.0))


def check_stress_frames(material: Material) -> Iterator[Finding]:
    """Stresses of single structures that are zero, or of another sign than those of the others."""
    stress = material.labelled.labels.stress
    if stress is None or not material.has_stress.any():
        return
    zero = material.has_stress & ~np.nan_to_num(stress).any(axis=(1, 2))
    if 0 < zero.sum() < material.has_stress.sum():
        yield Finding(
            "stress-zero",
            "error" if zero.sum() > 0.01 * len(zero) else "warning",
            f"the stresses of {int(zero.sum())} structures are exactly zero",
            material.frames(zero),
            "leave the stress out where it was not computed",
        )
