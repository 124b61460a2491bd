"""Sign, unit and order of stress, against energies of strained cells and against the forces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
_FITTED = 0.6  # correlation of the forces with those of the pair potential; below it tells nothing
_FOLLOWS, _AGAINST = 0.5, 0.2  # cosines: one kind of components must follow, the other not contradict
_NOTHING = 1e-12
_EQUAL_A = 0.01  # cells equal up to this have one mean stress, which pair potentials get wrong
_EXACT, _COARSE = 1.5, 3.0  # tolerance in naming units
_ORDER = 0.85, 0.4  # correlation in the best order, and at most in the one given
_REMEDY = "stress in eV/Å³, positive in tension (ASE's sign); --virial-key for virials"


def check_stress(material: Material) -> Iterator[Finding]:
    """Everything about stress; nothing where there is none."""
    if not material.has_stress.any():
        return
    stress = material.labelled.labels.stress
    assert stress is not None
    if not stress[material.has_stress].any():
        yield Finding("stress-unit", "error", "all stresses are zero", remedy="leave the stress out")
        return
    slope = _strain_slope(material)
    if slope is not None:
        if not _FINE[0] <= slope <= _FINE[1]:
            yield _verdict(material, slope, "energy over stress work between strained cells", _EXACT)
        else:
            yield from _order(material)
        return
    fitted, misplaced = _fitted_ratio(material), None
    if fitted is None and (misplaced := _misplaced(material)) is not None:
        fitted = _fitted_ratio(material, misplaced[0])
    if misplaced is not None:
        yield _order_finding(*misplaced)
        if fitted is not None and (fitted < 0 or not 1 / _RATIO < fitted < _RATIO):
            yield _verdict(material, 1 / fitted, "in that order, against a pair potential", _COARSE)
    elif fitted is None:
        yield Finding(
            "stress-unchecked",
            "note",
            "sign and unit of the stress could not be checked: no near structures in strained cells, and no "
            "pair potential follows it",
            remedy="stress is in eV/Å³ and positive in tension (ASE's sign)",
        )
    elif fitted < 0 or not 1 / _RATIO < fitted < _RATIO:
        yield _verdict(material, 1 / fitted, "against a pair potential fitted to the forces", _COARSE)
    else:
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


def _fitted_ratio(material: Material, order: Sequence[int] = (0, 1, 2)) -> float | None:
    """Labelled over fitted size, negative where the sign is opposite; None where it cannot be told.

    A pair potential has the mean stress of a cell wrong (it knows no energy that depends on volume
    alone), and how stress varies at a fixed cell right: shears, which are zero on average, and normal
    components from the mean of their cell. ``order``: of the labelled shears, as :func:`_misplaced` has it.
    """
    own, fitted = _components(material)
    fitted = fitted[:, [0, 1, 2, *(3 + k for k in order)]]
    if len(own) < _LEAST_FRAMES or material.surrogate is None or material.surrogate.fit < _FITTED:
        return None
    shear = own[:, 3:], fitted[:, 3:]
    normal = _from_mean(material, own[:, :3], fitted[:, :3])
    s, n = _cosine(*shear), _cosine(*normal) if len(normal[0]) >= _LEAST_FRAMES else 0.0
    if max(s, n) > _FOLLOWS and min(s, n) > -_AGAINST:
        sign = 1.0
    elif min(s, n) < -_FOLLOWS and max(s, n) < _AGAINST:
        sign = -1.0
    else:
        return None
    sizes = [_size(*pair) for pair, cosine in ((shear, s), (normal, n)) if cosine]
    return sign * float(np.exp(np.mean(np.log(sizes))))


def _from_mean(material: Material, own: np.ndarray, fitted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences from the means over structures of the same atoms and cell; those alone are left out."""
    index = np.flatnonzero(material.has_stress)
    cells = np.round(material.batch.cell[index].reshape(len(index), 9) / _EQUAL_A)
    key = np.column_stack([material.counts[index], cells])
    group, size = np.unique(key, axis=0, return_inverse=True, return_counts=True)[1:]
    group = group.reshape(-1)

    def centred(values: np.ndarray) -> np.ndarray:
        mean = np.stack([np.bincount(group, column) for column in values.T], axis=1) / size[:, None]
        return (values - mean[group])[size[group] > 1]

    return centred(own), centred(fitted)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size > _NOTHING else 0.0


def _size(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt((a * a).sum() / (b * b).sum()))


def _verdict(material: Material, slope: float, how: str, tolerance: float) -> Finding:
    volume = float(np.median(material.volume[material.has_stress]))
    named = stress_units(1 / abs(slope), volume, tolerance)
    factor = (
        f"{abs(1 / slope):.3g} times too large" if abs(slope) < 1 else f"{abs(slope):.3g} times too small"
    )
    if slope < 0:
        text = "the stress has the wrong sign"
        if not 1 / _RATIO < -slope < _RATIO or (tolerance == _EXACT and not _FINE[0] < -slope < _FINE[1]):
            text += f" and looks like {named}" if named else f" and is {factor}"
        return Finding("stress-sign", "error", f"{text} ({how})", remedy=_REMEDY)
    text = f"the stress looks like {named}: it is {factor}" if named else f"the stress is {factor}"
    about = "about " if tolerance == _COARSE else ""
    return Finding(
        "stress-unit",
        "error",
        text.replace("it is ", f"it is {about}") + f" ({how})",
        remedy=_REMEDY,
    )


def _order(material: Material) -> Iterator[Finding]:
    """Shear components in another order than yz, xz, xy."""
    if (misplaced := _misplaced(material)) is not None:
        yield _order_finding(*misplaced)


def _misplaced(material: Material) -> tuple[tuple[int, ...], float, float] | None:
    """The order in which shears follow the forces, where it is not that of the labels, else None.

    Returns
    -------
    Which fitted shear (yz, xz, xy) each labelled one follows, and the correlation so and as labelled;
    both negative where the sign is wrong as well.
    """
    own, fitted = _components(material)
    if len(own) < _LEAST_FRAMES or not (own[:, 3:].std(axis=0) > 0).all():
        return None
    table = [[_correlation(own[:, 3 + i], fitted[:, 3 + j]) for j in range(3)] for i in range(3)]
    score = {order: sum(table[i][order[i]] for i in range(3)) / 3 for order in permutations(range(3))}
    best = max(score, key=lambda order: abs(score[order]))
    given = score[0, 1, 2]
    found = best != (0, 1, 2) and abs(score[best]) > _ORDER[0] and abs(given) < _ORDER[1]
    return (best, score[best], given) if found else None


def _order_finding(order: Sequence[int], best: float, given: float) -> Finding:
    names = ", ".join(("yz", "xz", "xy")[k] for k in order)
    vasp = ", and VASP writes xx, yy, zz, xy, yz, zx" if tuple(order) == (2, 0, 1) else ""
    return Finding(
        "stress-order",
        "warning",
        f"shear stresses follow the forces in the order {names} (correlation {best:.2f}), "
        f"not in yz, xz, xy ({given:.2f})",
        remedy=f"six components are xx, yy, zz, yz, xz, xy{vasp}",
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0
