"""Energies far from those of comparable structures, without forces to match."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from limbeck.dataset.lint.consistency import same_cells
from limbeck.dataset.lint.finding import Finding
from limbeck.dataset.lint.material import Material, median_deviation

_LEAST_EV_PER_ATOM = 0.01
_DEVIATIONS = 10.0
_LEAST_GROUP = 12
_MANY = 0.05
#: times the energy that forces account for: of the structure itself (of one hotter than the rest: molten
#: silicon among crystals has 3), and usual ones (clean sets have 3 and less in equal cells)
_OWN, _OWN_HOT, _HOT = 3.0, 6.0, 1.5
_USUAL, _USUAL_AND_FAR = 5.0, 2.0
_FAR_DEVIATIONS = 20.0
#: least excess, eV/atom and deviations, among equal cells, equal compositions, and all structures; strain
#: stores energy without forces, up to 10 deviations in clean sets
_FLOORS = ((0.01, 10.0), (0.3, 20.0), (0.5, 20.0))
_WHOLE = 2.0  # no atom is farther from its neighbour, in sums of covalent radii
_ROUNDS = 5
#: of a fit of energies to pair distances: structures a coefficient, rounds, least residual in eV/atom and in
#: deviations (clean sets reach 0.24 eV/atom at 16, and 13 at less)
_PER_COEFFICIENT, _FIT_ROUNDS, _OFF_EV_PER_ATOM, _OFF_DEVIATIONS = 3, 8, 0.3, 30.0


def check_energy_outliers(material: Material) -> Iterator[Finding]:
    """Energies far from those of the same atoms and volume; beyond anything physical, an error."""
    far, wild = _far(material), _wild(material) | _off_fit(material)
    found = far | wild
    if not found.any():
        return
    many = found.sum() >= _MANY * len(material.labelled)
    text = f"the energies of {int(found.sum())} structures are far from those of comparable ones"
    if wild.any():
        text += f"; of {int(wild.sum())}, many times farther than forces or distances explain"
    yield Finding(
        "energy-outliers",
        "error" if wild.any() or many else "warning",
        text,
        material.frames(found),
        "compute these energies again, or remove the structures",
    )


def _far(material: Material) -> np.ndarray:
    """(S,) mask: many deviations off the median of the same atoms and volume, at usual forces."""
    surrogate = material.surrogate
    far = np.zeros(len(material.labelled), bool)
    usual = np.median(material.force_rms)
    for members in same_cells(material):
        if len(members) < _LEAST_GROUP:
            continue
        size = material.batch.counts[members]
        energy = material.energy[members] / size
        outside = _outside(energy)
        if surrogate is not None:
            fitted = surrogate.energy[members] / size
            spread = median_deviation(fitted)[1]
            ratio = median_deviation(energy)[1] / spread if spread > 0 else 0.0
            outside &= _outside(energy - ratio * fitted)
        low = energy < np.median(energy)
        calm = material.force_rms[members] < 1.5 * max(
            float(np.median(material.force_rms[members])), 0.5 * usual
        )
        far[members] = outside & (low | calm)
    return far


def _wild(material: Material) -> np.ndarray:
    """(S,) mask of energies that forces exclude.

    Atoms bound with a curvature k store 3 F² / 2k each, with F the root mean square of the components
    of the forces. Thermal motion puts structures apart by about as much, melting or another isomer by a few
    times as much.
    """
    wild = np.zeros(len(material.labelled), bool)
    if material.stiffness is None or material.surrogate is None:
        return wild
    curvature = float(np.median(material.surrogate.stiffness))
    if curvature <= 0:
        return wild
    stored = 1.5 * material.force_rms**2 / curvature
    per_atom = material.energy / material.batch.counts
    everything = np.arange(len(wild))
    compositions = [np.flatnonzero(material.composition == c) for c in np.unique(material.composition)]
    levels = (
        (same_cells(material), per_atom),
        (compositions, per_atom),
        ([everything], _beside_elements(material)),
    )
    for (floor, deviations), (groups, energy) in zip(_FLOORS, levels, strict=True):
        for members in groups:
            if len(members) < _LEAST_GROUP:
                continue
            middle, spread = median_deviation(energy[members])
            excess = np.abs(energy[members] - middle)
            usual = float(np.median(stored[members]))
            beyond = (excess > _USUAL * usual) | (
                (deviations < _FAR_DEVIATIONS)
                & (excess > _FAR_DEVIATIONS * spread)
                & (excess > _USUAL_AND_FAR * usual)
            )
            least = max(deviations * spread, floor)
            own = np.where(stored[members] > _HOT * usual, _OWN_HOT, _OWN) * stored[members]
            here = beyond & (excess > least) & (excess > own)
            if here.sum() <= max(1, _MANY * len(members)):  # else the median is not what is usual
                wild[members] |= here
    return wild & _whole(material)


def _whole(material: Material) -> np.ndarray:
    """(S,) mask of structures without a loose atom."""
    return np.maximum.reduceat(material.bonds.ratio, material.batch.offsets[:-1]) < _WHOLE


def _off_fit(material: Material) -> np.ndarray:
    """(S,) mask of energies far off a fit to elements and pair distances.

    Where crystals, surfaces and melts lie beside one another, energies spread wider than a wrong one
    is off, but distances tell what most of them are. The fit is linear and bounds the weight of what is far
    off (Huber's weights, squared); where distances are unlike the rest it is less sure by its leverage.
    """
    none = np.zeros(len(material.labelled), bool)
    if material.surrogate is None:
        return none
    size = material.batch.counts[:, None]
    features = np.column_stack([material.counts / size, material.surrogate.counts / size])
    features = features[:, features.any(axis=0)]
    if len(features) < _PER_COEFFICIENT * features.shape[1]:
        return none
    features /= np.abs(features).max(axis=0)
    energy = material.energy / material.batch.counts
    energy = energy - np.median(energy)
    weight, rest = np.ones(len(energy)), energy
    for _ in range(_FIT_ROUNDS):
        gram = features.T @ (features * weight[:, None])
        gram += 1e-6 * np.trace(gram) / len(gram) * np.eye(len(gram))
        solution = np.linalg.solve(gram, features.T @ (weight * energy))
        rest = np.abs(energy - features @ solution)
        spread = 1.4826 * float(np.median(rest)) + 1e-6
        weight = 1.0 / np.maximum(rest / spread, 1.0) ** 2
    leverage = np.einsum("sk,ks->s", features, np.linalg.solve(gram, features.T))
    off = (rest > _OFF_EV_PER_ATOM) & (rest > _OFF_DEVIATIONS * spread * np.sqrt(1.0 + leverage))
    return off & _whole(material) if off.sum() <= max(1, _MANY * len(off)) else none


def _beside_elements(material: Material) -> np.ndarray:
    """(S,) eV/atom: what a sum over elements leaves, fitted to the smallest absolute deviations."""
    size = material.batch.counts
    fractions, energy = material.counts / size[:, None], material.energy / size
    weight = np.ones(len(energy))
    rest = energy
    for _ in range(_ROUNDS):
        root = np.sqrt(weight)
        solution = np.linalg.lstsq(fractions * root[:, None], energy * root, rcond=None)[0]
        rest = energy - fractions @ solution
        weight = 1.0 / np.maximum(np.abs(rest), 1e-3)
    return rest


def _outside(values: np.ndarray) -> np.ndarray:
    middle, spread = median_deviation(values)
    return np.abs(values - middle) > np.maximum(_DEVIATIONS * spread, _LEAST_EV_PER_ATOM)
