"""Starting structures from files, elements and SMILES."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sampling.support import hashes

from limbeck.core.frames import thin
from limbeck.errors import InputError, MissingPackageError
from limbeck.sampling.starts import bulk_structure, read_folder, read_structures, smiles_conformers

CIF = """data_alloy
_cell_length_a 5.5
_cell_length_b 5.5
_cell_length_c 5.5
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""


def test_every_structure_of_a_file_has_its_group(tmp_path):
    path = tmp_path / "mine.extxyz"
    write(path, [bulk("Si"), bulk("Ge")])
    assert [a.info["group"] for a in read_structures(path)] == ["mine.extxyz#0", "mine.extxyz#1"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.xyz", "", "empty.xyz: the file is empty; wanted at least one structure"),
        ("bad.cif", "hello", "bad.cif: cannot read the file as structures; got "),
        ("bad.unknown", "hello", "bad.unknown: cannot read the file as structures; got UnknownFileTypeError"),
        (
            "short.xyz",
            "3\n\nH 0 0 0\n",
            "short.xyz, line 1 (frame 0): a frame ends before its last atom; got 1 atoms; wanted 3",
        ),
        ("none.cif", None, "none.cif: no such file; wanted a structure file that ASE reads"),
    ],
)
def test_unreadable_files(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_structures(tmp_path / name)
    assert message in str(caught.value)


def test_partial_occupancies(tmp_path):
    path = tmp_path / "alloy.cif"
    path.write_text(CIF + "Si1 Si 0 0 0 0.5\nGe1 Ge 0 0 0 0.5\nSi2 Si 0.5 0.5 0.5 1.0\n")
    with pytest.raises(
        InputError, match=r"alloy\.cif, frame 0: .* partially occupied; got site 0 with Si 0\.5, Ge 0\.5"
    ):
        read_structures(path)
    path.write_text(CIF + "Si1 Si 0 0 0 0.9\n")
    with pytest.raises(InputError, match=r"site 0 with Si 0\.9"):
        read_structures(path)
    path.write_text(CIF + "Si1 Si 0 0 0 1.0\nGe1 Ge 0.5 0.5 0.5 1.0\n")
    assert read_structures(path)[0].get_chemical_formula() == "GeSi"


@pytest.mark.parametrize(
    ("symbol", "atoms", "volume"), [("Si", 8, 5.43**3), ("Cu", 4, 3.61**3), ("Mg", 2, None)]
)
def test_bulk(symbol, atoms, volume):
    crystal = bulk_structure(symbol)
    assert len(crystal) == atoms
    assert crystal.pbc.all()
    assert crystal.info["group"] == f"{symbol}#0"
    if volume:
        assert crystal.get_volume() == pytest.approx(volume)


@pytest.mark.parametrize(
    ("symbol", "message"),
    [
        (
            "O",
            "--bulk: no bulk reference structure for the element; got O; .*; remedy: give the crystal as a file",
        ),
        ("NaCl", "a compound has no reference crystal here; got 'NaCl'; .*remedy: give .*a CIF, with"),
        ("Xy", "--bulk: no such element; got 'Xy'"),
    ],
)
def test_bulk_of_no_crystal(symbol, message):
    with pytest.raises(InputError, match=message):
        bulk_structure(symbol)


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_smiles_of_3bpa(seed):
    frames = smiles_conformers("c1ccc(cc1)COc2cccnc2N", n=4, seed=seed)
    assert 3 <= len(frames) <= 4
    assert all(a.get_chemical_formula() == "C12H12N2O" for a in frames)
    assert [a.info["group"] for a in frames] == [f"smiles#{k}" for k in range(len(frames))]
    assert not any("charge" in a.info for a in frames)
    again = smiles_conformers("c1ccc(cc1)COc2cccnc2N", n=4, seed=seed)
    assert hashes(frames) == hashes(again)


def test_conformers_are_distinct():
    assert len(smiles_conformers("c1ccccc1", n=5)) == 1
    frames = smiles_conformers("CCCCCC", n=5, seed=3)
    assert len(frames) == 5
    carbons = [a.positions[a.numbers == 6] for a in frames]
    assert min(rmsd(carbons[i], carbons[j]) for i in range(5) for j in range(i)) > 0.3
    # Anti-anti-anti hexane is the minimum of every force field, and its chain is the longest.
    length = [np.linalg.norm(c[:, None] - c[None], axis=-1).max() for c in carbons]
    assert np.argmax(length) == 0


def rmsd(a: np.ndarray, b: np.ndarray) -> float:
    """After the best rotation (Kabsch 1976), the chain read from either end, Å."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return min(float(np.sqrt(np.mean((a @ kabsch(a, c) - c) ** 2) * 3)) for c in (b, b[::-1]))


def kabsch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    u, _, v = np.linalg.svd(a.T @ b)
    return u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))]) @ v


@pytest.mark.parametrize(("smiles", "charge"), [("[NH4+]", 1.0), ("CC(=O)[O-]", -1.0), ("O", 0.0)])
def test_formal_charge(smiles, charge):
    assert smiles_conformers(smiles)[0].info.get("charge", 0.0) == charge


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("C(C", "--smiles: not a SMILES; got 'C.C'; wanted a SMILES such as"),
        ("", "--smiles: not a SMILES; got ''"),
        ("O.O", "a SMILES of several molecules; got 'O.O', 2 molecules; wanted one"),
        ("[Na+].[Cl-]", "2 molecules; wanted one"),
    ],
)
def test_bad_smiles(smiles, message, capfd):
    with pytest.raises(InputError, match=message):
        smiles_conformers(smiles)
    assert capfd.readouterr().err == ""


def test_without_rdkit(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(
        MissingPackageError, match=r"RDKit is not installed; .*remedy: pip install .*\[molecules\]"
    ):
        smiles_conformers("CCO")


def test_family_of_a_frame_file_is_kept(tmp_path):
    frame = Atoms("H2", [(0, 0, 0), (0, 0, 0.74)], info={"group": "old/md-300K-s1"})
    write(tmp_path / "f.extxyz", frame)
    assert read_structures(tmp_path / "f.extxyz")[0].info["group"] == "old/md-300K-s1"


# ---- folders and trajectories -------------------------------------------------------------------


def moving(n: int, step: float = 0.1) -> list[Atoms]:
    """A trajectory: each frame a little further than the one before."""
    frames, atoms = [], bulk("Cu", cubic=True)
    for k in range(n):
        atoms = atoms.copy()
        atoms.positions += np.random.default_rng(k).normal(scale=step, size=atoms.positions.shape)
        frames.append(atoms)
    return frames


def groups(path) -> list[str]:
    return [a.info["group"] for a in read_structures(path)]


def test_neighbours_in_a_trajectory_share_groups(tmp_path):
    write(tmp_path / "run.traj", moving(11))
    assert groups(tmp_path / "run.traj") == ["run.traj#0-5"] * 6 + ["run.traj#6-10"] * 5
    write(tmp_path / "long.traj", moving(100, 0.02))
    assert len(set(groups(tmp_path / "long.traj"))) == 5
    # past a periodic face is no jump; another composition, another cell's atoms or a jump begin anew
    wrapped = moving(4)
    wrapped[2].positions[0] += wrapped[2].cell[0]
    write(tmp_path / "wrapped.extxyz", [*wrapped, bulk("Si"), *moving(2, 3.0)])
    assert groups(tmp_path / "wrapped.extxyz") == [
        "wrapped.extxyz#0-3", "wrapped.extxyz#0-3", "wrapped.extxyz#0-3", "wrapped.extxyz#0-3",
        "wrapped.extxyz#4", "wrapped.extxyz#5", "wrapped.extxyz#6",
    ]  # fmt: skip


def test_folder_of_polymorphs(tmp_path):
    write(tmp_path / "b.cif", bulk("Si", cubic=True))
    write(tmp_path / "POSCAR_hcp", bulk("Mg"), format="vasp")
    write(tmp_path / "a.xyz", [bulk("Cu"), bulk("Ag")])
    (tmp_path / "notes.md").write_text("from the database")
    (tmp_path / ".hidden.cif").write_text("")
    (tmp_path / "more").mkdir()
    frames, others = read_folder(tmp_path)
    assert [a.info["group"] for a in frames] == ["POSCAR_hcp#0", "a.xyz#0", "a.xyz#1", "b.cif#0"]
    assert others == ["notes.md"]


def test_folder_names_what_is_bad(tmp_path):
    write(tmp_path / "good.cif", bulk("Si", cubic=True))
    (tmp_path / "empty.cif").write_text("")
    (tmp_path / "half.cif").write_text(CIF + "Si1 Si 0 0 0 0.5\nGe1 Ge 0 0 0 0.5\n")
    (tmp_path / "torn.vasp").write_text("Si\n1.0\n5 0 0\n")
    write(tmp_path / "double.xyz", Atoms("Si2", [(0, 0, 0), (0, 0, 0.01)]))
    with pytest.raises(InputError) as caught:
        read_folder(tmp_path)
    names = "double.xyz, empty.cif, half.cif, torn.vasp"
    assert f"{tmp_path}: 4 of 5 structure files cannot be used; got {names}; the first: " in str(caught.value)
    assert "double.xyz, frame 0: overlapping atoms" in str(caught.value)


def test_folder_without_structures(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(
        InputError, match=r"no structure file in the folder; got 1 files; wanted files such as \*\.cif"
    ):
        read_folder(tmp_path)
    with pytest.raises(InputError, match="cannot read the folder; got No such file or directory"):
        read_folder(tmp_path / "none")


@given(n=st.integers(1, 40), most=st.integers(1, 12), copies=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_thinning(n, most, copies):
    frames = [Atoms("H", [(0, 0, k)]) for k in range(n) for _ in range(copies)]
    kept = [round(a.positions[0, 2]) for a in thin(frames, most)]
    assert len(kept) == min(n, most)
    assert kept == sorted(set(kept))
    if len(kept) > 1:
        assert (kept[0], kept[-1]) == (0, n - 1)
        assert np.ptp(np.diff(kept)) <= 1


def test_a_molecule_far_from_the_origin_stays_in_its_trajectory(tmp_path):
    """Displacements count, not positions: 12 frames of 0.1 Å are one trajectory, a jump of one atom by 9 Å ends it."""
    frames = [molecule("C6H6") for _ in range(12)]
    for k, frame in enumerate(frames):
        frame.positions += [30 + 0.1 * k, 5, 5]
    frames[6].positions[0, 0] += 9.0
    for frame in frames[7:]:
        frame.positions[0, 0] += 9.0
    write(tmp_path / "md.extxyz", frames)
    groups = [frame.info["group"] for frame in read_structures(tmp_path / "md.extxyz")]
    assert len(set(groups[:6])) == len(set(groups[6:])) == 1
    assert groups[5] != groups[6]
