"""Sign, unit and order of stress, against energies of strained cells and against the forces."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from limbeck.dataset.lint.consistency import common_slope
from limbeck.dataset.lint.finding import Finding
from limbeck.dataset.lint.material import Material
from limbeck.dataset.lint.units import stress_units

_NEAR_A = 0.2
_STRAINED = 1e-4
_LEAST_PAIRS = 10
_LEAST_WORK_EV_PER_ATOM = 2e-3
_AGREE = 0.6
_FINE = (0.5, 2.0)
_LEAST_FRAMES = 8
_RATIO = 10.0
_SIGN = 0.15, 0.4  # concordance of shear and of normal components; clean sets: over 0.79 and 0.67
_ORDER = 0.85, 0.4  # correlation in the best order, and at most in the one given
_REMEDY = "stress in eV/Å³, positive in tension (ASE's sign); --virial-key for virials"


def check_stress(material: Material) -> Iterator[Finding]:
    """Everything about stress; nothing where there is none."""
    if not material.has_stress.any():
        return
    slope = _strain_slope(material)
    if slope is not None:
        if not _FINE[0] <= slope <= _FINE[1]:
            yield _verdict(material, slope, "energy over stress work between strained cells")
        else:
            yield from _order(material)
        return
    fitted = _fitted_ratio(material)
    if fitted is not None and (fitted < 0 or not 1 / _RATIO < fitted < _RATIO):
        yield _verdict(material, 1 / fitted, "against the virial of a pair potential fitted to the forces")
    elif fitted is not None:
        yield from _order(material)


def _strain_slope(material: Material) -> float | None:
    """Energy that the forces leave over, by the work of stress, between cells that differ."""
    close = material.close
    used = (close.distance < _NEAR_A) & (close.strain > _STRAINED) & np.isfinite(close.stress_work)
    de, work = close.de[used] - close.work[used], close.stress_work[used]
    size = material.batch.counts[close.first[used]]
    clear = np.abs(de) > np.maximum(_LEAST_WORK_EV_PER_ATOM * size, 2 * np.abs(close.work[used]))
    if clear.sum() < _LEAST_PAIRS:
        return None
    slope = common_slope(de[clear], work[clear])
    return slope.value if slope.share >= _AGREE and slope.value != 0 else None


def _components(material: Material) -> tuple[np.ndarray, np.ndarray]:
    """Labelled and fitted volume times stress over root N, Voigt order, (T, 6) each."""
    with_stress = np.flatnonzero(material.has_stress)
    stress = material.labelled.labels.stress
    if material.surrogate is None or stress is None:
        return np.zeros((0, 6)), np.zeros((0, 6))
    tensor = stress[with_stress] * material.volume[with_stress, None, None]
    voigt = tensor[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    root = np.sqrt(material.batch.counts[with_stress])[:, None]
    return voigt / root, material.surrogate.virial[with_stress] / root


def _fitted_ratio(material: Material) -> float | None:
    """Labelled over fitted size, negative where both kinds of components disagree in sign."""
    own, fitted = _components(material)
    if len(own) < _LEAST_FRAMES:
        return None
    normal, shear = _concordance(own[:, :3], fitted[:, :3]), _concordance(own[:, 3:], fitted[:, 3:])
    spread = [float(np.median(np.abs(x[:, 3:]))) for x in (own, fitted)]
    if min(spread) < 1e-2 * max(float(np.median(np.abs(fitted[:, :3]))), 1e-9):
        spread = [float(np.median(np.abs(x[:, :3]))) for x in (own, fitted)]
        shear = normal
    if min(spread) == 0 or not np.isfinite(normal + shear):
        return None
    opposite = shear < _SIGN[0] and normal < _SIGN[1]
    return (-1.0 if opposite else 1.0) * spread[0] / spread[1]


def _concordance(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the product that has one sign."""
    product = a * b
    total = np.abs(product).sum()
    return float(np.abs(product[product > 0]).sum() / total) if total > 0 else np.nan


def _verdict(material: Material, slope: float, how: str) -> Finding:
    volume = float(np.median(material.volume[material.has_stress]))
    named = stress_units(1 / abs(slope), volume)
    if slope < 0:
        text = f"the stress has the wrong sign ({how}: {slope:.3g})" + (
            f"; and looks like {named}" if named else ""
        )
        return Finding("stress-sign", "error", text, remedy=_REMEDY)
    return Finding(
        "stress-unit",
        "error",
        f"the stress is {1 / slope:.3g} times what it should be ({how})"
        + (f": looks like {named}" if named else ""),
        remedy=_REMEDY,
    )


def _order(material: Material) -> Iterator[Finding]:
    """Shear components in another order than yz, xz, xy."""
    own, fitted = _components(material)
    if len(own) < _LEAST_FRAMES or not (own[:, 3:].std(axis=0) > 0).all():
        return
    table = [[_correlation(own[:, 3 + i], fitted[:, 3 + j]) for j in range(3)] for i in range(3)]
    score = {order: sum(table[i][order[i]] for i in range(3)) / 3 for order in permutations(range(3))}
    best = max(score, key=lambda order: score[order])
    if best != (0, 1, 2) and score[best] > _ORDER[0] and score[0, 1, 2] < _ORDER[1]:
        names = ", ".join(("yz", "xz", "xy")[k] for k in best)
        yield Finding(
            "stress-order",
            "warning",
            f"shear stresses follow the forces in the order {names} (correlation {score[best]:.2f}), "
            f"not in yz, xz, xy ({score[0, 1, 2]:.2f})",
            remedy="six components are xx, yy, zz, yz, xz, xy",
        )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0
