"""Wrong input ends with one line on stderr and exit code 2; what fails while working, with 1."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write

from limbeck.core import files

from .conftest import labelled_copper

EMT = "ase.calculators.emt:EMT"


@pytest.fixture
def structures(tmp_path: Path):
    """structures(atoms) -> the file that they were written to."""

    def _write(atoms) -> Path:
        path = tmp_path / "in.extxyz"
        write(path, atoms)
        return path

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
    "nan": "a position is not finite; got atom 1 at [0.0, nan, 1.805]; wanted finite numbers in Å",
    "flat": "a periodic cell without volume; got cell [[3.6, 0.0, 0.0], [0.0, 3.6, 0.0], [0.0, 0.0, 0.0]], pbc "
    "[True, True, True]; wanted independent periodic vectors (left-handed cells are accepted); remedy: set the "
    "cell, or pbc=False for a molecule",
    "overlap": "overlapping atoms; got atom 0 (Cu) and atom 1 (Cu) at 0.087 Å; wanted at least 0.79 Å (0.3 of the "
    "sum of covalent radii)",
    "nanometres": "overlapping atoms; got atom 0 (Cu) and atom 1 (Cu) at 0.255 Å; wanted at least 0.79 Å (0.3 of "
    "the sum of covalent radii); remedy: give lengths in Å: most atoms overlap, as if they were in nm",
    "no element": "an atom has no element; got atom 0 with atomic number 0; wanted 1 to 118",
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("command", ["distill", "sample", "label", "train"])
def test_structures_that_make_no_sense(refused, structures, tmp_path, command, kind):
    path, out = structures(_damaged_copper(kind)), tmp_path / "out"
    arguments = {
        "distill": ("distill", "--structures", path, "--teacher", EMT, "--budget", "1m", "--out", out),
        "sample": ("sample", "--structures", path, "--out", out),
        "label": ("label", path, "--teacher", EMT, "--out", out),
        "train": ("train", path, "--epochs", 1, "--out", out),
    }[command]
    assert refused(*arguments) == f"{path}, frame 0: {TEXTS[kind]}"
    assert not out.exists()


def test_files_that_are_no_structures(refused, tmp_path):
    empty, words, cut = tmp_path / "empty.xyz", tmp_path / "words.cif", tmp_path / "cut.extxyz"
    empty.write_text("")
    words.write_text("these are words\n")
    write(cut, labelled_copper(2))
    cut.write_text(cut.read_text()[:-130])
    options = ("--teacher", EMT, "--budget", "1m", "--out", tmp_path / "out")
    assert refused("distill", "--structures", empty, *options) == (
        f"{empty}: the file is empty; wanted at least one structure"
    )
    assert refused("distill", "--structures", tmp_path / "no.cif", *options) == (
        f"{tmp_path}/no.cif: no such file; wanted a structure file that ASE reads"
    )
    assert refused("distill", "--structures", words, *options).startswith(f"{words}: ")
    text = refused("distill", "--structures", cut, *options)
    assert text.startswith(
        f"{cut}, line 7 (frame 1): a frame ends before its last atom; got 3 atoms; wanted 4"
    )


def test_a_left_handed_cell_is_fine(run, structures, tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    assert np.linalg.det(atoms.cell) < 0
    code, _, err = run("label", structures(atoms), "--teacher", EMT, "--out", tmp_path / "labels")
    assert code == 0, err


def test_different_charges_in_one_set(refused, structures, tmp_path):
    ion = molecule("H2O")
    ion.info["charge"] = 1.0
    path = structures([molecule("H2O"), ion])
    assert refused("label", path, "--teacher", EMT, "--out", tmp_path / "out") == (
        f"{path}, frame 1: structures of different total charge in one set; got charge 1 here and 0 in frame 0; "
        "wanted one total charge in the set; remedy: train one student per total charge"
    )


def test_charges_that_differ_between_files(refused, tmp_path):
    one, two = labelled_copper(3), labelled_copper(3, seed=1)
    for atoms in two:
        atoms.info["charge"] = -1.0
    write(tmp_path / "one.extxyz", one)
    write(tmp_path / "two.extxyz", two)
    text = refused(
        "train", tmp_path / "one.extxyz", tmp_path / "two.extxyz", "--epochs", 1, "--out", tmp_path / "out"
    )
    assert (
        "frame 3: structures of different total charge in one set; got charge -1 here and 0 in frame 0"
        in text
    )


def test_partial_occupancy_in_a_cif(refused, tmp_path):
    path = tmp_path / "alloy.cif"
    path.write_text(
        "data_alloy\n_cell_length_a 3.6\n_cell_length_b 3.6\n_cell_length_c 3.6\n_cell_angle_alpha 90\n"
        "_cell_angle_beta 90\n_cell_angle_gamma 90\n_space_group_name_H-M_alt 'P 1'\nloop_\n_atom_site_label\n"
        "_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_occupancy\n"
        "Cu1 Cu 0 0 0 0.75\nAu1 Au 0 0 0 0.25\n"
    )
    text = refused(
        "distill", "--structures", path, "--teacher", EMT, "--budget", "1m", "--out", tmp_path / "out"
    )
    assert text == (
        f"{path}, frame 0: a site is partially occupied; got site 0 with Cu 0.75, Au 0.25; wanted one species with "
        "occupancy 1 on every site; remedy: make an ordered supercell first"
    )


def test_a_single_atom_teaches_nothing(refused, structures, tmp_path):
    path = structures(Atoms("Cu", [[0, 0, 0]]))
    text = refused(
        "distill", "--structures", path, "--teacher", EMT, "--budget", "1m", "--out", tmp_path / "out"
    )
    assert (
        text == f"{path}: a single atom has no forces to learn from; got Cu; wanted a molecule or a crystal"
    )


def test_elements_that_teacher_or_student_do_not_know(run, refused, structures, copper_file, tmp_path):
    path = structures(Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]]))
    text = refused(
        "distill", "--structures", path, "--teacher", "so3lr", "--budget", "1m", "--out", tmp_path / "a"
    )
    assert text.startswith("structure 0 (Cu2): teacher 'so3lr' was not trained on Cu; wanted H, ")
    code, _, err = run("train", copper_file, "--preset", "ultra-tiny", "--epochs", 1, "--out", tmp_path / "b")
    assert code == 0, err
    aluminium = bulk("Al", cubic=True)
    from ase.calculators.singlepoint import SinglePointCalculator

    aluminium.calc = SinglePointCalculator(aluminium, energy=0.0, forces=np.zeros((4, 3)))
    write(tmp_path / "al.extxyz", aluminium)
    assert refused("validate", tmp_path / "b/ultra-tiny.safetensors", tmp_path / "al.extxyz") == (
        "ultra-tiny: the student does not know an element; got Al; wanted Cu; remedy: train a student on "
        "structures that hold it"
    )


def test_an_element_that_a_calculator_does_not_know_is_a_failure(refused, tmp_path):
    options = ("--teacher", EMT, "--preset", "ultra-tiny", "--epochs", 1, "--out", tmp_path / "run")
    text = refused("distill", "--bulk", "Fe", *options, code=1)
    assert text.endswith(
        f"teacher '{EMT}' failed on a structure; got NotImplementedError: No EMT-potential for Fe"
    )


def test_budget_that_allows_no_epoch(refused, tmp_path):
    text = refused(
        "distill",
        "--bulk",
        "Cu",
        "--teacher",
        EMT,
        "--preset",
        "tiny",
        "--budget",
        "3s",
        "--out",
        tmp_path / "run",
    )
    head, _, tail = text.partition("; wanted at least ")
    assert head == "the budget allows no epoch; got 3 s"
    seconds, _, rest = tail.partition(" s for ")
    assert 5 < int(seconds) < 60
    assert rest.endswith(" test frames and training; remedy: raise --budget")
    # a raised budget may use the same folder
    text = refused(
        "distill",
        "--bulk",
        "Cu",
        "--teacher",
        EMT,
        "--preset",
        "tiny",
        "--budget",
        "4s",
        "--out",
        tmp_path / "run",
    )
    assert text.startswith("the budget allows no epoch; got 4 s")


def test_a_teacher_whose_package_is_missing(refused, tmp_path, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "chgnet" else real(name, *a)
    )
    text = refused(
        "distill", "--bulk", "Si", "--teacher", "chgnet", "--budget", "1m", "--out", tmp_path / "run"
    )
    assert "chgnet" in text
    assert "remedy: limbeck teachers install chgnet" in text


def test_a_full_disk_is_said_and_the_run_goes_on_later(run, refused, copper_file, tmp_path, monkeypatch):
    real = os.fsync

    def full(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").endswith(".safetensors"):
            raise OSError(28, "No space left on device")
        real(handle)

    out = tmp_path / "run"
    arguments = ("train", copper_file, "--preset", "ultra-tiny", "--epochs", 2, "--out", out)
    monkeypatch.setattr(files.os, "fsync", full)
    text = refused(*arguments, code=1)
    assert text == (
        f"{out}/train/ultra-tiny/last.safetensors: cannot write the file; got No space left on device; wanted a "
        "writable folder with free space; remedy: choose another --out or free some space; nothing was overwritten"
    )
    monkeypatch.undo()
    code, _, err = run(*arguments)
    assert code == 0, err
    assert [p.name for p in out.rglob(".*")] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("distill", "--bulk", "Cu", "--teacher", EMT, "--budget", "1m", "--out", "{}"),
        ("sample", "--bulk", "Cu", "--out", "{}"),
        ("train", "{data}", "--epochs", "1", "--out", "{}"),
        ("label", "{data}", "--teacher", EMT, "--out", "{}"),
    ],
)
def test_a_place_that_cannot_be_written(refused, copper_file, arguments):
    # /proc takes no new files, not even from root
    filled = [a.format("/proc/limbeck", data=copper_file) for a in arguments]
    text = refused(*filled, code=1)
    assert "/proc/limbeck" in text.split(";")[0]
    assert "cannot write" in text
    assert "wanted a writable folder with free space" in text


def test_an_output_that_is_something_else(refused, copper_file, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("words")
    text = refused("train", copper_file, "--epochs", 1, "--out", folder, "--overwrite")
    assert text == (
        f"{folder}: the run folder holds files of something else; wanted an empty or new folder; remedy: choose "
        "another --out"
    )
    assert (folder / "chapter1.tex").exists()
    text = refused("train", copper_file, "--epochs", 1, "--out", copper_file)
    assert text == f"{copper_file}: the run folder is a file; wanted a folder; remedy: choose another --out"


class _Trap:
    def __reduce__(self):
        return os.mkdir, (_Trap.folder,)


def test_pickled_code_is_never_executed(refused, tmp_path):
    _Trap.folder = str(tmp_path / "sprung")
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(_Trap()))
    zipped = tmp_path / "zipped.pt"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Trap(), protocol=2))
        archive.writestr("archive/version", "3\n")
    for path in (plain, zipped):
        text = refused("convert", path, "--out", tmp_path / "student.safetensors")
        assert text.startswith(f"{path}: ")
        for command in ("info", "validate"):
            assert "this is no student file" in refused(
                command, path, *([path] if command == "validate" else [])
            )
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "student.safetensors").exists()


def test_frames_go_to_no_file_named_as_another_format(refused, tmp_path):
    text = refused("sample", "--bulk", "Cu", "--out", tmp_path / "frames.cif")
    assert text.endswith(
        "frames.cif: frames are written as extended XYZ; wanted a name that ends in .extxyz or .xyz"
    )
