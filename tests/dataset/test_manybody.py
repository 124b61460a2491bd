"""The many-body potential of lint: finite differences, and energies of EMT that it never saw."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from limbeck.core.labels import LabelledSet
from limbeck.core.structures import StructureBatch
from limbeck.dataset.lint import manybody as mb
from limbeck.dataset.read import labelled_from_atoms


def cells(count: int, seed: int = 0) -> LabelledSet:
    rng, frames = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.numbers[::2] = 79
        strain = rng.normal(scale=0.02, size=(3, 3))
        atoms.set_cell(1.06 * atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
        atoms.rattle(0.06, rng=rng)
        atoms.calc = EMT()
        atoms.get_forces(), atoms.get_stress()
        frames.append(atoms)
    return labelled_from_atoms(frames, "EMT")


def evaluated(frames: list[Atoms], data: LabelledSet, solution: np.ndarray) -> mb.ManyBody:
    elements = np.unique(data.structures.numbers)
    width = 3 * mb.pair.KNOTS
    part = LabelledSet(
        StructureBatch.from_atoms(frames), data.labels, data.family, data.step, data.temperature_k
    )
    return mb._evaluate(part, np.arange(len(frames)), elements, 4, solution, width)


def test_forces_and_virial_are_derivatives_of_the_energy():
    data = cells(1)
    channels = 2 * 4
    size = 3 * mb.pair.KNOTS + 2 * 3 * channels * (channels + 1) // 2
    solution = np.random.default_rng(1).normal(size=size)
    start = data.to_atoms()[0]
    h = 1e-4

    def energy(change) -> float:
        atoms = start.copy()
        change(atoms)
        return float(evaluated([atoms], data, solution).energy[0])

    whole = evaluated([start], data, solution)
    for atom, axis in ((0, 0), (5, 1), (17, 2)):

        def push(atoms, sign, atom=atom, axis=axis):
            atoms.positions[atom, axis] += sign * h

        slope = (energy(lambda a: push(a, 1)) - energy(lambda a: push(a, -1))) / (2 * h)
        assert whole.forces[atom, axis] == pytest.approx(-slope, rel=1e-5, abs=1e-5)
    for component, (a, b) in enumerate(mb.pair.VOIGT):

        def strain(atoms, sign, a=a, b=b):
            e = np.zeros((3, 3))
            e[a, b] += 0.5 * sign * h
            e[b, a] += 0.5 * sign * h
            atoms.set_cell(atoms.cell @ (np.eye(3) + e), scale_atoms=True)

        slope = (energy(lambda x: strain(x, 1)) - energy(lambda x: strain(x, -1))) / (2 * h)
        assert whole.virial[0, component] == pytest.approx(slope, rel=1e-5, abs=1e-4)


def test_columns_are_the_forces_of_their_functions():
    data = cells(1)
    elements = np.unique(data.structures.numbers)
    columns = mb._force_columns(data.structures, elements, 4)
    solution = np.random.default_rng(2).normal(size=3 * mb.pair.KNOTS + columns.shape[1])
    solution[: 3 * mb.pair.KNOTS] = 0
    whole = evaluated(data.to_atoms(), data, solution)
    assert (columns @ solution[3 * mb.pair.KNOTS :]).reshape(-1, 3) == pytest.approx(whole.forces, abs=1e-9)


def test_energies_follow_from_forces_alone():
    data = cells(60)
    fitted = mb.fit_many_body(data)
    assert fitted is not None
    assert fitted.fit > 0.99
    given = data.labels.energy - data.labels.energy.mean()
    own = fitted.energy - fitted.energy.mean()
    # strained cells: what depends on the volume alone leaves no forces behind, so not all is explained
    assert np.corrcoef(given, own)[0, 1] > 0.8


def test_too_little_to_fit():
    assert mb.fit_many_body(cells(1).select(np.array([0]))) is None
