"""Slabs, vacancies and interstitials against known geometry and spglib's symmetry."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from limbeck.errors import InputError
from limbeck.sampling import SamplingConfig, bulk_structure, count_frames, run_sampling
from limbeck.sampling.config import summary


def made(start: Atoms | list[Atoms], *steps: dict, seed: int = 0) -> list[Atoms]:
    """What the steps make of the start; the counts are held against the prediction."""
    starts, config = start if isinstance(start, list) else [start], SamplingConfig(seed=seed, steps=steps)
    frames = run_sampling(starts, config, {})
    assert len(frames) == count_frames(config, starts) <= count_frames(config, len(starts))
    return frames


SI, CU = bulk_structure("Si"), bulk_structure("Cu")
DOUBLED = {"kind": "supercell", "repeat": [2, 2, 2]}
SLAB = {"kind": "slab", "add": False}


def quartz() -> Atoms:
    """alpha-SiO2, P3_221 (Levien, Prewitt, Weidner 1980)."""
    atoms = crystal(
        ["Si", "O"], [(0.4697, 0, 2 / 3), (0.4135, 0.2669, 0.1191 + 2 / 3)], spacegroup=154,
        cellpar=[4.916, 4.916, 5.4054, 90, 90, 120],
    )  # fmt: skip
    atoms.info = {"group": "quartz#0"}
    return atoms


def planes(atoms: Atoms, width: float = 0.3) -> np.ndarray:
    """Heights of the planes of atoms."""
    z = np.sort(atoms.positions[:, 2])
    return z[np.append(True, np.diff(z) > width)]


@pytest.mark.parametrize(
    ("miller", "layers", "n_planes", "spacing"),
    [((1, 1, 1), 4, 4, 3.61 / 3**0.5), ((1, 0, 0), 3, 6, 3.61 / 2), ((1, 1, 0), 3, 6, 3.61 / 8**0.5)],
)
def test_slab_of_copper(miller, layers, n_planes, spacing):
    (slab,) = made(CU, {**SLAB, "miller": miller, "layers": layers, "vacuum_a": 14})
    heights = planes(slab)
    assert len(heights) == n_planes
    assert np.diff(heights) == pytest.approx(spacing, abs=1e-6)
    assert slab.pbc.all()
    assert np.ptp(slab.positions[:, 2]) + 14 == pytest.approx(slab.cell.lengths()[2], abs=1e-6)
    i, distance = neighbor_list("id", slab, 3.0)
    assert distance == pytest.approx(3.61 / 2**0.5, abs=1e-6)  # no bond is cut short
    assert np.bincount(i).max() == 12  # as in the crystal, inside


def test_slab_of_silicon_by_thickness():
    start = SI
    pristine, slab = made(
        start,
        {"kind": "slab", "miller": [1, 1, 1], "min_thickness_a": 9, "max_atoms": 140, "periodic": False},
    )
    assert pristine.info["group"] == "Si#0"
    assert slab.info["group"] == "Si#0/slab-111"
    assert len(slab) == 128
    assert list(slab.pbc) == [True, True, False]
    assert np.ptp(slab.positions[:, 2]) >= 9
    distance = neighbor_list("d", slab, 2.6)
    assert distance == pytest.approx(5.43 * 3**0.5 / 4, abs=1e-6)
    assert len(slab) / np.linalg.norm(np.cross(*slab.cell[:2])) == pytest.approx(
        4 * 8 * (1 / 3**0.5) * 5.43 / 5.43**3, rel=1e-6
    )


def test_slab_keeps_composition():
    (slab,) = made(quartz(), {**SLAB, "miller": [1, 0, 0], "min_thickness_a": 8, "repeat": [1, 2]})
    assert slab.symbols.formula.reduce()[0].format("hill") == "O2Si"
    assert slab.info["group"] == "quartz#0/slab-100"
    (other,) = made(quartz(), {**SLAB, "miller": [1, -1, 0], "layers": 2})
    assert other.info["group"] == "quartz#0/slab-1,-1,0"


def test_one_vacancy_in_diamond_and_two_in_quartz():
    """One orbit of sites in diamond; one of silicon and one of oxygen in quartz."""
    frames = made(SI, DOUBLED, {"kind": "vacancy", "variants": 5})
    assert [len(f) for f in frames] == [64, 63]
    assert [f.info["group"] for f in frames] == ["Si#0", "Si#0/vacancy-0"]
    frames = made(
        quartz(), {"kind": "supercell", "repeat": [2, 2, 1]}, {"kind": "vacancy", "variants": 5, "add": False}
    )
    assert sorted(f.get_chemical_formula() for f in frames) == ["O23Si12", "O24Si11"]
    (oxygen,) = made(quartz(), {"kind": "vacancy", "variants": 5, "element": "O", "add": False})
    assert oxygen.get_chemical_formula() == "O5Si3"


def test_distinct_sites_are_the_orbits_of_spglib():
    spglib = pytest.importorskip("spglib")
    (slab,) = made(CU, {**SLAB, "miller": [1, 1, 1], "layers": 6})
    cell = (slab.cell.array, slab.get_scaled_positions(), slab.numbers)
    orbits = len(set(spglib.get_symmetry_dataset(cell, symprec=1e-3).equivalent_atoms))
    assert orbits == 3
    assert len(made(slab, {"kind": "vacancy", "variants": 50, "add": False})) == orbits


@pytest.mark.parametrize(("n", "distinct"), [(1, 1), (2, 5)])
def test_pairs_of_vacancies_in_copper(n, distinct):
    """In the 2x2x2 cell of 32 sites pairs lie at five distances: a/√2, a, a√(3/2), a√2, a√3."""
    frames = made(
        CU, DOUBLED,
        {"kind": "vacancy", "n": n, "variants": 20, "add": False},
    )  # fmt: skip
    assert len(frames) == distinct
    assert all(len(f) == 32 - n for f in frames)


def test_vacancy_at_the_surface_only():
    steps = [
        {"kind": "slab", "miller": [1, 1, 1], "layers": 6, "repeat": [2, 2]},
        {"kind": "vacancy", "where": "surface", "variants": 3},
    ]
    pristine, slab, vacancy = made(CU, *steps)
    assert [f.info["group"] for f in (pristine, slab, vacancy)] == [
        "Cu#0", "Cu#0/slab-111", "Cu#0/slab-111/vacancy-0",
    ]  # fmt: skip
    gone = [p for p in slab.positions if np.linalg.norm(vacancy.positions - p, axis=1).min() > 0.1]
    assert len(gone) == 1
    outermost = slab.positions[:, 2].min(), slab.positions[:, 2].max()
    assert min(abs(gone[0][2] - z) for z in outermost) < 1e-6
    deep = made(slab, {"kind": "vacancy", "where": "bulk", "variants": 9, "add": False})
    assert len(deep) == 2  # second and third layer


@given(st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_any_seed_gives_the_same_kinds(seed):
    frames = made(quartz(), {"kind": "vacancy", "variants": 4, "add": False}, seed=seed)
    assert sorted(f.get_chemical_formula() for f in frames) == ["O5Si3", "O6Si2"]


def test_interstitial_of_copper_is_octahedral_then_tetrahedral():
    frames = made(
        CU, DOUBLED,
        {"kind": "interstitial", "element": "Cu", "variants": 5, "add": False},
    )  # fmt: skip
    nearest = [np.sort(f.get_distances(-1, range(32), mic=True)) for f in frames]
    assert len(frames) == 2
    assert nearest[0][:6] == pytest.approx(3.61 / 2, abs=1e-6)
    assert nearest[0][6] > 3.0
    assert nearest[1][:4] == pytest.approx(3.61 * 3**0.5 / 4, abs=1e-6)
    assert frames[0].info["group"] == "Cu#0/interstitial-0"


def test_interstitial_of_silicon_is_tetrahedral():
    """The widest hole of diamond: four neighbours at a bond's length, six at a/2."""
    (frame,) = made(
        bulk("Si", cubic=True) * 2, {"kind": "interstitial", "element": "Si", "variants": 1, "add": False}
    )
    nearest = np.sort(frame.get_distances(-1, range(64), mic=True))
    assert nearest[:4] == pytest.approx(5.43 * 3**0.5 / 4, abs=1e-6)
    assert nearest[4:10] == pytest.approx(5.43 / 2, abs=1e-6)


def test_interstitials_stay_inside_a_slab():
    frames = made(
        SI, {**SLAB, "miller": [1, 0, 0], "min_thickness_a": 8, "repeat": [2, 2]},
        {"kind": "interstitial", "element": "H", "n": 2, "variants": 4, "add": False},
    )  # fmt: skip
    for frame in frames:
        host = frame.positions[:-2, 2]
        assert ((frame.positions[-2:, 2] > host.min()) & (frame.positions[-2:, 2] < host.max())).all()
        assert frame.get_distance(-1, -2, mic=True) > 1.0


def test_several_sizes_of_supercell():
    frames = made(CU, {"kind": "supercell", "repeat": [[1, 1, 2], [3, 1, 1]]})
    assert [(len(f), f.info["group"]) for f in frames] == [(8, "Cu#0/1x1x2"), (12, "Cu#0/3x1x1")]


def test_summary_tells_the_steps():
    steps = [
        {"kind": "thin", "max": 50},
        {"kind": "slab", "miller": [1, 1, 1], "layers": 4},
        {"kind": "supercell", "repeat": [[2, 2, 1], [3, 2, 1]]},
        {"kind": "vacancy", "element": "Si", "where": "surface"},
        {"kind": "interstitial", "element": "H"},
        {"kind": "relax", "cell": True},
    ]
    assert summary(SamplingConfig(steps=steps)) == (
        "thin to 50; slab 111, 4 layers thick, 12 Å vacuum; supercell 2x2x1, 3x2x1; "
        "vacancy 1, Si, surface, up to 2 variants; interstitial 1, H, up to 2 variants; "
        "relax to 0.05 eV/Å in at most 200 steps, with the cell"
    )


@pytest.mark.parametrize(
    ("start", "step", "message"),
    [
        (molecule("H2O"), {**SLAB, "miller": [1, 0, 0], "layers": 2}, "step slab: the step slab fits none of the starting structures; got H2O, pbc [False, False, False]; wanted a crystal: periodic"),
        (SI, {**SLAB, "miller": [1, 1, 1], "layers": 9, "max_atoms": 20}, "step slab, start Si#0: the slab holds more atoms than it may; got 72 atoms in one repeat; wanted at most max_atoms 20"),
        (SI, {**SLAB, "miller": [1, 1, 1], "min_thickness_a": 900}, "step slab, start Si#0: the slab does not become thick enough; got 187.3 Å"),
        (SI, {"kind": "vacancy", "element": "Ge"}, "step vacancy, start Si#0: too few atoms for the vacancies; got 0 sites (Ge, where: any) among 8 atoms; wanted at least 1"),
        (bulk("Si"), {"kind": "vacancy", "n": 2}, "too few atoms for the vacancies; got 2 sites (atom, where: any) among 2 atoms; wanted more than 2"),
        (SI, {"kind": "vacancy", "where": "surface"}, "step vacancy: the step vacancy fits none of the starting structures; got Si8, pbc [True, True, True]; wanted a start with a surface"),
        (molecule("H2O"), {"kind": "interstitial", "element": "H"}, "step interstitial, start start#0: an interstitial needs a periodic structure"),
        (CU, {"kind": "interstitial", "element": "Cs", "min_ratio": 0.9}, "step interstitial, start Cu#0: no hole is wide enough for an interstitial; got Cs at 1.8"),
    ],
)  # fmt: skip
def test_what_does_not_fit(start, step, message):
    with pytest.raises(InputError) as caught:
        made(start, step)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({**SLAB, "miller": [0, 0, 0], "layers": 1}, "got miller 0, 0, 0; wanted at least one index that is not zero"),
        ({**SLAB, "miller": [1, 0, 0]}, "slab: got nothing; wanted exactly one of layers, min_thickness_a"),
        ({**SLAB, "miller": [1, 0, 0], "layers": 2, "min_thickness_a": 3}, "got layers, min_thickness_a; wanted exactly one"),
        ({**SLAB, "miller": [1, 0, 0], "layers": 2, "vacuum_a": 2}, "greater than or equal to 5"),
        ({**SLAB, "miller": [1, 0, 0], "layers": 2, "repeat": [1, 2], "max_atoms": 9}, "got repeat, max_atoms"),
        ({"kind": "vacancy", "element": "Xx"}, "no such element; got 'Xx'"),
        ({"kind": "vacancy", "where": "edge"}, "'any', 'surface' or 'bulk'"),
        ({"kind": "interstitial"}, "Field required"),
        ({"kind": "supercell", "repeat": [[1, 1, 1], [1, 1, 1]]}, "the same repeat twice"),
        ({"kind": "supercell", "repeat": []}, "at least 1 item"),
        ({"kind": "thin", "max": 0}, "greater than 0"),
        ({"kind": "relax", "fmax_ev_per_a": -1}, "greater than 0"),
    ],
)  # fmt: skip
def test_bad_steps(step, message):
    with pytest.raises(ValidationError) as caught:
        SamplingConfig(steps=[step])
    assert message in str(caught.value)
