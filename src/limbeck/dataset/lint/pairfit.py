"""A pair potential fitted to the forces alone, and the energies and stresses that belong to them.

Pair functions are cubic B-splines, so the fit is linear (force matching: Ercolessi and Adams 1994,
doi:10.1209/0295-5075/26/8/005). Where its forces follow the labelled ones, its energies and stresses vary as
the true ones do, also without any two close structures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from limbeck.core.checks import chunks
from limbeck.core.labels import LabelledSet
from limbeck.core.neighbours import find_pairs
from limbeck.core.structures import StructureBatch

_CUTOFF_A = 4.4  # two shells of neighbours in metals, one in argon
_KNOT_A = 0.4
_KNOTS = round(_CUTOFF_A / _KNOT_A)
_ATOMS = 4000  # to fit, for about 33 coefficients of two elements
_LEAST_COMPONENTS = 300
_RIDGE = 1e-5  # of the mean diagonal, for distances that do not occur
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True)
class PairFit:
    """The fit on S structures of N atoms.

    Attributes
    ----------
    energy: (S,) eV, without any reference. virial: (S, 6) eV, volume times stress in ASE's sign, Voigt order.
    agreement: (S,) correlation of the fitted with the labelled forces (NaN without forces).
    quality: median of that over structures with forces of at least half the usual size.
    """

    energy: np.ndarray
    virial: np.ndarray
    agreement: np.ndarray
    quality: float


class _Pairs(NamedTuple):
    """P pairs of a batch and the four splines that are not zero at their distance."""

    ends: tuple[np.ndarray, np.ndarray]  # (P,) atoms
    structure: np.ndarray  # (P,)
    vector: np.ndarray  # (P, 3) Å
    unit: np.ndarray  # (P, 3)
    column: np.ndarray  # (P, 4)
    value: np.ndarray  # (P, 4)
    slope: np.ndarray  # (P, 4)


def fit_pairs(labelled: LabelledSet) -> PairFit | None:
    """The fit, or None where the forces are too few or all zero."""
    batch, forces = labelled.structures, labelled.labels.forces
    if 3 * batch.n_atoms < _LEAST_COMPONENTS or not forces.any():
        return None
    elements = np.unique(batch.numbers)
    # evenly over the energies, independent of the order of the frames
    order = np.argsort(labelled.labels.energy / batch.counts, kind="stable")
    chosen = labelled.select(order[:: max(1, round(batch.n_atoms / _ATOMS))])
    given = chosen.labels.forces
    size = np.linalg.norm(given, axis=1)
    weight = np.repeat(1.0 / np.maximum(size, np.sqrt(np.mean(size**2))), 3)  # large forces count less
    matrix = sp.diags(weight) @ _force_matrix(_splines(chosen.structures, elements), len(given), elements)
    normal = (matrix.T @ matrix).toarray()
    ridge = _RIDGE * np.trace(normal) / max(int((normal.diagonal() > 0).sum()), 1) + 1e-12
    solution = np.linalg.solve(normal + ridge * np.eye(len(normal)), matrix.T @ (given.ravel() * weight))

    energy, virial = np.zeros(len(batch)), np.zeros((len(batch), 6))
    fitted = np.zeros((batch.n_atoms, 3))
    for index, part in chunks(batch):
        pairs = _splines(part, elements)
        value = (pairs.value * solution[pairs.column]).sum(axis=1)
        pull = (pairs.slope * solution[pairs.column]).sum(axis=1)[:, None] * pairs.unit
        energy[index] = np.bincount(pairs.structure, value, minlength=len(index))
        for k, (a, b) in enumerate(VOIGT):
            moment = pull[:, a] * pairs.vector[:, b]
            virial[index, k] = np.bincount(pairs.structure, moment, minlength=len(index))
        atoms = batch.atom_index(index)
        np.add.at(fitted, atoms[pairs.ends[0]], pull)
        np.add.at(fitted, atoms[pairs.ends[1]], -pull)

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values.sum(axis=1), batch.offsets[:-1])

    norm = np.sqrt(total(fitted**2) * total(forces**2))
    agreement = np.divide(total(fitted * forces), norm, out=np.full(len(batch), np.nan), where=norm > 1e-12)
    rms = np.sqrt(total(forces**2) / batch.counts)
    large = np.isfinite(agreement) & (rms > 0.5 * np.median(rms[rms > 0]))
    return PairFit(energy, virial, agreement, float(np.median(agreement[large])) if large.any() else 0.0)


def _splines(batch: StructureBatch, elements: np.ndarray) -> _Pairs:
    found = find_pairs(batch, _CUTOFF_A)
    number = np.diff(found.offsets)
    start = np.repeat(batch.offsets[:-1], number)
    first, second = found.first + start, found.second + start
    kind = np.searchsorted(elements, batch.numbers)
    low, high = np.sort([kind[first], kind[second]], axis=0)
    place = found.distances / _KNOT_A
    knot = np.floor(place).astype(np.int64)
    t = place - knot
    value = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    slope = np.stack([-((1 - t) ** 2), 3 * t**2 - 4 * t, -3 * t**2 + 2 * t + 1, t**2], 1) / (2 * _KNOT_A)
    within = knot[:, None] + np.arange(
        4
    )  # splines beyond the last knot are left out, so that the potential is zero at the cutoff
    column = (high * (high + 1) // 2 + low)[:, None] * _KNOTS + np.minimum(within, _KNOTS - 1)
    inside = within < _KNOTS
    return _Pairs(
        (first, second), np.repeat(np.arange(len(batch)), number), found.vectors,
        found.vectors / found.distances[:, None], column, value * inside, slope * inside,
    )  # fmt: skip


def _force_matrix(pairs: _Pairs, n_atoms: int, elements: np.ndarray) -> sp.csr_matrix:
    """(3N, K): forces by each spline."""
    axes = np.arange(3)[:, None]
    rows, values = [], []
    for atom, sign in zip(pairs.ends, (1.0, -1.0), strict=True):
        rows.append(np.broadcast_to((3 * atom[:, None] + axes.T)[:, :, None], (len(atom), 3, 4)))
        values.append(sign * pairs.unit[:, :, None] * pairs.slope[:, None, :])
    columns = np.broadcast_to(pairs.column[:, None, :], (2, len(pairs.unit), 3, 4))
    width = len(elements) * (len(elements) + 1) // 2 * _KNOTS
    entries = (np.concatenate(values).ravel(), (np.concatenate(rows).ravel(), columns.ravel()))
    return sp.csr_matrix(entries, shape=(3 * n_atoms, width))
