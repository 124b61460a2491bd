"""Single structures whose labels do not fit those of the others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from limbeck.dataset.lint.consistency import contradictions, near_slope
from limbeck.dataset.lint.finding import Finding
from limbeck.dataset.lint.material import Material, median_deviation, rare

_USUAL = 0.8  # correlation with fitted forces that 90% of the structures reach where it is worth asking
_OPPOSITE = -0.5
_UNRELATED = 0.38
_FOLLOWED = 0.9  # by a many-body fit: molten silicon among crystals has 0.93, exchanged elements 0.84
_NOTHING = 0.25  # of all structures: clean sets have 0.82 and more
_WHOLE = 2.0  # no atom is farther from its neighbour, in sums of covalent radii
_LEAST_COMPONENTS = 24
_LEAST_JUDGED = 10
_LEAST_FORCE_EV_PER_A = 0.05  # below it structures are at rest, and what is left is noise
_KNOWN = 0.4  # median correlation from which single structures can be judged
_ATOM_DEVIATION = 25.0
_GROSS_EV_PER_ATOM = 0.1


def check_forces_fit(material: Material) -> Iterator[Finding]:
    """Forces against a pair potential fitted to the forces of all: flipped, or of another structure."""
    surrogate = material.surrogate
    if surrogate is None:
        return
    agreement = surrogate.agreement
    farthest = np.maximum.reduceat(material.bonds.ratio, material.batch.offsets[:-1])
    moved = np.isfinite(agreement) & (farthest < _WHOLE)
    moved &= material.force_rms > max(0.2 * float(np.median(material.force_rms)), _LEAST_FORCE_EV_PER_A)
    judged = moved & (3 * material.batch.counts >= _LEAST_COMPONENTS)
    if not judged.any():
        if surrogate.fit >= _NOTHING or moved.sum() < _LEAST_JUDGED:
            return
        judged = moved  # of small cells only what all say together counts
    middle, spread = median_deviation(agreement[judged])
    if middle < _NOTHING and judged.sum() >= _LEAST_JUDGED:
        yield Finding(
            "forces-unrelated",
            "error",
            f"the forces do not follow from the distances between atoms (correlation {middle:.2f})",
            remedy="check the order of the atoms, and how labels were joined to structures",
        )
        return
    if middle < _KNOWN:
        return
    flipped = judged & (agreement < _OPPOSITE)
    if flipped.any():
        yield Finding(
            "frames-sign",
            "error",
            f"the forces of {int(flipped.sum())} structures point against those of the others",
            material.frames(flipped),
            "change the sign of these forces",
        )
    if np.quantile(agreement[judged], 0.3) < _USUAL:
        return
    strange = judged & ~flipped & (agreement < min(_UNRELATED, middle - 6 * spread))
    if strange.any():
        strange &= ~_explained(material)
    if strange.any():
        count = int(strange.sum())
        many = count > 0.02 * len(agreement)
        yield Finding(
            "frames-forces",
            "error" if many else "note" if rare(count, len(agreement)) else "warning",
            f"the forces of {int(strange.sum())} structures do not belong to their positions",
            material.frames(strange),
            "check the order of the atoms, their elements, and how labels were joined to structures",
        )


def _explained(material: Material) -> np.ndarray:
    """(S,) mask: forces that a many-body fit follows; pairs alone fail at the few molten of many crystals."""
    explained = np.zeros(len(material.batch), bool)
    fitted = material.many_body
    if fitted is not None:
        explained[fitted.index] = fitted.agreement > _FOLLOWED
    return explained


def check_force_outliers(material: Material) -> Iterator[Finding]:
    """Forces on single atoms far from anything that the distances explain."""
    surrogate = material.surrogate
    if surrogate is None:
        return
    fitted = np.linalg.norm(surrogate.forces, axis=1)
    size = np.linalg.norm(material.forces, axis=1)
    scale = float(np.median(size[size > 0]))
    off = np.linalg.norm(material.forces - surrogate.forces, axis=1)
    near = material.bonds.ratio < 0.8  # strong repulsion is badly fitted
    out = (off > _ATOM_DEVIATION * scale) & (size > 5 * fitted) & ~near
    frames = np.unique(material.batch.structure_of_atom[out])
    if len(frames):
        yield Finding(
            "force-outliers",
            "warning",
            f"{len(frames)} structures have forces that their distances do not explain, up to "
            f"{size[out].max():.3g} eV/Å where {scale:.2g} is usual",
            material.frames(frames),
            "check these calculations, or remove them",
        )


def check_energy_frames(material: Material) -> Iterator[Finding]:
    """Energies that contradict the work of forces to every near structure."""
    if near_slope(material) is None:
        return
    close = material.close
    near, bad = contradictions(material)
    count = np.zeros((2, len(material.labelled)))
    for end in (close.first, close.second):
        np.add.at(count[0], end[near], 1)
        np.add.at(count[1], end[bad], 1)
    wrong = (count[0] >= 2) & (count[1] > 0.7 * count[0])
    off = np.abs(close.de - close.work) / material.batch.counts[close.first]
    least = np.full(len(material.labelled), np.inf)
    for end in (close.first, close.second):
        np.minimum.at(least, end[bad], off[bad])
    whole = np.maximum.reduceat(material.bonds.ratio, material.batch.offsets[:-1]) < _WHOLE
    wrong &= whole
    if wrong.any():
        yield Finding(
            "frames-energy",
            "error" if (least[wrong] > _GROSS_EV_PER_ATOM).any() else "warning",
            f"the energies of {int(wrong.sum())} structures contradict the forces between them and "
            f"their neighbours, by {least[wrong].max():.2g} eV/atom and more",
            material.frames(wrong),
            "compute these energies again, or remove the structures",
        )
