"""Wrong input ends with one line on stderr and exit code 2; what fails while working, with 1."""

from __future__ import annotations

import importlib.util
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, graphene, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from limbeck.core import files
from limbeck.errors import InputError
from limbeck.planning.start import check_lengths

from .conftest import labelled_copper

EMT = "ase.calculators.emt:EMT"
DISTILL = f"distill --teacher {EMT} --budget 1m"


@pytest.fixture
def structures(tmp_path: Path):
    """structures(atoms) -> the file that they were written to."""

    def _write(atoms) -> Path:
        write(tmp_path / "in.extxyz", atoms)
        return tmp_path / "in.extxyz"

    return _write


def _damaged_copper(kind: str) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    if kind == "nan":
        atoms.positions[1, 1] = np.nan
    elif kind == "flat":
        atoms.set_cell([3.6, 3.6, 0])
    elif kind == "overlap":
        atoms.positions[1] = atoms.positions[0] + 0.05
    elif kind == "nanometres":
        atoms.set_cell(atoms.cell / 10, scale_atoms=True)
    elif kind == "no element":
        atoms.symbols[0] = "X"
    return atoms


TEXTS = {
    "nan": ["not finite", "atom 1 at [0.0, nan, 1.805]"],
    "flat": ["a periodic cell without volume", "pbc=False for a molecule"],
    "overlap": ["overlapping atoms; got atom 0 (Cu) and atom 1 (Cu) at 0.087 Å", "at least 0.79 Å"],
    "nanometres": ["overlapping atoms; got atom 0 (Cu) and atom 1 (Cu) at 0.255 Å", "as if they were in nm"],
    "no element": ["an atom has no element; got atom 0 with atomic number 0"],
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize(
    "command",
    [f"{DISTILL} --structures", "sample --structures", f"label --teacher {EMT}", "train --epochs 1"],
)
def test_structures_that_make_no_sense(refused, structures, tmp_path, command, kind):
    path = structures(_damaged_copper(kind))
    text = refused(f"{command} {path} --out {tmp_path}/out")
    assert text.startswith(f"{path}, frame 0: ")
    assert all(fact in text for fact in TEXTS[kind]), text
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_structures(refused, tmp_path):
    write(tmp_path / "cut.extxyz", labelled_copper(2))
    cut = (tmp_path / "cut.extxyz").read_text()[:-130]
    for name, content, told in (
        ("empty.xyz", "", ": the file is empty; wanted at least one structure"),
        ("no.cif", None, ": no such file; wanted a structure file that ASE reads"),
        ("words.cif", "these are words\n", ": "),
        ("cut.extxyz", cut, ", line 7 (frame 1): a frame ends before its last atom; got 3 atoms; wanted 4"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_text(content)
        assert refused(f"{DISTILL} --structures {path} --out {tmp_path}/out").startswith(f"{path}{told}")


def test_a_left_handed_cell_is_fine(done, structures, tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    assert np.linalg.det(atoms.cell) < 0
    done(f"label {structures(atoms)} --teacher {EMT} --out {tmp_path}/labels")


def test_partial_occupancy_in_a_cif(refused, tmp_path):
    path = tmp_path / "alloy.cif"
    path.write_text(
        "data_alloy\n_cell_length_a 3.6\n_cell_length_b 3.6\n_cell_length_c 3.6\n_cell_angle_alpha 90\n"
        "_cell_angle_beta 90\n_cell_angle_gamma 90\n_space_group_name_H-M_alt 'P 1'\nloop_\n_atom_site_label\n"
        "_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
        "_atom_site_occupancy\nCu1 Cu 0 0 0 0.75\nAu1 Au 0 0 0 0.25\n"
    )
    text = refused(f"{DISTILL} --structures {path} --out {tmp_path}/out")
    assert text.startswith(
        f"{path}, frame 0: a site is partially occupied; got site 0 with Cu 0.75, Au 0.25;"
    )


def test_a_single_atom_teaches_nothing(refused, structures, tmp_path):
    path = structures(Atoms("Cu", [[0, 0, 0]]))
    text = refused(f"{DISTILL} --structures {path} --out {tmp_path}/out")
    assert text.startswith(f"{path}: a single atom has no forces to learn from; got Cu;")


def test_elements_that_teacher_or_student_do_not_know(refused, structures, finished, tmp_path):
    path = structures(Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]]))
    text = refused(f"distill --teacher so3lr --budget 1m --structures {path} --out {tmp_path}/a")
    assert text.startswith("structure 0 (Cu2): teacher 'so3lr' was not trained on Cu; wanted H, ")
    aluminium = bulk("Al", cubic=True)
    aluminium.calc = SinglePointCalculator(aluminium, energy=0.0, forces=np.zeros((4, 3)))
    text = refused(f"validate {finished}/ultra-tiny.safetensors {structures(aluminium)}")
    assert text.startswith("ultra-tiny: the student does not know an element; got Al; wanted Cu;")
    options = f"--teacher {EMT} --preset ultra-tiny --epochs 1 --out {tmp_path}/fe"
    text = refused(f"distill --bulk Fe {options}", code=1)
    assert text.endswith("failed on a structure; got NotImplementedError: No EMT-potential for Fe")


def test_budget_that_allows_no_epoch(refused, tmp_path):
    command = f"distill --bulk Cu --teacher {EMT} --preset tiny --out {tmp_path}/run --budget"
    head, _, tail = refused(f"{command} 3s").partition("; wanted at least ")
    assert head == "the budget allows no epoch; got 3 s"
    seconds, _, rest = tail.partition(" s for ")
    assert 5 < int(seconds) < 60
    assert rest.endswith("; remedy: raise --budget")
    # a raised budget may use the same folder
    assert refused(f"{command} 4s").startswith("the budget allows no epoch; got 4 s")


def test_a_teacher_whose_package_is_missing(refused, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "chgnet" else real(name, *a)
    )
    text = refused(f"distill --bulk Si --teacher chgnet --budget 1m --out {tmp_path}/run")
    assert "remedy: limbeck teachers install chgnet" in text


def test_a_full_disk_is_said_and_the_run_goes_on_later(done, refused, copper_file, tmp_path, monkeypatch):
    real = os.fsync

    def full(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").endswith(".safetensors"):
            raise OSError(28, "No space left on device")
        real(handle)

    out = tmp_path / "run"
    command = f"train {copper_file} --preset ultra-tiny --epochs 2 --out {out}"
    monkeypatch.setattr(files.os, "fsync", full)
    text = refused(command, code=1)
    assert text.startswith(
        f"{out}/train/ultra-tiny/last.safetensors: cannot write the file; got No space left"
    )
    assert "nothing was overwritten" in text
    monkeypatch.undo()
    done(command)
    assert [p.name for p in out.rglob(".*")] == []


@pytest.mark.parametrize(
    "command",
    [f"{DISTILL} --bulk Cu", "sample --bulk Cu", "train {} --epochs 1", "label {} --teacher " + EMT],
)
def test_a_place_that_cannot_be_written(refused, copper_file, command):
    # /proc takes no new files, not even from root
    text = refused(f"{command.format(copper_file)} --out /proc/limbeck", code=1)
    assert "/proc/limbeck" in text.split(";")[0]
    assert "cannot write" in text


def test_an_output_that_is_something_else(refused, copper_file, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("words")
    text = refused(f"train {copper_file} --epochs 1 --out {folder} --overwrite")
    assert text.startswith(f"{folder}: the run folder holds files of something else;")
    assert (folder / "chapter1.tex").exists()
    text = refused(f"train {copper_file} --epochs 1 --out {copper_file}")
    assert text.startswith(f"{copper_file}: the run folder is a file;")
    text = refused(f"sample --bulk Cu --out {tmp_path}/frames.cif")
    assert "frames.cif: frames are written as extended XYZ" in text


class _Trap:
    def __reduce__(self):
        return os.mkdir, (_Trap.folder,)


def test_pickled_code_is_never_executed(refused, tmp_path):
    _Trap.folder = str(tmp_path / "sprung")
    plain, zipped = tmp_path / "plain.pt", tmp_path / "zipped.pt"
    plain.write_bytes(pickle.dumps(_Trap()))
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Trap(), protocol=2))
        archive.writestr("archive/version", "3\n")
    for path in (plain, zipped):
        assert refused(f"convert {path} --out {tmp_path}/student.safetensors").startswith(f"{path}: ")
        for command in (f"info {path}", f"validate {path} {path}"):
            assert "this is no student file" in refused(command)
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "student.safetensors").exists()


# ---- lengths that no material has --------------------------------------------------------------------


def scaled(atoms: Atoms, factor: float) -> Atoms:
    atoms = atoms.copy()
    if atoms.cell.rank:
        atoms.set_cell(atoms.cell * factor, scale_atoms=True)
    else:
        atoms.positions *= factor
    return atoms


SOUND = [
    bulk("Cu", cubic=True), bulk("Si"), bulk("Li"), bulk("Cs"), bulk("NaCl", "rocksalt", a=5.64),
    bulk("Ar", "fcc", a=5.3), graphene(vacuum=8), molecule("C2H6"), molecule("H2"), molecule("Li2"),
    bulk("Cu") * (2, 1, 1), Atoms("Ar"), Atoms("Ar2", positions=[[0, 0, 0], [3.8, 0, 0]]), bulk("Cs", a=5.0),
]  # fmt: skip


@pytest.mark.parametrize("atoms", SOUND, ids=lambda a: a.get_chemical_formula())
def test_sound_structures_say_nothing(atoms):
    assert check_lengths([atoms], "x") == []


CLOSE = bulk("Cu", cubic=True) * (2, 2, 2)
CLOSE.positions[1] = CLOSE.positions[0] + [1.3, 0, 0]
IN_BOHR = [bulk("Cu", cubic=True), bulk("Si"), molecule("C2H6"), molecule("CH3CH2OH")]
UNUSUAL = [
    *(
        (scaled(atoms, 1 / units.Bohr), "as if lengths were in bohr (1 bohr = 0.529177 Å)")
        for atoms in IN_BOHR
    ),
    (CLOSE, "very near one another (Cu-Cu at 1.30 Å, 0.49 of the sum of covalent radii)"),
    (
        Atoms("CuCu", positions=[[0, 0, 0], [9, 0, 0]]),
        "most atoms have no neighbour (the nearest is more than 6 Å away",
    ),
    (scaled(bulk("Si"), 2.6), "most atoms have no neighbour"),
]


@pytest.mark.parametrize(("atoms", "text"), UNUSUAL)
def test_unusual_lengths_are_noted(atoms, text):
    (note,) = check_lengths([atoms], "in.xyz")
    assert note.startswith("in.xyz: ")
    assert text in note


def test_lengths_in_another_unit_are_refused():
    with pytest.raises(InputError, match=r"x: atoms are nearer .* got Si-Si at 1\.00 Å, 0\.45 of the sum"):
        check_lengths([Atoms("Si", cell=[1, 1, 1], pbc=True)], "x")
    with pytest.raises(InputError, match="converted from bohr twice"):
        check_lengths([scaled(bulk("Cu", cubic=True), units.Bohr)], "x")
