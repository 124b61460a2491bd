"""Supercell, rattle, strain and torsions: determinants, moments, EMT and chemistry are the oracles."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule
from ase.calculators.emt import EMT
from ase.eos import EquationOfState
from ase.neighborlist import neighbor_list
from pydantic import ValidationError
from tests.sampling.support import copper, hashes, named_molecule, sample

from limbeck.core.checks import contacts
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.sampling import Rattle, Strain, Supercell, Torsions, smiles_conformers
from limbeck.sampling.perturb import _on_the_axis, apply_strain, rattle, rotatable_bonds, strains
from limbeck.sampling.preparing import supercell


@pytest.mark.parametrize(
    ("config", "atoms"),
    [
        ({"repeat": (2, 3, 1)}, 48),
        ({"matrix": ((2, 1, 0), (0, 2, 0), (0, 0, 1))}, 32),
        ({"matrix": ((0, 1, 0), (1, 0, 0), (0, 0, 1))}, 8),
        ({"min_length_a": 10.0}, 64),
        ({"max_atoms": 64}, 64),
        ({"max_atoms": 40}, 8),
        ({"max_atoms": 1}, 8),
    ],
)
def test_supercell_keeps_density_and_neighbours(config, atoms):
    start = bulk("Si", cubic=True)
    start.info["group"] = "Si#0"
    large = supercell(start, Supercell(**config))
    assert len(large) == atoms
    assert len(large) / large.get_volume() == pytest.approx(8 / 5.43**3)
    assert large.info["group"] == "Si#0"
    assert (np.bincount(neighbor_list("i", large, 2.5)) == 4).all()


def test_widths_of_a_skewed_cell():
    large = supercell(bulk("Cu"), Supercell(min_length_a=9.0))
    widths = large.get_volume() / np.array(
        [np.linalg.norm(np.cross(large.cell[(k + 1) % 3], large.cell[(k + 2) % 3])) for k in range(3)]
    )
    assert widths.min() >= 9.0
    assert len(large) == 5**3  # widths of the primitive cell are a / sqrt(3) = 2.084 Å
    assert len(supercell(bulk("Cu"), Supercell(max_atoms=30))) == 27


def test_a_slab_repeats_in_its_plane_only():
    sheet = graphene(vacuum=2.6)
    sheet.pbc = True
    large = supercell(sheet, Supercell(max_atoms=64))
    assert large.cell.cellpar()[2] == pytest.approx(sheet.cell.cellpar()[2])
    assert len(large) == 50
    slab = fcc111("Cu", (1, 1, 3), vacuum=6.0)
    large = supercell(slab, Supercell(min_length_a=6.0))
    assert large.cell[2, 2] == pytest.approx(slab.cell[2, 2])
    assert len(large) == 27


def test_molecules_beside_crystals_stay_as_they_are():
    step = Supercell(repeat=((1, 1, 1), (2, 2, 2)))
    assert [len(a) for a in sample([bulk("Cu"), molecule("H2O")], step)] == [1, 8, 3]


@pytest.mark.parametrize(
    ("start", "step", "message"),
    [
        (molecule("H2O"), Supercell(max_atoms=64), r"a supercell needs a periodic structure; got pbc \[False, False"),
        (bulk("Si"), Supercell(matrix=((1, 1, 0), (1, 1, 0), (0, 0, 1))), "the supercell matrix is singular"),
        (fcc111("Cu", (1, 1, 3), vacuum=6.0), Supercell(matrix=((1, 0, 0), (0, 1, 0), (0, 0, 2))), "repeats a direction that is not periodic"),
        (Atoms("Si", cell=[1.2, 3, 3], pbc=True), Rattle(stdev_a=0.1), r"step rattle, start start#0: rattled atoms stay too close; got a stdev of 0\.1 Å and a pair at 1\.20 Å after 200 draws; wanted pairs beyond 0\.6"),
        (molecule("H2O"), Strain(), "step strain, start start#0: strain needs a structure that is periodic in three directions"),
        (bulk("Cu"), Torsions(), "step torsions, start start#0: torsions are sampled for molecules only"),
    ],
)  # fmt: skip
def test_what_does_not_fit(start, step, message):
    with pytest.raises(InputError, match=message):
        sample(start, step)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"repeat": (1, 1, 1), "max_atoms": 3}, "got repeat, max_atoms; wanted exactly one of"),
        ({}, "got nothing"),
    ],
)
def test_bad_supercells(given, message):
    with pytest.raises(ValidationError, match=message):
        Supercell(**given)


def test_rattle_has_the_stated_spread():
    start = copper(5, 5, 5)
    shift = rattle(start, 0.1, 0.6, np.random.default_rng(1), "") - start.positions
    # The standard deviation of a standard deviation over n values is 1 / sqrt(2 n).
    assert shift.std() == pytest.approx(0.1, rel=4 / np.sqrt(2 * shift.size))
    assert abs(shift.mean()) < 4 * 0.1 / np.sqrt(shift.size)


def test_rattle_keeps_the_distance():
    start = bulk("Si", cubic=True) * (2, 2, 2)
    plain = start.copy()
    plain.positions += np.random.default_rng(5).normal(0, 0.5, plain.positions.shape)
    assert neighbor_list("d", plain, 2.5).min() < 0.6 * 2.22
    start.positions = rattle(start, 0.5, 0.6, np.random.default_rng(5), "")
    assert neighbor_list("d", start, 2.5).min() >= 0.6 * 2.22
    # Only atoms of close pairs were drawn again.
    assert 0 < (np.abs(start.positions - plain.positions) > 1e-9).any(axis=1).sum() < 32


@pytest.mark.parametrize("mode", ["uniaxial", "volumetric", "shear", "random"])
def test_strains_are_symmetric_bounded_and_stratified(mode):
    e = strains(Strain(max=0.04, n=20), mode, np.random.default_rng(2))
    assert np.array_equal(e, e.transpose(0, 2, 1))
    assert np.abs(e).max() <= 0.04
    nonzero = (np.abs(e) > 0).sum(axis=(1, 2))
    assert set(nonzero) == {{"uniaxial": 1, "volumetric": 3, "shear": 2, "random": 9}[mode]}
    assert (np.trace(e, axis1=1, axis2=2) == 0).all() == (mode == "shear")
    size = np.where(e.max(axis=(1, 2)) > 0, e.max(axis=(1, 2)), e.min(axis=(1, 2)))  # (20,)
    size = e[:, 0, 0] if mode == "random" else size
    assert sorted(np.floor((size / 0.04 + 1) * 10).astype(int)) == list(range(20))


def test_strained_volume_is_the_determinant():
    start = copper(2, 1, 1)
    start.rattle(0.05, seed=1)
    start.set_cell(start.cell.array[[1, 0, 2]])
    for e in strains(Strain(max=0.05, n=4), "random", np.random.default_rng(3)):
        strained = apply_strain(start, e)
        volume = start.get_volume() * np.linalg.det(np.eye(3) + e)
        assert strained.get_volume() == pytest.approx(volume, rel=1e-12)
        # Every pair vector goes with (1 + e), so the map is affine.
        assert np.allclose(strained.positions, start.positions @ (np.eye(3) + e), atol=1e-12)


def test_volumetric_strain_follows_the_equation_of_state():
    """EMT copper: the bulk modulus from our strained cells is the one ASE fits to its own scaling."""
    start = bulk("Cu", a=3.59)
    step = Strain(max=0.02, n=9)
    ours = [apply_strain(start, e) for e in strains(step, "volumetric", np.random.default_rng(0))]
    scaled = []
    for x in np.linspace(0.98, 1.02, 9):
        scaled.append(start.copy())
        scaled[-1].set_cell(start.cell * x, scale_atoms=True)
    fits = []
    for cells in (ours, scaled):
        for atoms in cells:
            atoms.calc = EMT()
        energies = [a.get_potential_energy() for a in cells]
        fits.append(EquationOfState([a.get_volume() for a in cells], energies).fit())
    assert fits[0][0] == pytest.approx(fits[1][0], rel=1e-3)  # volume
    assert fits[0][2] == pytest.approx(fits[1][2], rel=1e-2)  # bulk modulus


# ---- torsions -----------------------------------------------------------------------------------

ROTATABLE = {
    "CCO": 2,  # C-C and C-O
    "CCCC": 3,
    "c1ccccc1": 0,
    "c1ccccc1C": 1,
    "C1CCCCC1": 0,
    "C=C": 0,
    "CC=CC": 2,  # not the double bond
    "CC(=O)NC": 2,  # not the amide bond
    "c1ccccc1-c1ccccc1": 1,
    "CC#N": 0,  # nothing stands beside the axis at its end
}


@pytest.mark.parametrize("smiles", ROTATABLE)
def test_bonds_that_rotate(smiles):
    pytest.importorskip("rdkit")
    assert len(rotatable_bonds(smiles_conformers(smiles)[0])) == ROTATABLE[smiles]


def test_bonds_and_angles_stay_and_dihedrals_change():
    start = named_molecule("trans-butane")
    frames = sample(start, Torsions(n=30, stdev_a=0.0), seed=1)
    assert len(frames) == 30
    i, j, _, _ = contacts(StructureBatch.from_atoms([start]), 1.2)
    bonds = {frozenset((int(a), int(b))) for a, b in zip(i, j, strict=True)}
    # the two outer atoms of an angle are bonded to its middle, so bonds and 1-3 distances fix it
    angles = {p ^ q for p in bonds for q in bonds if len(p & q) == 1}
    assert (len(bonds), len(angles)) == (13, 24)
    carbons = np.flatnonzero(start.numbers == 6)
    distance = start.get_all_distances()
    end = carbons[distance[np.ix_(carbons, carbons)].max(axis=1).argmax()]
    chain = sorted(carbons, key=lambda c: distance[end, c])
    for frame in frames:
        for pair in (*bonds, *angles):
            assert frame.get_distance(*pair) == pytest.approx(start.get_distance(*pair), abs=1e-6)
    assert np.std([frame.get_dihedral(*chain) for frame in frames]) > 40
    assert not any(len(contacts(StructureBatch.from_atoms([f]), 0.6)[0]) for f in frames)


def test_torsions_seeds_families_and_notes():
    butane, step = named_molecule("trans-butane"), Torsions(n=20)
    first = sample(butane, step, seed=1)
    assert hashes(first) == hashes(sample(butane, step, seed=1))
    assert not set(hashes(first)) & set(hashes(sample(butane, step, seed=2)))
    assert len({f.info["group"] for f in first}) == 10
    assert first[0].info["group"] == "trans-butane#0/torsions-180deg-b0"
    notes: list[str] = []
    assert len(sample([named_molecule("C6H6"), butane], step, notes=notes)) == 20
    assert notes == ["torsions: C6H6#0 has no rotatable bond"]


@pytest.mark.parametrize("smiles", [smiles for smiles, n in ROTATABLE.items() if n])
def test_the_smaller_side_of_a_bond_turns(smiles):
    pytest.importorskip("rdkit")
    atoms = smiles_conformers(smiles)[0]
    for bond in rotatable_bonds(atoms):
        assert bond.j in bond.moved
        assert bond.i not in bond.moved
        assert len(bond.moved) <= len(atoms) / 2


@pytest.mark.parametrize(("off", "on_it"), [(0.15, True), (0.25, False)])
def test_atoms_on_the_axis_do_not_turn(off, on_it):
    """Within 0.2 Å of the axis, whatever the length of the bond."""
    for length in (0.7, 3.0):
        positions = np.array([[0, 0, 0], [0, 0, length], [off, 0, length + 1.0]])
        assert _on_the_axis(positions, 0, 1, np.array([1, 2])) == on_it
