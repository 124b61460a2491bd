"""Equivalent descriptions of a structure have the same energy, forces and stress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from ase import Atoms

from limbeck.core.labels import Labels
from limbeck.testing.probe import Probe, Tolerance, largest
from limbeck.testing.report import CheckResult
from limbeck.testing.systems import System, random_rotation

TRANSLATION_A = 3.0


@dataclass(frozen=True)
class Variant:
    """An equivalent structure, and the transformation of the original's labels to its own.

    Attributes
    ----------
    rotation: (3, 3) orthogonal; forces F -> F @ rotation.T, stress S -> rotation @ S @ rotation.T.
    order: (N,) index of the original atom that stands at each place.
    """

    name: str
    atoms: Atoms
    rotation: np.ndarray
    order: np.ndarray


def check_symmetries(probe: Probe, system: System, tolerance: Tolerance) -> Iterator[CheckResult]:
    """Translation, rotation, reflection, permutation; cell and image choices where periodic."""
    base = probe.labels([system.atoms])
    for variant in _variants(system, probe.rng):
        claimed = {"rotation": probe.capabilities.rotation, "reflection": probe.capabilities.reflection}
        if not claimed.get(variant.name, True):
            continue
        labels = probe.labels([variant.atoms])
        wanted = Labels(
            energy=base.energy,
            forces=base.forces[variant.order] @ variant.rotation.T,
            stress=None if base.stress is None else variant.rotation @ base.stress @ variant.rotation.T,
            atom_energies=None if base.atom_energies is None else base.atom_energies[variant.order],
        )
        yield from compare_labels(variant.name, system, labels, wanted, tolerance)


def compare_labels(
    name: str, system: System, got: Labels, wanted: Labels, tolerance: Tolerance
) -> Iterator[CheckResult]:
    """All given labels of one structure against the expected ones."""

    def result(what: str, error: float, limit: float, unit: str) -> CheckResult:
        return CheckResult(f"{name}: {what}", system.name, error, limit, unit)

    yield result("energy", largest(got.energy - wanted.energy), tolerance.energy, "eV")
    yield result("forces", largest(got.forces - wanted.forces), tolerance.force, "eV/Å")
    if system.periodic and got.stress is not None and wanted.stress is not None:
        yield result("stress", largest(got.stress - wanted.stress), tolerance.stress, "eV/Å³")
    if got.atom_energies is not None and wanted.atom_energies is not None:
        difference = largest(got.atom_energies - wanted.atom_energies)
        yield result("atom_energies", difference, tolerance.energy, "eV")


def check_sums(probe: Probe, system: System, tolerance: Tolerance) -> Iterator[CheckResult]:
    """Noise fits the declared precision, stress is symmetric, atomic energies sum to the total."""
    yield CheckResult(
        "noise of the energy fits the declared precision",
        system.name,
        tolerance.energy_noise,
        tolerance.noise_allowed,
        "eV",
        f"declared {probe.precision}",
    )
    labels = probe.labels([system.atoms])
    if probe.capabilities.stress and system.periodic and labels.stress is not None:
        skew = largest(labels.stress - labels.stress.transpose(0, 2, 1))
        yield CheckResult("stress is symmetric", system.name, skew, tolerance.stress, "eV/Å³")
    if probe.capabilities.atom_energies and labels.atom_energies is not None:
        gap = largest(labels.atom_energies.sum() - labels.energy)
        yield CheckResult("atomic energies sum to the total", system.name, gap, tolerance.energy, "eV")


def _variants(system: System, rng: np.random.Generator) -> Iterator[Variant]:
    atoms, identity, order = system.atoms, np.eye(3), np.arange(len(system.atoms))

    def changed(change: Callable[[Atoms], None]) -> Atoms:
        copy = atoms.copy()
        change(copy)
        return copy

    def transform(matrix: np.ndarray) -> Atoms:
        def apply(copy: Atoms) -> None:
            copy.set_cell(atoms.cell.array @ matrix.T)
            copy.positions = atoms.positions @ matrix.T

        return changed(apply)

    shift = rng.uniform(-1, 1, 3) * TRANSLATION_A
    yield Variant("translation", changed(lambda copy: copy.translate(shift)), identity, order)
    rotation = random_rotation(rng)
    yield Variant("rotation", transform(rotation), rotation, order)
    mirror = -random_rotation(rng)
    yield Variant("reflection", transform(mirror), mirror, order)
    if len(atoms) > 1:
        permuted = np.roll(rng.permutation(len(atoms)), 1)
        yield Variant("permutation", atoms[permuted], identity, permuted)
    if not system.periodic:
        return
    yield Variant("wrapped positions", changed(lambda copy: copy.wrap(eps=1e-9)), identity, order)
    images = rng.integers(-1, 2, size=(len(atoms), 3))
    images[0] = (1, -1, 1)
    outside = changed(lambda copy: copy.translate(images @ atoms.cell.array))
    yield Variant("unwrapped positions", outside, identity, order)
    # Integer matrices of determinant +1 and -1 describe the same lattice.
    skew = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1]])
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    for name, matrix in (("skewed cell", skew), ("opposite-handed cell", swap)):
        cell = matrix @ atoms.cell.array
        yield Variant(name, changed(partial(Atoms.set_cell, cell=cell)), identity, order)
