"""Energies that count from different zeros, or in a unit that total energies give away."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import units

from limbeck.dataset.lint.consistency import same_cells
from limbeck.dataset.lint.finding import Finding
from limbeck.dataset.lint.material import Material, median_deviation

# Hartree-Fock energies of neutral atoms, H to Ar, Hartree (Clementi and Roetti 1974,
# doi:10.1016/S0092-640X(74)80016-1); binding and correlation add about one per cent.
_ATOM_HARTREE = np.array([
    np.nan, 0.5, 2.8617, 7.4327, 14.573, 24.529, 37.689, 54.401, 74.809, 99.409, 128.547,
    161.859, 199.615, 241.877, 288.854, 340.719, 397.505, 459.482, 526.817,
])  # fmt: skip
# Codes that count in Rydberg leave the cores out, and valence energies in eV come near that number.
_UNITS = {
    "Hartree": 1.0,
    "kcal/mol": units.Hartree / (units.kcal / units.mol),
    "kJ/mol": units.Hartree / (units.kJ / units.mol),
}
_WINDOW = (0.985, 1.035)
_GAP_EV_PER_ATOM = 0.3
_PART_EV_PER_ATOM = 0.1
_DEVIATIONS = 8.0
_LEAST = 5
_HOTTER = 1.5
#: of energies beside a many-body potential's: correlation of its forces, structures, distance of two heaps
#: in eV/atom, in deviations within, and the share of it that is empty; both heaps have like energies there
_SMALLEST = 0.15  # share of the smaller heap
_FIT, _LEAST_BESIDE, _APART_EV_PER_ATOM, _WITHIN, _EMPTY, _ALIKE = 0.95, 20, 0.02, 6.0, 0.25, 0.7


def check_total_energies(material: Material) -> Iterator[Finding]:
    """All-electron total energies are known within a few per cent, so their unit is seen."""
    if material.elements.max() >= len(_ATOM_HARTREE) or material.elements.max() < 5:
        return
    expected = material.counts @ _ATOM_HARTREE[material.elements]
    ratio = np.median(-material.energy / expected)
    for name, factor in _UNITS.items():
        if _WINDOW[0] < ratio / factor < _WINDOW[1]:
            yield Finding(
                "energy-unit",
                "error",
                f"energies are {ratio / factor:.3f} times the total energies of the atoms in {name}",
                remedy=f"energies in eV are wanted: multiply by {units.Hartree / factor:.6g}",
            )


def check_references(material: Material) -> Iterator[Finding]:
    """Energies of equal compositions in two heaps, by source, by family, or only far apart."""
    residual = _residual(material)
    sources = [(material.part_names[k], material.part == k) for k in range(len(material.part_names))]
    families = np.array([str(f).split("#")[0].split(":")[0] for f in material.labelled.family])
    named = [(f"family {name}", families == name) for name in np.unique(families) if name]
    for name, mask in (*(sources if len(sources) > 1 else ()), *(named if len(named) > 1 else ())):
        shift = _shift(material, residual, mask)
        if shift is not None:
            yield Finding(
                "energy-reference",
                "error",
                f"energies of {name} lie {shift:+.3f} eV/atom off those of the same compositions elsewhere",
                material.frames(mask),
                "bring all energies to one reference (one code, functional and zero)",
            )
            return
    heap = _heaps(material, residual)
    if heap is not None:
        upper, gap = heap
        yield Finding(
            "energy-reference",
            "error",
            f"energies of equal compositions lie in two heaps, {gap:.3g} eV/atom apart "
            f"({int(upper.sum())} structures in the smaller one)",
            material.frames(upper),
            "bring all energies to one reference (one code, functional and zero)",
        )
        return
    beside = _heaps_beside_forces(material)
    if beside is not None:
        members, apart = beside
        yield Finding(
            "energy-reference",
            "warning",
            f"energies of like structures lie in two heaps {apart * 1e3:.0f} meV/atom apart, not by "
            f"their forces ({len(members)} structures in the smaller one)",
            material.frames(members),
            "check that all have the same functional, dispersion, charge and spin",
        )


def _heaps_beside_forces(material: Material) -> tuple[np.ndarray, float] | None:
    """Members of the smaller of two heaps of energies less those that go with the forces, and the distance.

    Two phases may lie so too, as a fit is better for one; but then their energies differ.
    """
    fitted = material.many_body
    if fitted is None or fitted.fit < _FIT:
        return None
    theirs = np.full(len(material.labelled), np.nan)
    theirs[fitted.index] = fitted.energy
    theirs /= material.batch.counts
    beside = material.energy / material.batch.counts - theirs
    for group in same_cells(material):
        members = group[np.isfinite(beside[group])]
        # a set of many formulas holds isomers, which lie in heaps too
        if len(members) < max(_LEAST_BESIDE, len(fitted.index) // 2):
            continue
        order = members[np.argsort(beside[members])]
        value = beside[order]
        at = int(np.diff(value)[_LEAST - 1 : -_LEAST + 1].argmax()) + _LEAST
        (low, a), (high, b) = median_deviation(value[:at]), median_deviation(value[at:])
        apart, empty = high - low, value[at] - value[at - 1]
        if apart < max(_APART_EV_PER_ATOM, _WITHIN * max(a, b)) or empty < _EMPTY * apart:
            continue
        own = theirs[order]
        differ = abs(float(np.median(own[:at]) - np.median(own[at:])))
        if min(at, len(order) - at) < _SMALLEST * len(order):
            continue  # a few of their own kind, such as a reacted cluster
        if differ < _ALIKE * median_deviation(own)[1]:
            return order[:at] if at < len(order) - at else order[at:], apart
    return None


def _residual(material: Material) -> np.ndarray:
    """(S,) eV/atom, from the median of each composition."""
    per_atom = material.energy / material.batch.counts
    residual = np.zeros_like(per_atom)
    for c in np.unique(material.composition):
        members = material.composition == c
        residual[members] = per_atom[members] - np.median(per_atom[members])
    return residual


def _shift(material: Material, residual: np.ndarray, mask: np.ndarray) -> float | None:
    """Median difference of a part from the rest where both hold a composition and do not overlap."""
    shifts = []
    for c in np.unique(material.composition[mask]):
        own, rest = (
            residual[mask & (material.composition == c)],
            residual[~mask & (material.composition == c)],
        )
        if min(len(own), len(rest)) < _LEAST:
            continue
        (a, spread_a), (b, spread_b) = median_deviation(own), median_deviation(rest)
        apart = own.min() > rest.max() or own.max() < rest.min()
        far = abs(a - b) > max(_PART_EV_PER_ATOM, _DEVIATIONS * max(spread_a, spread_b))
        shifts.append((far and apart, a - b))
    if shifts and all(far for far, _ in shifts):
        return float(np.median([shift for _, shift in shifts]))
    return None


def _heaps(material: Material, residual: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Members of the smaller heap of the composition with the widest gap, and the gap."""
    for c in np.unique(material.composition):
        members = np.flatnonzero(material.composition == c)
        if len(members) < 2 * _LEAST:
            continue
        order = members[np.argsort(residual[members])]
        value = residual[order]
        at = int(np.diff(value)[_LEAST - 1 : -_LEAST + 1].argmax()) + _LEAST
        low, high = value[:at], value[at:]
        gap = high[0] - low[-1]
        force = [float(np.median(material.force_rms[order[part]])) for part in (slice(at), slice(at, None))]
        if force[1] > _HOTTER * force[0]:
            continue  # hot and cold structures, not two references
        if gap > max(_GAP_EV_PER_ATOM, 2 * max(np.ptp(low), np.ptp(high)), 0):
            smaller = order[:at] if len(low) < len(high) else order[at:]
            mask = np.zeros(len(residual), bool)
            mask[smaller] = True
            return mask, float(gap)
    return None
