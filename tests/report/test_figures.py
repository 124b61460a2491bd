"""What figures are made of, against other ways to compute it."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list
from hypothesis import given
from hypothesis import strategies as st

from limbeck.core.structures import StructureBatch
from limbeck.records.figure import log_axis, packed
from limbeck.report.data_figures import (
    distance_histograms,
    interaction_energies,
    nearest_distances,
    principal_plane,
)
from limbeck.report.error_figures import thin
from limbeck.report.structure_view import picture
from tests.report.conftest import labelled_frame, unpack


def test_packed_arrays_come_back():
    values = np.random.default_rng(0).normal(size=37)
    assert np.allclose(unpack(packed(values)), values, rtol=1e-6)
    assert unpack(packed([1, -2, 3])).tolist() == [1, -2, 3]


@given(st.floats(1e-5, 1e6), st.floats(1.0, 1e7))
def test_a_logarithmic_axis_names_at_least_two_numbers_within_it(low, ratio):
    axis = log_axis("x", [[low, low * ratio]])
    begin, end = axis.to_plotly()["range"]
    assert begin < np.log10(low)
    assert end > np.log10(low * ratio)
    assert 2 <= len(axis.ticks) <= 14
    assert all(begin <= np.log10(tick) <= end for tick in axis.ticks)
    assert len(set(axis.to_plotly()["ticktext"])) == len(axis.ticks)


def test_ticks_are_whole_numbers_and_powers_of_ten():
    assert log_axis("x", [[20.0, 400.0]]).to_plotly()["ticktext"] == ["20", "50", "100", "200", "500"]
    assert "10<sup>−4</sup>" in log_axis("x", [[2e-5, 0.02]]).to_plotly()["ticktext"]


@given(st.integers(0, 4000), st.integers(0, 50))
def test_a_thinned_plot_keeps_the_largest_errors(size, seed):
    error = np.random.default_rng(seed).normal(size=size)
    chosen = thin(error, most=300)
    assert len(chosen) == len(set(chosen.tolist())) == min(size, 300)
    assert set(np.argsort(-np.abs(error))[: min(size, 50)]) <= set(chosen.tolist())


def test_pair_distances_agree_with_ase():
    atoms = bulk("NaCl", "rocksalt", a=5.6) * (1, 1, 2)
    atoms.rattle(0.2, seed=1)
    edges = np.linspace(0.5, 6.0, 40)
    found, frames = distance_histograms(StructureBatch.from_atoms([atoms]), edges)
    i, j, d = neighbor_list("ijd", atoms, 6.0)
    assert frames == 1
    assert set(found) == {"Cl–Cl", "Cl–Na", "Na–Na"}
    middle = (edges[1:] + edges[:-1]) / 2
    mixed = atoms.numbers[i] != atoms.numbers[j]
    # ASE lists both directions of a pair
    assert np.allclose(found["Cl–Na"] * middle**2, np.histogram(d[mixed], edges)[0] / 2)
    own = (atoms.numbers[i] == 11) & ~mixed
    assert np.allclose(found["Na–Na"] * middle**2, np.histogram(d[own], edges)[0] / 2)


def test_energies_are_less_their_references():
    from limbeck.dataset.read import labelled_from_atoms

    labelled = labelled_from_atoms([labelled_frame(0, None, "", "")], "frame")
    assert interaction_energies(labelled, None) == pytest.approx(labelled.labels.energy / 8)
    # seven of copper, one of gold
    assert interaction_energies(labelled, {29: 1.0, 79: 2.0}) == pytest.approx(
        (labelled.labels.energy - 9) / 8
    )


def test_the_plane_is_that_of_the_covariance():
    x = np.random.default_rng(0).normal(size=(60, 5)) * [5, 3, 1, 0.5, 0.1]
    plane, shares = principal_plane(x)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    wanted = (x - x.mean(axis=0)) @ vectors[:, ::-1][:, :2]
    assert np.allclose(np.abs(plane), np.abs(wanted))
    assert np.allclose(shares, values[::-1][:2] / values.sum())


def test_one_environment_makes_a_plane_too():
    plane, shares = principal_plane(np.ones((3, 1)))
    assert plane.shape == (3, 2)
    assert np.isfinite(shares).all()


def test_neighbour_distances_turn_with_nothing():
    atoms = molecule("CH3CH2OH")
    before = nearest_distances(StructureBatch.from_atoms([atoms]))
    atoms.rotate(37, "xyz")
    atoms.positions += 3
    assert np.allclose(before, nearest_distances(StructureBatch.from_atoms([atoms])))
    nearest = np.sort(atoms.get_all_distances() + 9 * np.eye(len(atoms)), axis=1)[:, 0]
    assert np.allclose(before.max(axis=1), 1 / nearest - 1 / 5)


def test_a_view_has_the_bonds_and_edges_of_its_structure():
    water = picture("w", "", "", molecule("H2O")).payload
    assert sorted(map(sorted, water["bonds"])) == [[0, 1], [0, 2]]
    assert water["cell"] == []
    crystal = picture("c", "", "", bulk("Si", cubic=True)).payload
    assert len(crystal["cell"]) == 12
    assert all(np.linalg.norm(np.subtract(a, b)) == pytest.approx(5.43, abs=0.01) for a, b in crystal["cell"])


def test_a_large_structure_is_drawn_in_part_and_says_so():
    shown = picture("c", "", "All.", bulk("Cu", cubic=True) * (8, 8, 8))
    assert len(shown.payload["positions"]) == 1200
    assert shown.caption == "All. The 1,200 atoms nearest the middle of 2,048 are drawn."
