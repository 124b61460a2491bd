"""The baseline below a student's network: reference energies and ZBL core repulsion, both fixed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii

from limbeck.core.neighbours import Pairs
from limbeck.core.pairwise import smooth_step, smooth_step_slope, zbl_pair
from limbeck.core.structures import StructureBatch
from limbeck.students.engine import Outputs


@dataclass(frozen=True)
class Baseline:
    """Reference energies and ZBL radii.

    Attributes
    ----------
    references: atomic number -> eV.
    zbl_radius: (Z, Z') with Z <= Z' -> Å; ZBL is whole below half of it and zero above it (C2).
    """

    references: dict[int, float]
    zbl_radius: dict[tuple[int, int], float]

    def evaluate(self, batch: StructureBatch, pairs: Pairs) -> Outputs:
        """The baseline's part of the outputs, float64."""
        table = np.zeros(119)
        table[list(self.references)] = list(self.references.values())
        atom_energies = table[batch.numbers]
        forces = np.zeros((batch.n_atoms, 3))
        virial = np.zeros((len(batch), 3, 3))
        distance = pairs.distances
        near = np.flatnonzero(distance < max(self.zbl_radius.values(), default=0.0))
        if len(near):
            structure = np.searchsorted(pairs.offsets, near, side="right") - 1
            i, j = (atom[near] + batch.offsets[structure] for atom in (pairs.first, pairs.second))
            radius = self.radius_table(range(119))[batch.numbers[i], batch.numbers[j]]
            repulsion, slope = zbl(batch.numbers[i], batch.numbers[j], distance[near], radius)
            pull = (slope / distance[near])[:, None] * pairs.vectors[near]  # (P', 3) dE/dvector
            np.add.at(atom_energies, i, repulsion / 2)
            np.add.at(atom_energies, j, repulsion / 2)
            np.add.at(forces, i, pull)
            np.add.at(forces, j, -pull)
            np.add.at(virial, structure, pull[:, :, None] * pairs.vectors[near][:, None, :])
        total = np.bincount(batch.structure_of_atom, atom_energies, minlength=len(batch))
        return Outputs(total, forces, virial, atom_energies)

    def radius_table(self, elements: Sequence[int]) -> np.ndarray:
        """ZBL radii of each pair of the elements, (Z, Z) Å, 0 where there is none."""
        table = np.zeros((119, 119))
        for (a, b), radius in self.zbl_radius.items():
            table[a, b] = table[b, a] = radius
        return table[np.ix_(elements, elements)]


def zbl(z1: np.ndarray, z2: np.ndarray, r: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ZBL energy (eV), fading from radius / 2 to radius, and its derivative (eV/Å) at r (Å), all (P,)."""
    energy, slope = zbl_pair(z1, z2, r)
    half = np.maximum(radius / 2, 1e-12)
    x = np.clip((r - half) / half, 0.0, 1.0)
    switch = 1 - smooth_step(x)
    return energy * switch, slope * switch - energy * smooth_step_slope(x) / half


def zbl_radii(
    elements: tuple[int, ...], shortest: dict[tuple[int, int], float]
) -> dict[tuple[int, int], float]:
    """Radius of each element pair: 0.95 of the shortest distance seen, or of a covalent bond if shorter.

    A pair never seen takes 0.8 of the sum of its covalent radii.
    """
    radii = {}
    for pair in itertools.combinations_with_replacement(elements, 2):
        bond, seen = float(covalent_radii[list(pair)].sum()), shortest.get(pair)
        radii[pair] = 0.8 * bond if seen is None else 0.95 * min(seen, bond)
    return radii
