from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii

from limbeck.core.neighbours import find_pairs
from limbeck.core.structures import StructureBatch
from limbeck.students.baseline import Baseline, zbl, zbl_radii

from .tools import SYSTEMS


def table_value(z1: int, z2: int, r: float) -> float:
    """ZBL with the constants as textbooks round them (e²/4πε0 = 14.3996 eV Å, a0 = 0.529177 Å)."""
    a = 0.8854 * 0.529177 / (z1**0.23 + z2**0.23)
    x = r / a
    screen = (
        0.1818 * np.exp(-3.2 * x) + 0.5099 * np.exp(-0.9423 * x) + 0.2802 * np.exp(-0.4029 * x) + 0.02817 * np.exp(-0.2016 * x)
    )  # fmt: skip
    return 14.3996 * z1 * z2 / r * screen


def one(z1: int, z2: int, r: float, radius: float) -> tuple[float, float]:
    energy, slope = zbl(*(np.array([x]) for x in (z1, z2, r, radius)))
    return float(energy[0]), float(slope[0])


@pytest.mark.parametrize(
    ("z1", "z2", "r"), [(14, 14, 0.5), (14, 14, 1.0), (1, 8, 0.3), (29, 79, 1.2), (1, 1, 0.1)]
)
def test_energy_is_the_textbook_value_below_the_switch(z1, z2, r):
    assert one(z1, z2, r, 2 * r)[0] == pytest.approx(table_value(z1, z2, r), rel=5e-4)
    assert one(z1, z2, r, r) == one(z1, z2, 1.2 * r, r) == (0.0, 0.0)
    # half way the quintic is one half
    assert one(z1, z2, r, 4 * r / 3)[0] == pytest.approx(table_value(z1, z2, r) / 2, rel=5e-4)


@pytest.mark.parametrize("r", [0.4, 0.9, 1.2, 1.5, 1.9])
def test_slope_is_the_derivative(r):
    h = 1e-5
    difference = (one(14, 8, r + h, 2.0)[0] - one(14, 8, r - h, 2.0)[0]) / (2 * h)
    assert one(14, 8, r, 2.0)[1] == pytest.approx(difference, rel=1e-7)


@pytest.mark.parametrize("r", [1.0, 2.0])
def test_two_derivatives_are_continuous_where_the_switch_starts_and_ends(r):
    def curvature(x: float, h: float) -> float:
        return (one(14, 14, x + h, 2.0)[1] - one(14, 14, x, 2.0)[1]) / h

    below, above = curvature(r, -1e-6), curvature(r, 1e-6)
    size = abs(one(14, 14, 1.0, 4.0)[0])
    assert below == pytest.approx(above, abs=1e-3 * size)
    assert one(14, 14, r - 1e-7, 2.0) == pytest.approx(one(14, 14, r + 1e-7, 2.0), abs=1e-5 * size)


def total(baseline: Baseline, *frames: Atoms):
    batch = StructureBatch.from_atoms(frames)
    return baseline.evaluate(batch, find_pairs(batch, 5.0))


def test_references_add_up():
    labels = total(
        Baseline({1: -1.5, 8: -4.0, 14: -9.0}, {}), Atoms("H2O", np.eye(3)), Atoms("Si", [[0, 0, 0]])
    )
    assert labels.energy.tolist() == [-7.0, -9.0]
    assert labels.atom_energies.tolist() == [-1.5, -1.5, -4.0, -9.0]
    assert not labels.forces.any()
    assert not labels.virial.any()


@pytest.mark.parametrize(
    "name", ["two atoms in a cell smaller than the cutoff", "triclinic", "left-handed", "molecule"]
)
def test_forces_and_strain_derivative_are_derivatives_of_the_energy(name):
    atoms = SYSTEMS[name]
    elements = tuple(sorted(set(atoms.numbers.tolist())))
    radii = dict.fromkeys(zbl_radii(elements, {}), 2.9)  # far out, so that the switch acts
    baseline = Baseline({z: -1.0 * z for z in elements}, radii)
    labels = total(baseline, atoms)
    assert np.abs(labels.forces).max() > 0.1
    h = 1e-5

    def slope(change) -> float:
        ends = []
        for step in (h, -h):
            moved = atoms.copy()
            change(moved, step)
            ends.append(float(total(baseline, moved).energy[0]))
        return (ends[0] - ends[1]) / (2 * h)

    for a, c in ((0, 0), (1, 1), (1, 2)):
        unit = np.zeros((len(atoms), 3))
        unit[a, c] = 1
        force = -slope(lambda moved, step, unit=unit: moved.translate(step * unit))
        assert force == pytest.approx(labels.forces[a, c], rel=1e-6, abs=1e-6)
    for a, b in ((0, 0), (0, 2), (1, 2)) if atoms.pbc.all() else ():
        unit = (np.outer(np.eye(3)[a], np.eye(3)[b]) + np.outer(np.eye(3)[b], np.eye(3)[a])) / 2

        def strain(moved, step, unit=unit) -> None:
            moved.set_cell(atoms.cell.array @ (np.eye(3) + step * unit), scale_atoms=True)

        assert slope(strain) == pytest.approx(labels.virial[0, a, b], rel=1e-6, abs=1e-5)


def test_radii_stay_below_bonds_seen_and_covalent():
    radii = zbl_radii((1, 8), {(1, 8): 0.93, (8, 8): 9.0})
    bond = covalent_radii[8] + covalent_radii[8]
    assert radii[1, 8] == pytest.approx(0.95 * 0.93)
    assert radii[8, 8] == pytest.approx(0.95 * bond)
    assert radii[1, 1] == pytest.approx(0.8 * 2 * covalent_radii[1])
