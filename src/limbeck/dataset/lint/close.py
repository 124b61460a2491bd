"""Structures close to one another in configuration space, and the work done between them.

From structure 1 to 2 the energy changes by minus the work of the forces, and where the cell deforms by the
work of the stress. The trapezoidal rule,

    E2 - E1 = -(F1 + F2) . dx / 2 + (V1 s1 + V2 s2) : e / 2,

is exact for a harmonic energy, so frames need only be close, not consecutive.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from limbeck.core.labels import LabelledSet, concatenate_labelled
from limbeck.dataset.split import found_in

RATTLED_A = 0.01
SAME_STRAIN = 1e-6
_NEIGHBOURS = 4
_PROJECTED = 10  # dimensions of the search; a random projection changes distances by up to a third
_STRAIN = 0.3
_BLOCK = 2048  # pairs measured at once
_SHAPE_ATOMS = 16  # atoms whose distances describe the shape of a molecule


@dataclass(frozen=True)
class ClosePairs:
    """P pairs of structures with equal atoms in equal order, first < second.

    Attributes
    ----------
    distance: (P,) Å, root mean square displacement after translation, and rotation of a molecule.
    strain: (P,) largest component of the strain between the cells.
    de: (P,) eV, E2 - E1. work: (P,) eV, minus the work of the forces.
    stress_work: (P,) eV, NaN without stress.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray
    strain: np.ndarray
    de: np.ndarray
    work: np.ndarray
    stress_work: np.ndarray

    @property
    def leaks(self) -> np.ndarray:
        """(P,) bool: so close that training on one makes the error on the other meaningless."""
        return (self.distance < RATTLED_A) & (self.strain < SAME_STRAIN)


def find_close(labelled: LabelledSet) -> ClosePairs:
    """The few nearest structures of each."""
    batch = labelled.structures
    groups: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
    for s in range(len(batch)):
        numbers = batch.numbers[batch.offsets[s] : batch.offsets[s + 1]]
        groups[numbers.tobytes(), batch.pbc[s].tobytes()].append(s)
    none = np.zeros(0, np.int64)
    rows: list[tuple[np.ndarray, ...]] = [(none,) * 7]
    for group in groups.values():
        pairs = _candidates(labelled, np.array(group)) if len(group) > 1 else none
        rows += [_measure(labelled, pairs[k : k + _BLOCK]) for k in range(0, len(pairs), _BLOCK)]
    return ClosePairs(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def find_copies(labelled: LabelledSet, test: LabelledSet) -> np.ndarray:
    """(S,) bool: structures of ``labelled`` that are in ``test``, or within 0.01 Å of one."""
    copies = found_in(labelled, test)
    while len(test) and not copies.all():
        rest = np.flatnonzero(~copies)
        near = find_close(concatenate_labelled([labelled.select(rest), test]))
        across = (near.first < len(rest)) & (near.second >= len(rest)) & near.leaks
        if not across.any():
            break
        # of many copies only the few nearest are found at once
        copies[rest[near.first[across]]] = True
    return copies


def _candidates(labelled: LabelledSet, group: np.ndarray) -> np.ndarray:
    """Each structure of the group with its nearest by a descriptor, (P, 2) ascending."""
    batch = labelled.structures
    atoms = batch.atom_index(group).reshape(len(group), -1)
    x = batch.positions[atoms]  # (G, n, 3)
    if batch.pbc[group[0]].all():
        cell = batch.cell[group]
        fraction = np.einsum("gni,gij->gnj", x, np.linalg.inv(cell))
        length = np.linalg.norm(cell, axis=2)[:, None, :] / (2 * np.pi)
        # differences between atoms as phases, invariant under translation and lattice vectors
        phase = np.exp(2j * np.pi * (fraction - np.roll(fraction, 1, axis=1)))
        turned = (phase * length).reshape(len(group), -1)
        metric = np.sqrt(np.abs(cell @ cell.transpose(0, 2, 1))).reshape(len(group), 9)
        features = np.hstack([turned.real, turned.imag, metric])
    else:
        some = np.unique(np.linspace(0, x.shape[1] - 1, _SHAPE_ATOMS).astype(int))
        i, j = np.triu_indices(len(some), 1)
        features = np.linalg.norm(x[:, some[i]] - x[:, some[j]], axis=2)
    if (width := features.shape[1]) > _PROJECTED:
        features = features @ np.random.default_rng(0).normal(size=(width, _PROJECTED))
    k = min(_NEIGHBOURS + 1, len(group))
    near = cKDTree(features).query(features, k=k)[1]
    pairs = np.stack([np.repeat(np.arange(len(group)), k), near.ravel()], axis=1)
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    return group[pairs]


def _measure(labelled: LabelledSet, pairs: np.ndarray) -> tuple[np.ndarray, ...]:
    batch, labels = labelled.structures, labelled.labels
    one, two = pairs.T
    atoms = [batch.atom_index(side).reshape(len(pairs), -1) for side in (one, two)]
    (f1, f2), (x1, x2) = labels.forces[atoms], batch.positions[atoms]  # (P, n, 3)
    strain, stress_work = np.zeros(len(pairs)), np.full(len(pairs), np.nan)
    if batch.pbc[one[0]].all():
        dx, deformation = _periodic_path(x1, x2, batch.cell[one], batch.cell[two])
        strain = np.abs(deformation).max(axis=(1, 2))
        if labels.stress is not None:
            virial = batch.volume[:, None, None] * labels.stress
            stress_work = 0.5 * np.einsum("pij,pij->p", virial[one] + virial[two], deformation)
    elif batch.pbc[one[0]].any():
        dx = _slab_path(x1, x2, batch.cell[one], batch.pbc[one[0]])
        strain = np.abs(batch.cell[two] - batch.cell[one]).max(axis=(1, 2))
    else:
        dx, f2 = _turned_path(x1, x2, f2)
    de = labels.energy[two] - labels.energy[one]
    work = -0.5 * np.einsum("pni,pni->p", f1 + f2, dx)
    distance = np.sqrt((dx**2).sum(axis=2).mean(axis=1))
    keep = strain < _STRAIN
    return tuple(a[keep] for a in (one, two, distance, strain, de, work, stress_work))


def _periodic_path(
    x1: np.ndarray, x2: np.ndarray, cell1: np.ndarray, cell2: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Displacements at the mean cell (P, n, 3) and the deformation of rows, h2 - h1 = h e, (P, 3, 3)."""
    ds = x2 @ np.linalg.inv(cell2) - x1 @ np.linalg.inv(cell1)
    for _ in range(3):  # the median is valid once most atoms are on one side of the boundary
        ds -= np.round(ds)
        ds -= np.median(ds, axis=1, keepdims=True)
    ds -= np.round(ds)
    middle = 0.5 * (cell1 + cell2)
    singular = np.abs(np.linalg.det(middle)) < 1e-6
    middle[singular] = cell1[singular]
    return ds @ middle, np.linalg.inv(middle) @ (cell2 - cell1)


def _slab_path(x1: np.ndarray, x2: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Minimum images along the periodic directions."""
    rows = cell[:, pbc]  # (P, k, 3)
    dx = x2 - x1
    dx -= np.median(dx, axis=1, keepdims=True)
    return dx - np.round(dx @ np.linalg.pinv(rows)) @ rows


def _turned_path(x1: np.ndarray, x2: np.ndarray, f2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Displacements after superposition (Kabsch 1976, doi:10.1107/S0567739476001873), turned forces."""
    x1 = x1 - x1.mean(axis=1, keepdims=True)
    x2 = x2 - x2.mean(axis=1, keepdims=True)
    u, _, vt = np.linalg.svd(np.einsum("pni,pnj->pij", x2, x1))
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    turn = u @ vt
    return x2 @ turn - x1, f2 @ turn
