"""Signs and units of energies, forces and stress, from their relations.

Three independent measures. Between close structures the energy changes by minus the work of the forces. Bonds
resist compression, with a stiffness that is known within an order of magnitude. Where a pair potential
reproduces the forces, energies and stresses vary as its own do.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np

from limbeck.core.label_units import ENERGY_EV, STIFFNESS_EV, bond_units, energy_force_units, stress_units
from limbeck.dataset.lint.records import REMEDIES, Finding, Material, finding

_NEAR_A, _EQUAL_CELL = 0.2, 1e-4  # displacement in which forces are nearly linear; strain of equal cells
_LEAST_PAIRS, _LEAST_FRAMES, _LEAST_BONDS = 10, 12, 50
_NOISE_EV_PER_ATOM = 5e-4  # of teachers in single precision, of loose convergence
_AGREE = 0.5  # share of the work on pairs within a quarter of the common slope
_NEAR_SLOPE = (0.7, 1.4)  # the trapezoidal rule errs by 5 to 20% at 0.2 Å
_FIT_SLOPE = (1 / 7, 7.0)  # correct labels are within a factor of 4; Rydberg is off by 13.6
_FOLLOWS = 0.85  # least correlation of the pair potential with the forces
_BOND, _BONDED = 0.6, 1.3  # correlation of pull with length (correct: 0.7 to 0.96); sums of covalent radii
_STIFF_SLACK = 1.7  # beyond usual stiffness
_CHANCE, _MANY_FRAMES = 0.2, 30
_OPPOSITE, _NOTHING = -0.6, 0.25  # correlation with the fitted forces, of a structure, of all
_AT_REST_EV_PER_A = 0.05
_GAP_EV_PER_ATOM, _CLUSTER = 0.3, 5  # least gap between two zeros of energy, structures on each side
_FAR_EV_PER_ATOM, _FAR_DEVIATIONS = 0.1, 20.0
_STRAIN_SLOPE, _STRESS_SLOPE = (0.5, 2.0), (0.1, 10.0)  # the nearest unit of stress is off by 160
_STRESS_FOLLOWS, _STILL_EV = 0.7, 0.01  # cosine (correct: 0.8 to 1); in argon at 80 K virials vary by 0.02
_ORDER = 0.85, 0.4  # least correlation in the best order, most in the one given
# Hartree-Fock energies of neutral atoms, H to Ar, Hartree (Clementi and Roetti 1974,
# doi:10.1016/S0092-640X(74)80016-1); binding and correlation add about one per cent.
_ATOM_HARTREE = np.array([
    np.nan, 0.5, 2.8617, 7.4327, 14.573, 24.529, 37.689, 54.401, 74.809, 99.409, 128.547,
    161.859, 199.615, 241.877, 288.854, 340.719, 397.505, 459.482, 526.817,
])  # fmt: skip
# without Rydberg: codes that use it leave out the cores, and valence energies in eV are of that size
_TOTAL_UNITS = ("Hartree", "kcal/mol", "kJ/mol")
_TOTAL_WINDOW = (0.985, 1.035)


class Slope(NamedTuple):
    """Ratio of energy differences to work, how it was measured, its usual range and relative tolerance."""

    value: float
    how: str
    usual: tuple[float, float]
    tolerance: float


def check_total_energies(material: Material) -> Iterator[Finding]:
    """The unit of all-electron total energies, which are known within a few per cent."""
    if not 5 <= material.elements.max() < len(_ATOM_HARTREE):
        return
    ratio = np.median(-material.energy / (material.counts @ _ATOM_HARTREE[material.elements]))
    for name in _TOTAL_UNITS:
        ev = ENERGY_EV[name]
        times = ratio * ev / ENERGY_EV["Hartree"]
        if _TOTAL_WINDOW[0] < times < _TOTAL_WINDOW[1]:
            text = f"energies are {times:.3f} times the total energies of the atoms in {name}"
            yield finding("energy-unit", "error", text, remedy=f"convert to eV: multiply by {ev:.6g}")


def check_forces(material: Material) -> Iterator[Finding]:
    """Sign and unit of forces and energies, of the set and of single structures."""
    slope, stiffness = near_slope(material) or fitted_slope(material), bond_stiffness(material)
    if slope is None:
        yield from _unrelated(material)
    value = (stiffness or 1.0) if slope is None else slope.value
    if value < 0:
        yield _sign(slope, stiffness)
    elif slope is not None and not slope.usual[0] < value < slope.usual[1]:
        named = energy_force_units(value, slope.tolerance, stiffness if (stiffness or 0) > 0 else None)
        text = f"energies change {value:.3g} times as much as the work of the forces ({slope.how})"
        yield _unit(text, named, "; no usual unit explains it")
    elif stiffness is not None:
        low, high = STIFFNESS_EV
        if not low / _STIFF_SLACK < stiffness < high * _STIFF_SLACK:
            named = bond_units(stiffness)
            if slope is not None:
                named = energy_force_units(value, slope.tolerance, stiffness)
            text = (
                f"bonds are too {'stiff' if stiffness > high else 'soft'} (curvature times squared length "
                f"{stiffness:.3g} eV, usual {low:g} to {high:g})"
            )
            yield _unit(text, named, "")
    yield from _check_frames(material, stiffness)


def _unit(text: str, named: str, otherwise: str) -> Finding:
    text += f": looks like {named}" if named else otherwise
    # without such a unit, stiff bonds may be sampled too coarsely
    return finding("energy-forces-unit", "error" if named else "note", text)


def _sign(slope: Slope | None, stiffness: float | None) -> Finding:
    if slope is None:
        return finding("forces-sign", "error", "bonds pull when they are short and push when they are long")
    text = f"energies fall where the forces predict a rise (slope {slope.value:.2f} {slope.how})"
    right = stiffness is not None and stiffness > 0
    if not slope.usual[0] < -slope.value < slope.usual[1]:
        named = energy_force_units(-slope.value, slope.tolerance, stiffness if right else None)
        text += f"; and {named or 'units do not fit'}"
    remedy = "bonds resist compression, so the forces are correct: change the sign of the energies"
    return finding("forces-sign", "error", text, remedy=remedy if right else None)


def _near_pairs(material: Material) -> tuple[np.ndarray, np.ndarray]:
    """Energy differences and work, eV, above the noise, between close structures in equal cells."""
    close = material.close
    near = (close.distance < _NEAR_A) & (close.strain < _EQUAL_CELL) & (close.work != 0)
    least = _NOISE_EV_PER_ATOM * material.batch.counts[close.first]
    near &= np.maximum(np.abs(close.de), np.abs(close.work)) > least
    return close.de[near], close.work[near]


def _common_slope(de: np.ndarray, work: np.ndarray) -> float | None:
    """The weighted median of the ratios; None where the pairs do not agree."""
    if len(de) < _LEAST_PAIRS:
        return None
    ratio, weight = de / work, np.abs(work)
    order = np.argsort(ratio)
    cumulative = np.cumsum(weight[order])
    slope = float(ratio[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
    near = np.abs(ratio - slope) <= 0.25 * abs(slope)
    return slope if slope != 0 and weight[near].sum() >= _AGREE * cumulative[-1] else None


def near_slope(material: Material) -> Slope | None:
    """Energy differences over work between close structures; None where the pairs do not agree."""
    de, work = _near_pairs(material)
    value = _common_slope(de, work)
    how = f"between {len(de)} pairs of close structures"
    return None if value is None else Slope(value, how, _NEAR_SLOPE, 0.25)


def _energies_and_fit(material: Material) -> tuple[np.ndarray, np.ndarray]:
    """Energies and those of the pair potential, eV / sqrt(N), (T,) each, relative to the medians of equal
    atoms in volumes equal within 3%; empty where it does not follow the forces."""
    fit, batch = material.pair_fit, material.batch
    own, fitted = [np.zeros(0)], [np.zeros(0)]
    if fit is None or fit.quality < _FOLLOWS:
        return own[0], fitted[0]
    volume = np.where(batch.periodic, np.log(np.maximum(batch.volume, 1e-9)), 0.0)
    key = np.column_stack([material.counts, np.round(volume / 0.03)])
    group = np.unique(key, axis=0, return_inverse=True)[1].reshape(-1)
    for members in (np.flatnonzero(group == g) for g in range(group.max() + 1)):
        if len(members) >= 4:
            root = np.sqrt(batch.counts[members])
            for values, into in ((material.energy, own), (fit.energy, fitted)):
                into.append((values[members] - np.median(values[members])) / root)
    return np.concatenate(own), np.concatenate(fitted)


def fitted_slope(material: Material) -> Slope | None:
    """Energies over those of the pair potential."""
    energy, fitted = _energies_and_fit(material)
    if len(energy) < _LEAST_FRAMES or abs(_correlation(energy, fitted)) < _FOLLOWS:
        return None
    value = np.sign(_correlation(energy, fitted)) * np.median(np.abs(energy)) / np.median(np.abs(fitted))
    return Slope(float(value), "against a pair potential fitted to the forces", _FIT_SLOPE, 1.0)


def _unrelated(material: Material) -> Iterator[Finding]:
    """Energies unrelated to the forces; those of isomers are unrelated to a pair potential too."""
    text = "do not follow from the forces"
    for (de, work), severity, which in (
        (_near_pairs(material), "error", "energies between close structures"),
        (_energies_and_fit(material), "warning", "energies of like structures"),
    ):
        if len(de) < _MANY_FRAMES or min(np.std(de), np.std(work)) < 10 * _NOISE_EV_PER_ATOM:
            continue
        if abs(_correlation(de.argsort().argsort(), work.argsort().argsort())) < _CHANCE:
            yield finding("energies-unrelated", severity, f"{which} {text}")  # type: ignore[arg-type]
            return


def bond_stiffness(material: Material) -> float | None:
    """Curvature of bonds times their squared length, eV, of the pair of elements where it is clearest.

    From the force between an atom and its nearest neighbour along the bond as a function of its length: short
    bonds push, long ones pull. Negative where they do the opposite, None where neither is clear.
    """
    batch, bonds, forces = material.batch, material.bonds, material.forces
    bonded = (bonds.ratio < _BONDED) & (bonds.other != np.arange(batch.n_atoms))
    bonded &= (batch.counts > 2)[batch.structure_of_atom]
    atom, other = np.flatnonzero(bonded), bonds.other[bonded]
    length = bonds.distance[bonded]
    pull = 0.5 * ((forces[atom] - forces[other]) * bonds.vector[bonded]).sum(axis=1) / length
    ends = np.sort(batch.numbers[[atom, other]], axis=0)
    kind = 200 * ends[0] + ends[1]
    clearest, stiffness = _BOND, None
    for one in np.unique(kind):
        x, y = length[kind == one], pull[kind == one]
        if len(x) >= _LEAST_BONDS and x.std() > 1e-3 and abs(r := _correlation(x, y)) > clearest:
            clearest, stiffness = abs(r), float(np.polyfit(x, y, 1)[0] * np.median(x) ** 2)
    return stiffness


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if len(a) and a.std() > 0 and b.std() > 0 else 0.0


def _check_frames(material: Material, stiffness: float | None) -> Iterator[Finding]:
    """Single structures with forces of the opposite sign, or forces that no distances explain."""
    fit, size = material.pair_fit, material.force_rms
    if fit is None:
        return
    large = (size > 0.3 * np.median(size[size > 0])) & (material.batch.counts > 7)
    flipped = large & (fit.agreement < _OPPOSITE) & (fit.quality > _FOLLOWS)
    text = "the forces of {n} structures point against those of the others"
    yield from material.found("frames-sign", "error", text, flipped)
    moving = large.sum() >= _LEAST_FRAMES and np.median(size) > _AT_REST_EV_PER_A
    if moving and fit.quality < _NOTHING and stiffness is None:
        text = f"the forces do not follow from the distances between atoms (correlation {fit.quality:.2f})"
        yield finding("forces-unrelated", "warning", text)


def check_energies(material: Material) -> Iterator[Finding]:
    """Energies of equal compositions in two clusters, or single energies far from all others."""
    per_atom, fit = material.energy / material.batch.counts, material.pair_fit
    residual = per_atom.copy()
    if fit is not None and fit.quality > _FOLLOWS:
        residual -= fit.energy / material.batch.counts
    far: list[int] = []
    for c in np.unique(material.composition):
        members = np.flatnonzero(material.composition == c)
        if len(members) < 2 * _CLUSTER:
            continue
        off = np.abs(residual[members] - np.median(residual[members]))
        out = off > max(_FAR_EV_PER_ATOM, _FAR_DEVIATIONS * 1.4826 * float(np.median(off)))
        far += members[out].tolist()
        order = members[np.argsort(per_atom[members])]
        value = per_atom[order]
        at = int(np.diff(value)[_CLUSTER - 1 : 1 - _CLUSTER].argmax()) + _CLUSTER
        gap = value[at] - value[at - 1]
        if gap > max(_GAP_EV_PER_ATOM, 2 * np.ptp(value[:at]), 2 * np.ptp(value[at:])):
            smaller = order[:at] if 2 * at < len(order) else order[at:]
            text = f"energies of equal compositions form two clusters, {gap:.3g} eV/atom apart"
            yield finding("energy-reference", "warning", text, material.frames(smaller))
            return
    text = "the energies of {n} structures are far from those of the same composition"
    yield from material.found("energy-outliers", "warning", text, far)


def check_stress(material: Material) -> Iterator[Finding]:
    """Sign, unit and order of the stress, from energies of strained cells, else from the pair potential."""
    stress = material.labelled.labels.stress
    if stress is None or not stress[material.has_stress].any():
        return
    ratio, order = _stress_and_fit(material, stress)
    slope, usual, tolerance, how = ratio, _STRESS_SLOPE, 3.0, "against a pair potential fitted to the forces"
    if (strained := _strain_slope(material)) is not None:
        slope, usual, tolerance = strained, _STRAIN_SLOPE, 1.5
        how = "energy over stress work between strained cells"
    if order is not None:
        yield order
    elif slope is None:
        text = "no close structures in strained cells, and no pair potential that follows it"
        yield finding("stress-unchecked", "note", f"sign and unit of the stress were not checked: {text}")
    if slope is None or usual[0] < slope < usual[1]:
        return
    size = 1 / abs(slope)
    named = stress_units(size, float(np.median(material.batch.volume[material.has_stress])), tolerance)
    times = f"{size:.3g} times too large" if size > 1 else f"{1 / size:.3g} times too small"
    factor = f"looks like {named}: it is {times}" if named else f"is {times}"
    if slope > 0:
        yield finding("stress-unit", "error" if named else "warning", f"the stress {factor} ({how})")
    else:
        more = "" if usual[0] < -slope < usual[1] else f" and {factor}"
        yield finding("stress-sign", "error", f"the stress has the wrong sign{more} ({how})")


def _strain_slope(material: Material) -> float | None:
    """Energy difference less the work of forces, over the work of stress, between strained cells."""
    close = material.close
    used = (close.distance < _NEAR_A) & (close.strain > _EQUAL_CELL) & (np.nan_to_num(close.stress_work) != 0)
    de, work = close.de[used] - close.work[used], close.stress_work[used]
    noise = 4 * _NOISE_EV_PER_ATOM * material.batch.counts[close.first[used]]
    clear = np.abs(de) > np.maximum(noise, 2 * np.abs(close.work[used]))
    return _common_slope(de[clear], work[clear])


def _stress_and_fit(material: Material, stress: np.ndarray) -> tuple[float | None, Finding | None]:
    """Stress of the pair potential over the labelled one, negative where signs differ, and a finding where
    the shear components follow it in another order only.

    Shears and differences of normal components are compared: a pair potential misses the part of the pressure
    that depends on the volume alone.
    """
    fit, index = material.pair_fit, np.flatnonzero(material.has_stress)
    if fit is None or fit.quality < _FOLLOWS or len(index) < _LEAST_FRAMES:
        return None, None
    root = np.sqrt(material.batch.counts[index])[:, None]
    own = stress[index][:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] * material.batch.volume[index, None] / root
    fitted = fit.virial[index] / root
    table = [[_correlation(own[:, 3 + i], fitted[:, 3 + j]) for j in range(3)] for i in range(3)]
    score = {order: sum(table[i][order[i]] for i in range(3)) / 3 for order in permutations(range(3))}
    best = max(score, key=lambda order: abs(score[order]))
    given, finding_of_order = score[0, 1, 2], None
    if abs(score[best]) > _ORDER[0] and abs(given) < _ORDER[1]:
        fitted = fitted[:, [0, 1, 2, *(3 + k for k in best)]]
        names = ", ".join(("yz", "xz", "xy")[k] for k in best)
        vasp = ", and VASP writes xx, yy, zz, xy, yz, zx" if best == (2, 0, 1) else ""
        finding_of_order = finding(
            "stress-order",
            "warning",
            f"shear stresses follow the forces in the order {names} (correlation {score[best]:.2f}), "
            f"not in yz, xz, xy ({given:.2f})",
            remedy=REMEDIES["stress-order"] + vasp,
        )
    for values in (own, fitted):
        values[:, :3] -= values[:, :3].mean(axis=1, keepdims=True)
    size = float(np.sqrt((own**2).sum() * (fitted**2).sum()))
    moving = size > 0 and np.sqrt((fitted**2).mean()) > _STILL_EV
    cosine = float((own * fitted).sum()) / size if moving else 0.0
    if abs(cosine) < _STRESS_FOLLOWS:
        return None, finding_of_order
    return float(np.sign(cosine) * np.sqrt((fitted**2).sum() / (own**2).sum())), finding_of_order
