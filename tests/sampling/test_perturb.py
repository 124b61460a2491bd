"""Supercell, rattle and strain: determinants, moments and ASE's EMT are the oracles."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule
from ase.calculators.emt import EMT
from ase.eos import EquationOfState
from ase.neighborlist import neighbor_list
from pydantic import ValidationError

from limbeck.errors import InputError
from limbeck.sampling.build import build
from limbeck.sampling.perturb import Rattle, Strain, apply_strain, rattle, strains
from limbeck.sampling.preparing import Supercell, supercell


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
    start = bulk("Cu")
    large = supercell(start, Supercell(min_length_a=9.0))
    widths = large.get_volume() / np.array(
        [np.linalg.norm(np.cross(large.cell[(k + 1) % 3], large.cell[(k + 2) % 3])) for k in range(3)]
    )
    assert widths.min() >= 9.0
    assert len(large) == 5**3  # widths of the primitive cell are a / sqrt(3) = 2.084 Å
    assert len(supercell(start, Supercell(max_atoms=30))) == 27


def test_a_slab_is_not_repeated_across_its_vacuum():
    sheet = graphene(vacuum=2.6)
    sheet.pbc = True
    large = supercell(sheet, Supercell(max_atoms=64))
    assert large.cell.cellpar()[2] == pytest.approx(sheet.cell.cellpar()[2])
    assert len(large) == 50


def test_molecules_beside_crystals_stay_as_they_are():
    made = build(Supercell(repeat=((1, 1, 1), (2, 2, 2))), [bulk("Cu"), molecule("H2O")], (0,))
    assert [len(a) for a in made] == [1, 8, 3]
    with pytest.raises(InputError, match="a supercell needs a periodic structure"):
        build(Supercell(max_atoms=64), [molecule("H2O")], (0,))


def test_slab_repeats_in_its_plane_only():
    slab = fcc111("Cu", (1, 1, 3), vacuum=6.0)
    large = supercell(slab, Supercell(min_length_a=6.0))
    assert large.cell[2, 2] == pytest.approx(slab.cell[2, 2])
    assert len(large) == 27
    with pytest.raises(InputError, match="repeats a direction that is not periodic"):
        supercell(slab, Supercell(matrix=((1, 0, 0), (0, 1, 0), (0, 0, 2))))


def test_supercell_refusals():
    with pytest.raises(
        InputError, match="a supercell needs a periodic structure; got pbc False, False, False"
    ):
        supercell(molecule("H2O"), Supercell(repeat=(2, 2, 2)))
    with pytest.raises(InputError, match="the supercell matrix is singular"):
        supercell(bulk("Si"), Supercell(matrix=((1, 1, 0), (1, 1, 0), (0, 0, 1))))
    with pytest.raises(ValidationError, match="got repeat, max_atoms; wanted exactly one of repeat, matrix"):
        Supercell(repeat=(1, 1, 1), max_atoms=3)
    with pytest.raises(ValidationError, match="got nothing; wanted exactly one"):
        Supercell()


def test_rattle_has_the_stated_spread():
    start = bulk("Cu", cubic=True) * (5, 5, 5)
    shift = rattle(start, 0.1, Rattle(stdev_a=0.1), np.random.default_rng(1)) - start.positions
    # The standard deviation of a standard deviation over n values is 1 / sqrt(2 n).
    assert shift.std() == pytest.approx(0.1, rel=4 / np.sqrt(2 * shift.size))
    assert abs(shift.mean()) < 4 * 0.1 / np.sqrt(shift.size)


def test_rattle_keeps_the_distance():
    start = bulk("Si", cubic=True) * (2, 2, 2)
    plain = start.copy()
    plain.positions += np.random.default_rng(5).normal(0, 0.5, plain.positions.shape)
    assert neighbor_list("d", plain, 2.5).min() < 0.6 * 2.22
    start.positions = rattle(start, 0.5, Rattle(stdev_a=0.5), np.random.default_rng(5))
    assert neighbor_list("d", start, 2.5).min() >= 0.6 * 2.22
    # Only atoms of close pairs were drawn again.
    assert 0 < (np.abs(start.positions - plain.positions) > 1e-9).any(axis=1).sum() < 32


def test_rattle_that_cannot_keep_the_distance():
    dense = Atoms("Si", cell=[1.2, 3, 3], pbc=True, info={"group": "dense#0"})
    with pytest.raises(InputError) as caught:
        rattle(dense, 0.1, Rattle(stdev_a=0.1), np.random.default_rng(0))
    assert str(caught.value) == (
        "step rattle, start dense#0: rattled atoms stay too close; got a stdev of 0.1 Å and a pair at 1.20 Å "
        "after 200 draws; wanted pairs beyond 0.6 of the sum of covalent radii; "
        "remedy: lower stdev_a or min_ratio"
    )


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
    start = bulk("Cu", cubic=True) * (2, 1, 1)
    start.rattle(0.05, seed=1)
    start.set_cell(start.cell.array[[1, 0, 2]])
    for e in strains(Strain(max=0.05, n=4), "random", np.random.default_rng(3)):
        strained = apply_strain(start, e)
        assert strained.get_volume() == pytest.approx(
            start.get_volume() * np.linalg.det(np.eye(3) + e), rel=1e-12
        )
        # Every pair vector goes with (1 + e), so the map is affine.
        assert np.allclose(strained.positions, start.positions @ (np.eye(3) + e), atol=1e-12)


def test_volumetric_strain_follows_the_equation_of_state():
    """EMT copper: the bulk modulus from our strained cells is the one ASE fits to its own scaling."""
    start = bulk("Cu", a=3.59)

    def energies(cells):
        out = []
        for atoms in cells:
            atoms.calc = EMT()
            out.append(atoms.get_potential_energy())
        return out

    ours = [
        apply_strain(start, e) for e in strains(Strain(max=0.02, n=9), "volumetric", np.random.default_rng(0))
    ]
    scaled = []
    for x in np.linspace(0.98, 1.02, 9):
        scaled.append(start.copy())
        scaled[-1].set_cell(start.cell * x, scale_atoms=True)
    fits = [EquationOfState([a.get_volume() for a in set_], energies(set_)).fit() for set_ in (ours, scaled)]
    assert fits[0][0] == pytest.approx(fits[1][0], rel=1e-3)  # volume
    assert fits[0][2] == pytest.approx(fits[1][2], rel=1e-2)  # bulk modulus


def test_strain_of_a_molecule():
    water = molecule("H2O")
    water.info["group"] = "smiles#0"
    with pytest.raises(InputError) as caught:
        apply_strain(water, np.zeros((3, 3)))
    assert str(caught.value) == (
        "step strain, start smiles#0: strain needs a structure that is periodic in three directions; "
        "got pbc [False, False, False]; remedy: leave the step out, or rattle instead"
    )
