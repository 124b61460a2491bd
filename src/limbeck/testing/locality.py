"""Checks of size: far fragments, batches, cells smaller than the cutoff, continuity at the cutoff."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from limbeck.core.labels import Labels
from limbeck.core.structures import StructureBatch
from limbeck.testing.probe import Probe, Tolerance, largest
from limbeck.testing.report import CheckResult
from limbeck.testing.symmetry import compare_labels
from limbeck.testing.systems import System, make_fragment

FAR_APART_A = 100.0  #: gap between fragments where no cutoff is stated
#: eV, eV/Å that electrostatics may leave over that gap where no cutoff is stated (SO3LR: 2e-4, 1.4e-3)
LONG_RANGE = (1e-3, 5e-3)
REPEATS = (2, 2, 3)
#: distances from the cutoff between which jumps are compared, Å (near, far)
CUTOFF_WINDOW_A = {"float32": (1e-3, 1e-1), "float64": (1e-6, 1e-4)}
CONTINUOUS = 0.1  #: a continuous quantity changes 100 times less over the nearer window; a jump does not
MAXIMUM_CUTOFF_ELEMENTS = 3


def check_extensivity(
    probe: Probe, system: System, elements: Sequence[int], tolerance: Tolerance
) -> Iterator[CheckResult]:
    """Two molecules far apart: energies add, forces are unchanged."""
    first, second = system.atoms.copy(), make_fragment(elements, probe.rng)
    cutoff = getattr(probe.potential, "cutoff", None)
    gap = FAR_APART_A if cutoff is None else 3.0 * float(cutoff) + 5.0
    second.positions[:, 0] += first.positions[:, 0].max() - second.positions[:, 0].min() + gap
    alone = [probe.labels([first]), probe.labels([second])]
    both = probe.labels([first + second])
    slack = LONG_RANGE if cutoff is None else (0.0, 0.0)
    energy = largest(both.energy - alone[0].energy - alone[1].energy)
    forces = largest(both.forces - np.concatenate([a.forces for a in alone]))
    yield CheckResult(
        "far fragments: energies add", system.name, energy, 2 * tolerance.energy + slack[0], "eV"
    )
    yield CheckResult(
        "far fragments: forces stay", system.name, forces, 2 * tolerance.force + slack[1], "eV/Å"
    )


def check_batch(
    probe: Probe, systems: Sequence[System], tolerances: Sequence[Tolerance]
) -> Iterator[CheckResult]:
    """Each structure of a batch has the labels it has alone, in either order of the batch."""
    alone = [probe.labels([s.atoms]) for s in systems]
    forward = list(range(len(systems)))
    for order in (forward, forward[::-1]):
        frames = [systems[k].atoms for k in order]
        labels, batch = probe.labels(frames), StructureBatch.from_atoms(frames)
        for place, k in enumerate(order):
            part = labels.select(batch, [place])
            yield from compare_labels("batch = alone", systems[k], part, alone[k], tolerances[k])


def check_supercell(probe: Probe, system: System, tolerance: Tolerance) -> Iterator[CheckResult]:
    """A cell smaller than the cutoff against its supercell: energy scales, forces and stress repeat."""
    copies = int(np.prod(REPEATS))
    small, large = probe.labels([system.atoms]), probe.labels([system.atoms.repeat(REPEATS)])
    wanted = Labels(
        energy=small.energy * copies,
        forces=np.tile(small.forces, (copies, 1)),
        stress=small.stress,
        atom_energies=None if small.atom_energies is None else np.tile(small.atom_energies, copies),
    )
    yield from compare_labels(
        "cell smaller than the cutoff = supercell", system, large, wanted, tolerance.times(copies)
    )


def check_one_atom(probe: Probe, system: System, tolerance: Tolerance) -> Iterator[CheckResult]:
    """One atom has no force, wherever it is."""
    forces = largest(probe.labels([system.atoms]).forces)
    yield CheckResult("one atom feels no force", system.name, forces, tolerance.force, "eV/Å")


def check_cutoff(probe: Probe, elements: Sequence[int], tolerance: Tolerance) -> Iterator[CheckResult]:
    """Energy and forces are continuous when an atom crosses the cutoff, alone or near a third."""
    cutoff = float(probe.potential.cutoff)  # type: ignore[attr-defined]
    near, far = CUTOFF_WINDOW_A[probe.precision]
    for a, b in combinations_with_replacement(elements[:MAXIMUM_CUTOFF_ELEMENTS], 2):
        for third in (False, True):
            distances = cutoff + np.array([-far, -near, near, far])
            frames = [_crossing(a, b, d, third) for d in distances]
            labels = probe.labels(frames)
            forces = labels.forces.reshape(4, -1, 3)
            pair = f"{chemical_symbols[a]}-{chemical_symbols[b]}"
            name = f"{pair}{' near a third atom' if third else ''} at {cutoff:g} Å"
            for what, value, limit, unit in (
                ("energy", labels.energy, tolerance.energy, "eV"),
                ("forces", forces, tolerance.force, "eV/Å"),
            ):
                jump = largest(value[2] - value[1])
                smooth = CONTINUOUS * largest(value[3] - value[0])
                yield CheckResult(f"{what} continuous at the cutoff", name, jump, max(smooth, limit), unit)


def _crossing(a: int, b: int, distance: float, third: bool) -> Atoms:
    """Two atoms ``distance`` apart; a third one off the line at bonding distance of the first."""
    atoms = Atoms(numbers=[a, b], positions=[[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
    if third:
        bond = 1.2 * (covalent_radii[a] + covalent_radii[b])
        atoms += Atoms(numbers=[b], positions=[[0.6 * bond, 0.8 * bond, 0.0]])
    return atoms
