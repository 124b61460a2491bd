"""Do energies change as the forces say? The strongest check: sign, unit, damaged frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from limbeck.dataset.lint.finding import Finding
from limbeck.dataset.lint.material import Material
from limbeck.dataset.lint.units import USUAL_STIFFNESS_EV, energy_force_units

_NEAR_A = 0.2
_CERTAIN_A = 0.15
_SAME_CELL = 1e-4
_ERRS = 3.0  # times what the trapezoidal rule errs for a convex energy
_LEAST_EV_PER_ATOM = 0.01
_LEAST_FOR_CHANCE = 30
_LEAST_TOLD_EV_PER_ATOM = 5e-4  # a noise of float32 teachers
_CHANCE = (0.2, 0.8)
_LEAST_PAIRS = 10
_MOST_PAIRS = 400  # the nearest
_AGREE = 0.5  # share of the work on pairs within a quarter of the common slope
_FINE = (0.7, 1.4)  # clean sets reach from 0.82 to 1.05
_COARSE = (0.15, 7.0)  # clean sets, energies over those of a pair potential: from 0.55 to 1.9
_LEAST_FRAMES = 8
_STIFF_EV = (3.0, 200.0)  # clean sets: 10 to 78
_NOBLE = (2, 10, 18, 36, 54, 86)
_LEAST_CORRELATION = 0.35  # below this the pair potential says nothing
#: of the many-body potential: correlation of forces, frames, share as ``_AGREE`` (clean sets: 0.8 and more,
#: or too few frames), bounds of the slope (clean sets: 0.98 to 1.27)
_MANY_FIT, _MANY_FRAMES, _MANY_AGREE, _MANY_FINE = 0.95, 20, 0.7, (0.72, 1.4)
#: rank correlation below which energies that spread by so much, eV/atom, have nothing to do with the forces
_MANY_CHANCE, _MANY_CHANCE_FRAMES, _MANY_SPREAD_EV_PER_ATOM = 0.2, 40, 2e-3


@dataclass(frozen=True)
class Slope:
    """How many times larger energy differences are than the work; ``share``: how well it is one number."""

    value: float
    share: float
    count: int


def common_slope(de: np.ndarray, work: np.ndarray) -> Slope:
    """The slope of least absolute deviations through the origin: a weighted median of ratios."""
    used = work != 0
    ratio, weight = de[used] / work[used], np.abs(work[used])
    if not len(ratio):
        return Slope(np.nan, 0.0, 0)
    order = np.argsort(ratio)
    cumulative = np.cumsum(weight[order])
    slope = float(ratio[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
    near = np.abs(ratio - slope) <= 0.25 * abs(slope)
    return Slope(slope, float(weight[near].sum() / cumulative[-1]), len(ratio))


def check_work(material: Material) -> Iterator[Finding]:
    """Energies against the work of forces between near structures, else against a pair potential."""
    slope = near_slope(material)
    if slope is None and _unrelated(material):
        yield Finding(
            "energies-unrelated",
            "error",
            "energies between near structures do not follow from the forces",
            remedy="check how energies were joined to structures, and the order of atoms of the forces",
        )
        return
    if slope is not None:
        if not _FINE[0] <= slope.value <= _FINE[1]:
            how = f"between {slope.count} pairs of near structures"
            yield _verdict(material, slope.value, how, tolerance=0.25)
        else:
            yield from _both_units(material, slope.value, tolerance=0.25)
        return
    finer = many_body_slope(material)
    if finer is not None:
        if not _MANY_FINE[0] <= finer.value <= _MANY_FINE[1]:
            how = "against a many-body potential fitted to the forces"
            yield _verdict(material, finer.value, how, tolerance=0.4)
        else:
            yield from _both_units(material, finer.value, tolerance=0.4)
        return
    coarse = fitted_slope(material)
    if coarse is not None and not _COARSE[0] <= coarse <= _COARSE[1]:
        yield _verdict(material, coarse, "against a pair potential fitted to the forces", tolerance=1.0)
    elif coarse is not None:
        yield from _both_units(material, coarse, tolerance=1.0)


def _both_units(material: Material, slope: float, tolerance: float) -> Iterator[Finding]:
    """Energies and forces that fit one another, in a unit that makes bonds too stiff or too soft."""
    stiffness = material.stiffness
    if stiffness is None or stiffness <= 0 or np.isin(material.elements, _NOBLE).all():
        return
    if _STIFF_EV[0] < stiffness < _STIFF_EV[1]:
        return
    named = energy_force_units(slope, tolerance, stiffness)
    low, high = USUAL_STIFFNESS_EV
    yield Finding(
        "energy-forces-unit",
        "error",
        f"energies and forces fit one another, but bonds are {'stiffer' if stiffness > high else 'softer'} "
        f"than any (curvature times squared length {stiffness:.3g} eV, usual {low:g} to {high:g})"
        + (f": looks like {named}" if named else ""),
        remedy="give energies in eV and forces in eV/Å",
    )


def near_slope(material: Material) -> Slope | None:
    """Of the nearest pairs in equal cells; None without enough of them, or where they disagree."""
    close = material.close
    near = np.flatnonzero((close.distance < _NEAR_A) & (close.strain < _SAME_CELL))
    near = near[np.argsort(close.distance[near], kind="stable")][:_MOST_PAIRS]
    if len(near) < _LEAST_PAIRS:
        return None
    slope = common_slope(close.de[near], close.work[near])
    return slope if slope.share >= _AGREE and slope.value != 0 else None


def contradictions(material: Material) -> tuple[np.ndarray, np.ndarray]:
    """Masks over the close pairs: near in equal cells, and of those, energies that forces exclude.

    For a convex energy the trapezoidal rule errs by no more than :attr:`ClosePairs.bend`.
    """
    close = material.close
    size = material.batch.counts[close.first]
    near = (close.distance < _CERTAIN_A) & (close.strain < _SAME_CELL)
    error = np.abs(close.de - close.work) / size
    allowed = (close.bend + 0.2 * np.abs(close.work)) / size + 1e-3
    return near, near & (error > _ERRS * allowed) & (error > _LEAST_EV_PER_ATOM)


def _unrelated(material: Material) -> bool:
    """Forces exclude most energies, or their work has the right sign no more often than by chance."""
    near, bad = contradictions(material)
    if near.sum() >= _LEAST_PAIRS and bad.sum() > _AGREE * near.sum():
        return True
    if _by_chance(material):
        return True
    if near.sum() < _LEAST_FOR_CHANCE:
        return False
    product = material.close.de[near] * material.close.work[near]
    size = material.batch.counts[material.close.first[near]]
    told = np.median(np.abs(material.close.work[near]) / size) > _LEAST_TOLD_EV_PER_ATOM
    right = product[product > 0].sum() / max(float(np.abs(product).sum()), 1e-300)
    return bool(told and _CHANCE[0] < right < _CHANCE[1])


def comparable_energies(material: Material) -> tuple[np.ndarray, np.ndarray]:
    """Energies of labels and of the many-body potential, eV over root N, from the medians of equal atoms in
    equal volumes; (T,) each, none where forces are not followed well."""
    fitted, none = material.many_body, np.zeros(0)
    if fitted is None or fitted.fit < _MANY_FIT:
        return none, none
    here = np.full(len(material.labelled), np.nan)
    here[fitted.index] = fitted.energy
    own, theirs = [none], [none]
    for group in same_cells(material):
        members = group[np.isfinite(here[group])]
        if len(members) >= 4:
            root = np.sqrt(material.batch.counts[members])
            for values, into in ((material.energy, own), (here, theirs)):
                into.append((values[members] - np.median(values[members])) / root)
    return np.concatenate(own), np.concatenate(theirs)


def many_body_slope(material: Material) -> Slope | None:
    """How many times larger energy differences are than the forces say; None where that is not one number."""
    own, theirs = comparable_energies(material)
    if len(own) < _MANY_FRAMES:
        return None
    slope = common_slope(own, theirs)
    return slope if slope.share >= _MANY_AGREE and slope.value != 0 else None


def _by_chance(material: Material) -> bool:
    """Energies in an order that has nothing to do with the forces."""
    own, theirs = comparable_energies(material)
    if len(own) < _MANY_CHANCE_FRAMES:
        return False
    size = np.sqrt(float(np.median(material.batch.counts)))
    if min(np.median(np.abs(own)), np.median(np.abs(theirs))) < _MANY_SPREAD_EV_PER_ATOM * size:
        return False
    rank = np.corrcoef(own.argsort().argsort(), theirs.argsort().argsort())[0, 1]
    return bool(abs(rank) < _MANY_CHANCE)


def fitted_slope(material: Material) -> float | None:
    """Spread of energies over that of the pair potential's, with the sign of their correlation."""
    surrogate = material.surrogate
    if surrogate is None:
        return None
    e: list[np.ndarray] = []
    p: list[np.ndarray] = []
    for members in same_cells(material):
        if len(members) >= 4:
            root = np.sqrt(material.batch.counts[members])
            for values, into in ((material.energy, e), (surrogate.energy, p)):
                own = values[members]
                into.append((own - np.median(own)) / root)
    if not e or len(energy := np.concatenate(e)) < _LEAST_FRAMES:
        return None
    fitted = np.concatenate(p)
    rank = np.corrcoef(energy.argsort().argsort(), fitted.argsort().argsort())[0, 1]
    spread = float(np.median(np.abs(fitted)))
    if not np.isfinite(rank) or abs(rank) < _LEAST_CORRELATION or spread == 0:
        return None
    return float(np.sign(rank)) * float(np.median(np.abs(energy))) / spread


def same_cells(material: Material) -> list[np.ndarray]:
    """Structures of equal atoms in cells of equal volume within 3%."""
    volume = np.where(material.batch.periodic, np.log(np.maximum(material.volume, 1e-9)), 0.0)
    key = np.column_stack([material.counts, np.round(volume / 0.03)])
    group = np.unique(key, axis=0, return_inverse=True)[1].reshape(-1)
    return [np.flatnonzero(group == g) for g in range(group.max() + 1)]


def _verdict(material: Material, slope: float, how: str, tolerance: float) -> Finding:
    stiffness = material.stiffness if (material.stiffness or 0.0) > 0 else None
    if slope < 0:
        text = f"energies fall where the forces say they rise (slope {slope:.2f} {how})"
        if not _COARSE[0] < -slope < _COARSE[1]:
            text += f"; and {energy_force_units(-slope, tolerance, stiffness) or 'units do not fit'}"
        return Finding(
            "forces-sign", "error", text, remedy="forces are minus the gradient: change their sign"
        )
    named = energy_force_units(slope, tolerance, stiffness)
    return Finding(
        "energy-forces-unit",
        "error",
        f"energies change {slope:.3g} times as much as the forces say ({how})"
        + (f": looks like {named}" if named else "; no usual unit explains it"),
        remedy="give energies in eV and forces in eV/Å"
        if named
        else "check that energies belong to these forces",
    )
