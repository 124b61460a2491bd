"""A linear many-body potential fitted to the forces: energies that go with them, within a few per cent.

Site energies are pair functions (those of :mod:`limbeck.dataset.lint.surrogate`) and products of two
moments of the neighbours' density, l = 0, 1, 2, as in the linear atomic cluster expansion (Drautz 2019,
doi:10.1103/PhysRevB.99.014104) up to three bodies. Linear in its coefficients, so the fit takes a second.

| symbol | variable | |
|---|---|---|
| A_ic^(l) | moments | sum over neighbours j of R_k(r_ij) times the l-th tensor of u_ij, c = (Z_j, k) |
| W | weights | E_i = sum over l, c, c' of W A_ic^(l) . A_ic'^(l) |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from limbeck.core.labels import LabelledSet
from limbeck.core.neighbours import find_pairs
from limbeck.core.structures import StructureBatch
from limbeck.dataset.lint import surrogate as pair

_CUTOFF_A = 4.4
_ATOMS = 1500  # of the structures that are fitted
_MOST_ATOMS = 40_000  # of those that are judged: ten seconds
_ROWS_PER_COLUMN = 6
_RADIAL = {1: 5, 2: 4, 3: 3, 4: 2}  # functions a neighbour element, by how many elements there are
_ROUNDS = 3
_RIDGE = 1e-6
_BLOCK_ATOMS = 3000
_TENSORS = (1, 3, 9)  # components
_Chosen = np.ndarray | slice


@dataclass(frozen=True)
class ManyBody:
    """What the fit says of some structures, S of N atoms.

    Attributes
    ----------
    index: (S,) int64, which structures they are, ascending: all of them where they are few enough.
    energy: (S,) eV, without any reference. forces: (N, 3) eV/Å.
    virial: (S, 6) eV, volume times stress in ASE's sign, Voigt order.
    fit: correlation of the fitted with the labelled forces. agreement: (S,) the same by structure.
    """

    index: np.ndarray
    energy: np.ndarray
    forces: np.ndarray
    virial: np.ndarray
    agreement: np.ndarray
    fit: float


@dataclass(frozen=True)
class _Sites:
    """Directed pairs of a batch: neighbour densities of each atom.

    first, second: (P,) atoms. group: (P,) element index of ``second``. unit: (P, 3).
    value, slope: (P, K). moments: l -> (N, C, components), c = group * K + k.
    """

    first: np.ndarray
    second: np.ndarray
    group: np.ndarray
    unit: np.ndarray
    distance: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    moments: tuple[np.ndarray, ...]


def fit_many_body(labelled: LabelledSet) -> ManyBody | None:
    """The fit, or None where the forces are too few, all zero, or of too many elements."""
    batch = labelled.structures
    elements = np.unique(batch.numbers)
    radial = _RADIAL.get(len(elements))
    if radial is None or not labelled.labels.forces.any():
        return None
    chosen = labelled.select(_spread(labelled, _ATOMS))
    part = chosen.structures
    width = len(elements) * (len(elements) + 1) // 2 * pair.KNOTS
    splines = pair.force_matrix(pair.pair_splines(part, elements), part.n_atoms, width)
    matrix = np.hstack([splines.toarray(), _force_columns(part, elements, radial)])
    if len(matrix) < _ROWS_PER_COLUMN * (matrix.any(axis=0)).sum():
        return None
    target = chosen.labels.forces.ravel()
    structure = np.repeat(part.structure_of_atom, 3)
    scale = np.sqrt((matrix**2).mean(axis=0))
    scale[scale < 1e-12] = np.inf
    matrix /= scale
    weight = pair.fit_weights(chosen)
    for _ in range(_ROUNDS):
        scaled = matrix * weight[:, None]
        normal = scaled.T @ scaled
        ridge = _RIDGE * np.trace(normal) + 1e-300
        solution = np.linalg.solve(normal + ridge * np.eye(len(normal)), scaled.T @ (target * weight))
        agreement = pair.correlation_by_structure(matrix @ solution, target, structure, len(chosen))
        weight = pair.fit_weights(chosen) * np.clip(np.nan_to_num(agreement), 0.05, 1.0)[structure]
    index = np.sort(_spread(labelled, _MOST_ATOMS))
    return _evaluate(labelled.select(index), index, elements, radial, solution / scale, width)


def _spread(labelled: LabelledSet, atoms: int) -> np.ndarray:
    """About so many atoms, spread over the energies, whatever the order of the frames."""
    order = np.argsort(labelled.labels.energy / labelled.structures.counts, kind="stable")
    return order[:: max(1, round(labelled.structures.n_atoms / atoms))]


def _sites(batch: StructureBatch, elements: np.ndarray, radial: int) -> _Sites:
    found = find_pairs(batch, _CUTOFF_A)
    start = np.repeat(batch.offsets[:-1], np.diff(found.offsets))
    first, second = found.first + start, found.second + start
    first, second = np.concatenate([first, second]), np.concatenate([second, first])
    distance = np.tile(found.distances, 2)
    unit = np.concatenate([found.vectors, -found.vectors]) / distance[:, None]
    power = 2.0 ** (1 + np.arange(radial))
    inside = 1.0 - distance[:, None] / _CUTOFF_A
    value = inside**power  # (P, K)
    slope = -power / _CUTOFF_A * inside ** (power - 1)
    group = np.searchsorted(elements, batch.numbers)[second]
    moments = []
    for components, tensor in zip(_TENSORS, _tensors(unit), strict=True):
        table = np.zeros((batch.n_atoms, len(elements) * radial, components))
        for k in range(radial):
            place = first * (len(elements) * radial) + group * radial + k
            for m in range(components):
                table[:, :, m] += np.bincount(
                    place, value[:, k] * tensor[:, m], minlength=table[:, :, m].size
                ).reshape(table.shape[:2])
        moments.append(table)
    return _Sites(first, second, group, unit, distance, value, slope, tuple(moments))


def _tensors(unit: np.ndarray) -> tuple[np.ndarray, ...]:
    """l = 0, 1, 2 of (P, 3) directions: (P, 1), (P, 3), (P, 9)."""
    square = unit[:, :, None] * unit[:, None, :] - np.eye(3) / 3
    return np.ones((len(unit), 1)), unit, square.reshape(-1, 9)


def _pull(sites: _Sites, level: int, adjoint: np.ndarray, k: int, used: _Chosen) -> np.ndarray:
    """(Q, 3): gradient with respect to the neighbour of R_k(r) T^(l)(u) . adjoint, (Q, components)."""
    unit, slope = sites.unit[used], sites.slope[used, k]
    along = sites.value[used, k] / sites.distance[used]
    if level == 0:
        return (slope * adjoint[:, 0])[:, None] * unit
    if level == 1:
        inner = (adjoint * unit).sum(axis=1)
        return ((slope - along) * inner)[:, None] * unit + along[:, None] * adjoint
    square = adjoint.reshape(-1, 3, 3)  # symmetric and without a trace, as the moments are
    turned = np.einsum("pij,pj->pi", square, unit)
    inner = (turned * unit).sum(axis=1)
    return ((slope - 2 * along) * inner)[:, None] * unit + (2 * along)[:, None] * turned


def _force_columns(batch: StructureBatch, elements: np.ndarray, radial: int) -> np.ndarray:
    """(3N, F): forces by each product of moments."""
    channels = len(elements) * radial
    c, d = np.triu_indices(channels)
    column = np.zeros((channels, channels), np.int64)
    column[c, d] = column[d, c] = np.arange(len(c))
    kind = np.searchsorted(elements, batch.numbers)
    matrix = np.zeros((len(elements), 3, len(c), 3, batch.n_atoms))
    sites = _sites(batch, elements, radial)
    for centre in range(len(elements)):
        for group in range(len(elements)):
            used = np.flatnonzero((kind[sites.first] == centre) & (sites.group == group))
            first, second = sites.first[used], sites.second[used]
            for level in range(3):
                for other in range(channels):
                    adjoint = sites.moments[level][first, other]
                    for k in range(radial):
                        mine = group * radial + k
                        pull = _pull(sites, level, adjoint, k, used)
                        if mine == other:
                            pull *= 2.0
                        into = matrix[centre, level, column[mine, other]]
                        for axis in range(3):
                            into[axis] += np.bincount(first, pull[:, axis], minlength=batch.n_atoms)
                            into[axis] -= np.bincount(second, pull[:, axis], minlength=batch.n_atoms)
    return matrix.transpose(4, 3, 0, 1, 2).reshape(3 * batch.n_atoms, -1)


def _evaluate(
    labelled: LabelledSet,
    index: np.ndarray,
    elements: np.ndarray,
    radial: int,
    solution: np.ndarray,
    width: int,
) -> ManyBody:
    batch = labelled.structures
    fitted = pair.evaluate_pairs(labelled, elements, solution[:width])
    energy, forces, virial = fitted.energy.copy(), fitted.forces.copy(), fitted.virial.copy()
    channels = len(elements) * radial
    c, d = np.triu_indices(channels)
    upper = solution[width:].reshape(len(elements), 3, len(c))
    weights = np.zeros((len(elements), 3, channels, channels))
    weights[:, :, c, d] += 0.5 * upper
    weights[:, :, d, c] += 0.5 * upper
    block = batch.offsets[:-1] // _BLOCK_ATOMS
    for one in np.unique(block):
        chosen = np.flatnonzero(block == one)
        part = batch.select(chosen)
        sites = _sites(part, elements, radial)
        kind = np.searchsorted(elements, part.numbers)
        bent = [np.einsum("ncd,ndm->ncm", weights[kind, level], a) for level, a in enumerate(sites.moments)]
        site = sum((x * a).sum(axis=(1, 2)) for x, a in zip(bent, sites.moments, strict=True))
        energy[chosen] += np.add.reduceat(site, part.offsets[:-1])
        own = np.zeros((part.n_atoms, 3))
        for k in range(radial):
            place = sites.group * radial + k
            pull = np.zeros((len(sites.first), 3))
            for level, x in enumerate(bent):
                pull += _pull(sites, level, 2 * x[sites.first, place], k, slice(None))
            for axis in range(3):
                own[:, axis] += np.bincount(sites.first, pull[:, axis], minlength=part.n_atoms)
                own[:, axis] -= np.bincount(sites.second, pull[:, axis], minlength=part.n_atoms)
            for v, (a, b) in enumerate(pair.VOIGT):
                moment = pull[:, a] * sites.unit[:, b] + pull[:, b] * sites.unit[:, a]
                moment *= 0.5 * sites.distance
                structure = part.structure_of_atom[sites.first]
                virial[chosen, v] += np.bincount(structure, moment, minlength=len(chosen))
        forces[batch.atom_index(chosen)] += own
    structure = np.repeat(batch.structure_of_atom, 3)
    mine, given = forces.ravel(), labelled.labels.forces.ravel()
    agreement = pair.correlation_by_structure(mine, given, structure, len(batch))
    size = float(np.sqrt((mine @ mine) * (given @ given)))
    return ManyBody(index, energy, forces, virial, agreement, float(mine @ given) / size if size > 0 else 0.0)
