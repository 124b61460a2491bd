"""What the checks look at: the labels, where they come from, and figures that several checks need."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import cached_property
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from limbeck.core.labels import LabelledSet
from limbeck.core.structures import StructureBatch
from limbeck.dataset.lint.close import ClosePairs, find_close
from limbeck.dataset.lint.contacts import Bonds, nearest_bonds
from limbeck.dataset.lint.manybody import ManyBody, fit_many_body
from limbeck.dataset.lint.surrogate import Surrogate, fit_surrogate


@dataclass(frozen=True)
class Expected:
    """What the user says of the data.

    elements: atomic numbers asked for. starts: structures the data should be made of.
    validation: labels that will judge; copies_removed: those equal to one of them will not train.
    max_force_ev_per_a: where the unit of forces is known: labels that are not finite or beyond it are left
        out without a finding.
    """

    elements: tuple[int, ...] | None = None
    starts: StructureBatch | None = None
    validation: LabelledSet | None = None
    copies_removed: bool = False
    max_force_ev_per_a: float | None = None


NOTHING_EXPECTED = Expected()
_FITTED = 0.6  # correlation of forces with those of the pair potential; below it tells nothing


@dataclass(frozen=True)
class Material:
    """Labels that training would use, without isolated atoms.

    Attributes
    ----------
    labelled: S structures.
    frame: (S,) int64, the place of each among the structures as read.
    part: (S,) int64, the source of each. part_names: their names.
    """

    labelled: LabelledSet
    frame: np.ndarray
    part: np.ndarray
    part_names: tuple[str, ...]
    expected: Expected = NOTHING_EXPECTED

    def frames(self, index: ArrayLike) -> tuple[int, ...]:
        """Places as read of the structures at ``index`` (integers) or under a mask, ascending."""
        chosen = np.asarray(index)
        if not chosen.size:
            return ()
        return tuple(sorted(int(k) for k in np.unique(self.frame[chosen])))

    def atoms(self, s: SupportsIndex) -> slice:
        return slice(*(int(k) for k in self.batch.offsets[operator.index(s) :][:2]))

    @property
    def batch(self) -> StructureBatch:
        return self.labelled.structures

    @property
    def energy(self) -> np.ndarray:
        """(S,) eV."""
        return self.labelled.labels.energy

    @property
    def forces(self) -> np.ndarray:
        """(N, 3) eV/Å."""
        return self.labelled.labels.forces

    @cached_property
    def has_stress(self) -> np.ndarray:
        """(S,) bool."""
        stress = self.labelled.labels.stress
        if stress is None:
            return np.zeros(len(self.labelled), bool)
        return np.isfinite(stress).all(axis=(1, 2))

    @cached_property
    def volume(self) -> np.ndarray:
        """(S,) Å³; zero without a cell."""
        return self.batch.volume

    @cached_property
    def elements(self) -> np.ndarray:
        """Atomic numbers present, ascending."""
        return np.unique(self.batch.numbers)

    @cached_property
    def counts(self) -> np.ndarray:
        """(S, elements) atoms of each element."""
        table = np.zeros((len(self.labelled), len(self.elements)), np.int64)
        column = np.searchsorted(self.elements, self.batch.numbers)
        np.add.at(table, (self.batch.structure_of_atom, column), 1)
        return table

    @cached_property
    def composition(self) -> np.ndarray:
        """(S,) int64, one number for each composition as fractions."""
        fractions = np.round(self.counts / self.counts.sum(axis=1, keepdims=True), 9)
        return np.unique(fractions, axis=0, return_inverse=True)[1].reshape(-1)

    @cached_property
    def force_rms(self) -> np.ndarray:
        """(S,) eV/Å, over the components of each structure."""
        square = np.add.reduceat((self.forces**2).mean(axis=1), self.batch.offsets[:-1])
        return np.sqrt(square / self.batch.counts)

    @cached_property
    def surrogate(self) -> Surrogate | None:
        """A pair potential fitted to the forces, or None where there are too few."""
        return fit_surrogate(self.labelled)

    @cached_property
    def many_body(self) -> ManyBody | None:
        """A many-body potential fitted to the forces, or None where there are too few."""
        return fit_many_body(self.labelled)

    @cached_property
    def stiffness(self) -> float | None:
        """Median curvature at an atom times its squared bond length, eV; None where the fit is bad."""
        if self.surrogate is None or self.surrogate.fit < _FITTED:
            return None
        bonded = np.isfinite(self.bonds.ratio)
        if not bonded.any():
            return None
        return float(np.median(self.surrogate.stiffness[bonded] * self.bonds.distance[bonded] ** 2))

    @cached_property
    def close(self) -> ClosePairs:
        """Structures near one another."""
        return find_close(self.labelled)

    @cached_property
    def bonds(self) -> Bonds:
        """Each atom's nearest neighbour, measured by covalent radii."""
        return nearest_bonds(self.batch)


def rare(count: int, total: int) -> bool:
    """So few that a note will do: one in a thousand."""
    return count <= 1e-3 * total


def median_deviation(values: np.ndarray) -> tuple[float, float]:
    """Median and 1.4826 MAD (the standard deviation of normal values)."""
    middle = float(np.median(values))
    return middle, 1.4826 * float(np.median(np.abs(values - middle)))
