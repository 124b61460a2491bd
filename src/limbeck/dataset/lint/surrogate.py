"""A pair potential fitted to the forces alone: what energy and stress should go with them.

Pair functions are cubic B-splines, so the fit is linear (force matching: Ercolessi and Adams 1994,
doi:10.1209/0295-5075/26/8/005). It is no good potential, but its energies follow the true ones far
enough to tell a wrong sign, unit or frame, also where no two structures are near one another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from limbeck.core.labels import LabelledSet
from limbeck.core.neighbours import find_pairs
from limbeck.core.structures import StructureBatch

_CUTOFF_A = 4.4
_KNOT_A = 0.4
KNOTS = round(_CUTOFF_A / _KNOT_A)
_ATOMS = 4000  # of the structures that are fitted
_LEAST_COMPONENTS = 300
_ROUNDS = 3
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
_BLOCK_ATOMS = 20_000


@dataclass(frozen=True)
class Surrogate:
    """What the fit says of S structures of N atoms.

    Attributes
    ----------
    energy: (S,) eV, without any reference. forces: (N, 3) eV/Å.
    virial: (S, 6) eV, volume times stress in ASE's sign, Voigt order.
    agreement: (S,) correlation of the fitted with the labelled forces (NaN without forces).
    fit: that of all together. stiffness: (N,) eV/Å², a third of the trace of each atom's own block of the
        Hessian.
    counts: (S, K) splines summed over pairs: equal for structures that are equal up to translation,
        rotation and the order of atoms.
    """

    energy: np.ndarray
    forces: np.ndarray
    virial: np.ndarray
    agreement: np.ndarray
    fit: float
    stiffness: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a batch with their splines: columns (P, 4), values, slopes and curvatures (P, 4)."""

    first: np.ndarray
    second: np.ndarray
    structure: np.ndarray
    unit: np.ndarray
    distance: np.ndarray
    column: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray


def fit_surrogate(labelled: LabelledSet) -> Surrogate | None:
    """The fit, or None where the forces are too few or all zero."""
    if 3 * labelled.structures.n_atoms < _LEAST_COMPONENTS or not labelled.labels.forces.any():
        return None
    elements = np.unique(labelled.structures.numbers)
    width = len(elements) * (len(elements) + 1) // 2 * KNOTS
    chosen = labelled.select(_spread(labelled))
    weight = fit_weights(chosen)
    matrix = force_matrix(pair_splines(chosen.structures, elements), chosen.structures.n_atoms, width)
    target = chosen.labels.forces.ravel()
    structure = np.repeat(chosen.structures.structure_of_atom, 3)
    for _ in range(_ROUNDS):
        coefficients = _solve(matrix, target, weight)
        agreement = correlation_by_structure(matrix @ coefficients, target, structure, len(chosen))
        # frames that go against the others must not bend the fit
        weight = fit_weights(chosen) * np.clip(np.nan_to_num(agreement), 0.05, 1.0)[structure]
    return evaluate_pairs(labelled, elements, coefficients)


def axis_table(labelled: LabelledSet) -> np.ndarray:
    """(3, 3) correlations of labelled components (rows) with those that a pair potential predicts.

    It is fitted to one component alone, that which predicts the three best. Zeros without enough forces.
    """
    best = np.zeros((3, 3))
    if 3 * labelled.structures.n_atoms < _LEAST_COMPONENTS or not labelled.labels.forces.any():
        return best
    elements = np.unique(labelled.structures.numbers)
    width = len(elements) * (len(elements) + 1) // 2 * KNOTS
    chosen = labelled.select(_spread(labelled))
    matrix = force_matrix(pair_splines(chosen.structures, elements), chosen.structures.n_atoms, width)
    target, weight = chosen.labels.forces, fit_weights(chosen)
    for axis in range(3):
        coefficients = _solve(matrix[axis::3], target[:, axis], weight[axis::3])
        fitted = (matrix @ coefficients).reshape(-1, 3)
        if (target.std(axis=0) > 0).all() and (fitted.std(axis=0) > 0).all():
            table = np.corrcoef(target.T, fitted.T)[:3, 3:]
            best = max(best, table, key=lambda t: float(np.abs(t).max(axis=1).sum()))
    # the component that was fitted may be the one of the wrong sign: most are right
    return -best if (best[np.arange(3), np.abs(best).argmax(axis=1)] < 0).sum() > 1 else best


def _spread(labelled: LabelledSet) -> np.ndarray:
    """About so many atoms, spread over the energies, whatever the order of the frames."""
    batch = labelled.structures
    order = np.argsort(labelled.labels.energy / batch.counts, kind="stable")
    return order[:: max(1, round(batch.n_atoms / _ATOMS))]


def fit_weights(labelled: LabelledSet) -> np.ndarray:
    """(3N,): large forces count less."""
    size = np.linalg.norm(labelled.labels.forces, axis=1)
    return np.repeat(1.0 / np.maximum(size, np.sqrt(np.mean(size**2))), 3)


def pair_splines(batch: StructureBatch, elements: np.ndarray) -> _Pairs:
    found = find_pairs(batch, _CUTOFF_A)
    number = np.diff(found.offsets)
    structure = np.repeat(np.arange(len(batch)), number)
    start = np.repeat(batch.offsets[:-1], number)
    first, second = found.first + start, found.second + start
    kind = np.searchsorted(elements, batch.numbers)
    low, high = np.minimum(kind[first], kind[second]), np.maximum(kind[first], kind[second])
    distance = found.distances
    place = distance / _KNOT_A
    knot = np.floor(place).astype(np.int64)
    t = place - knot
    value = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    slope = np.stack([-((1 - t) ** 2), 3 * t**2 - 4 * t, -3 * t**2 + 2 * t + 1, t**2], 1) / (2 * _KNOT_A)
    curvature = np.stack([1 - t, 3 * t - 2, 1 - 3 * t, t], 1) / _KNOT_A**2
    within = knot[:, None] + np.arange(4)  # splines beyond the last knot are left out: zero at the cutoff
    inside = within < KNOTS
    pair = high * (high + 1) // 2 + low
    return _Pairs(
        first, second, structure, found.vectors / distance[:, None], distance,
        pair[:, None] * KNOTS + np.minimum(within, KNOTS - 1), value * inside, slope * inside,
        curvature * inside,
    )  # fmt: skip


def force_matrix(pairs: _Pairs, n_atoms: int, width: int) -> sp.csr_matrix:
    """(3N, K): forces by each spline."""
    rows, columns, values = [], [], []
    for axis in range(3):
        part = (pairs.slope * pairs.unit[:, axis : axis + 1]).ravel()
        for atom, sign in ((pairs.first, 1.0), (pairs.second, -1.0)):
            rows.append(np.repeat(3 * atom + axis, 4))
            columns.append(pairs.column.ravel())
            values.append(sign * part)
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sp.csr_matrix(entries, shape=(3 * n_atoms, width))


def _solve(matrix: sp.csr_matrix, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    scaled = sp.diags(weight) @ matrix
    normal = (scaled.T @ scaled).toarray()
    ridge = 1e-5 * np.trace(normal) / max(int((normal.diagonal() > 0).sum()), 1)
    return np.linalg.solve(normal + (ridge + 1e-12) * np.eye(len(normal)), scaled.T @ (target * weight))


def correlation_by_structure(a: np.ndarray, b: np.ndarray, structure: np.ndarray, count: int) -> np.ndarray:
    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(structure, values, minlength=count)

    size = np.sqrt(total(a * a) * total(b * b))
    return np.divide(total(a * b), size, out=np.full(count, np.nan), where=size > 1e-12)


def evaluate_pairs(labelled: LabelledSet, elements: np.ndarray, coefficients: np.ndarray) -> Surrogate:
    batch, width = labelled.structures, len(coefficients)
    energy, virial = np.zeros(len(batch)), np.zeros((len(batch), 6))
    forces, counts = np.zeros((batch.n_atoms, 3)), np.zeros((len(batch), width))
    stiffness = np.zeros(batch.n_atoms)
    block = batch.offsets[:-1] // _BLOCK_ATOMS
    for b in np.unique(block):
        index = np.flatnonzero(block == b)
        part = batch.select(index)
        pairs = pair_splines(part, elements)
        slope = (pairs.slope * coefficients[pairs.column]).sum(axis=1)
        local = (pairs.structure[:, None] * width + pairs.column).ravel()
        table = np.bincount(local, pairs.value.ravel(), minlength=len(index) * width)
        counts[index] = table.reshape(len(index), width)
        own = np.zeros((part.n_atoms, 3))
        for axis in range(3):
            pull = slope * pairs.unit[:, axis]
            own[:, axis] = np.bincount(pairs.first, pull, minlength=part.n_atoms)
            own[:, axis] -= np.bincount(pairs.second, pull, minlength=part.n_atoms)
        atoms = batch.atom_index(index)
        forces[atoms] = own
        bent = (pairs.curvature * coefficients[pairs.column]).sum(axis=1) + 2 * slope / pairs.distance
        for end in (pairs.first, pairs.second):
            stiffness[atoms] += np.bincount(end, bent, minlength=part.n_atoms) / 3
        for k, (a, c) in enumerate(VOIGT):
            moment = slope * pairs.distance * pairs.unit[:, a] * pairs.unit[:, c]
            virial[index, k] = np.bincount(pairs.structure, moment, minlength=len(index))
    energy = counts @ coefficients
    structure = np.repeat(batch.structure_of_atom, 3)
    agreement = correlation_by_structure(
        forces.ravel(), labelled.labels.forces.ravel(), structure, len(batch)
    )
    mine, given = forces.ravel(), labelled.labels.forces.ravel()
    fit = (
        float(mine @ given / np.sqrt((mine @ mine) * (given @ given))) if mine.any() and given.any() else 0.0
    )
    return Surrogate(energy, forces, virial, agreement, fit, stiffness, counts)
