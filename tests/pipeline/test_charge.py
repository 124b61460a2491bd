"""One total charge and spin a student, from the file to the card and back: lint, label, train, validate, distill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from limbeck.artifact.file import read_card, read_student, write_student
from limbeck.core.charge import ChargeState
from limbeck.core.checks import suits
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError
from limbeck.export.formats import make_metadata
from limbeck.report.card import model_card
from limbeck.runtime.calculator import Calculator
from limbeck.runtime.released import find_student
from tests.students.tools import random_record

TEACHER = "ase.calculators.emt:EMT"
DECLARED = "teacher.options.capabilities={charge: true, spin: true}"


def methanol(n: int, seed: int = 0, **info: object) -> list[Atoms]:
    """Rattled molecules with EMT's labels, which stand for those of any charge."""
    frames = []
    for k in range(n):
        atoms = molecule("CH3OH")
        atoms.rattle(0.05, seed=100 * seed + k)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info.update(info)
        frames.append(atoms)
    return frames


@pytest.fixture
def labels(tmp_path):
    """labels(name, frames) -> the file that they were written to."""

    def _write(name: str, frames: list[Atoms]) -> Path:
        write(tmp_path / f"{name}.extxyz", frames)
        return tmp_path / f"{name}.extxyz"

    return _write


@pytest.mark.parametrize("key", ["charge", "total_charge", "overall_charge"])
@pytest.mark.parametrize("command", ["lint", "train", "label"])
def test_mixed_charges_are_refused(refused, labels, tmp_path, command, key):
    path = labels("mixed", [*methanol(6, **{key: 0}), *methanol(6, 1, **{key: 1})])
    out = tmp_path / "out"
    arguments = {
        "lint": ("lint", path),
        "train": ("train", path, "--epochs", 1, "--out", out),
        "label": ("label", path, "--teacher", TEACHER, "--set", DECLARED, "--out", out),
    }[command]
    assert refused(*arguments).startswith(
        f"{path}, frame 6: structures of different total charge in one set; got charge 1 here and 0 in frame 0; "
    )
    assert not out.exists()


def test_files_of_different_charge(refused, labels, tmp_path):
    neutral, cation = labels("neutral", methanol(6)), labels("cation", methanol(6, 1, total_charge=1))
    text = f"{neutral}, {cation}, frame 6: structures of different total charge in one set"
    assert refused("lint", neutral, cation).startswith(text)
    assert refused("lint", neutral, "--val", cation).startswith(text)
    run = ("train", neutral, "--preset", "ultra-tiny", "--epochs", 1, "--out", tmp_path / "run")
    assert "different total charge" in refused(*run, "--val", cation)
    spins = labels("spins", [*methanol(6, spin=1), *methanol(6, 1, total_spin=3)])
    assert "frame 6: structures of different spin in one set; got multiplicity 3 here" in refused(
        "lint", spins
    )


def test_a_student_of_cations(run, refused, labels, tmp_path):
    hydrogen = Atoms("H", info={"spin": 2})
    hydrogen.calc = SinglePointCalculator(hydrogen, energy=3.21)
    cations = labels("cations", [hydrogen, *methanol(20, total_charge=1, multiplicity=2)])
    out = tmp_path / "run"
    train = ("train", "--preset", "ultra-tiny", "--epochs", 1)
    code, _, err = run(*train, cations, "--out", out)
    assert code == 0, err
    student = out / "ultra-tiny.safetensors"

    card = read_card(student)
    assert (card["total_charge"], card["spin_multiplicity"]) == (1.0, 2)
    assert "total_charge: 1.0" in run("info", student)[1]
    assert "For structures of total charge +1, spin multiplicity 2" in model_card(card, "ultra-tiny")
    held = read(out / "validation.extxyz", ":")
    assert {(a.info["charge"], a.info["spin"]) for a in held} == {(1.0, 2)}
    written = make_metadata(read_student(student), student_hash="", name="x", quantisation=None)
    assert (written["total_charge"], written["spin_multiplicity"]) == (1.0, 2)

    # used on what says the same, or nothing; warnings of limbeck are errors here
    strict = Calculator(student, strict=True, threads=1)
    for info in ({"charge": 1}, {}):
        atoms = molecule("CH3OH")
        atoms.info.update(info)
        assert np.isfinite(strict.get_potential_energy(atoms))

    same, silent = labels("same", methanol(3, 2, charge=1)), labels("silent", methanol(3, 2))
    for data in (same, silent):
        code, _, err = run("validate", student, data)
        assert code == 0, err
    anions = labels("anions", methanol(3, 2, overall_charge=-1))
    assert refused("validate", student, anions) == (
        f"{anions}: structures of another total charge or spin than the student's; got total charge -1; wanted total "
        "charge +1, spin multiplicity 2; remedy: train a student on these, or correct their entries"
    )
    assert refused(*train, labels("neutral", methanol(20)), "--init", student, "--out", tmp_path / "b") == (
        f"{student}: the student to start from is of another total charge or spin; got total charge +1, spin "
        "multiplicity 2; wanted total charge 0, as the data; remedy: start without --init"
    )
    code, _, err = run(*train, cations, "--init", student, "--out", tmp_path / "c")
    assert code == 0, err


def test_which_labels_suit_a_student():
    def batch(**info: object) -> StructureBatch:
        return StructureBatch.from_atoms(methanol(1, **info))

    neutral, cation = ChargeState(), ChargeState(1.0, 2)
    for student, info, well in (
        (neutral, {}, True), (neutral, {"spin": 3}, True), (neutral, {"charge": 1}, False),
        (cation, {}, True), (cation, {"charge": 1}, True), (cation, {"charge": -1}, False),
        (cation, {"charge": 1, "spin": 4}, False),
    ):  # fmt: skip
        assert suits(student, batch(**info)) == well, (student, info)


def test_a_student_file_without_a_charge_is_neutral(run, tmp_path):
    record = read_student(find_student("3bpa-tiny"))
    assert "total_charge" not in record.card
    assert record.state == ChargeState(0.0, 0)
    assert "total_charge: 0.0" in run("info", "3bpa-tiny")[1]
    cation = replace(record, card=record.card | ChargeState(1.0, 2).on_card())
    write_student(tmp_path / "cation.safetensors", cation)
    # the C++ reader takes the new entries too
    atoms = molecule("CH3CH2OH")
    plain, charged = (
        Calculator("3bpa-tiny", threads=1),
        Calculator(tmp_path / "cation.safetensors", threads=1),
    )
    assert plain.get_potential_energy(atoms) == charged.get_potential_energy(atoms)


@pytest.mark.slow  # it starts five teachers
def test_a_callable_must_declare_charges(run, refused, labels, tmp_path):
    ions, neutral = labels("ions", methanol(3, total_charge=1, spin=2)), labels("neutral", methanol(3, 1))
    store = tmp_path / "labels"
    text = refused("label", ions, "--teacher", TEACHER, "--out", store)
    assert "does not treat a total charge; got total charge 1; wanted total charge 0, or no entry" in text
    assert "'teacher.options.capabilities={charge: true}'" in text
    label = ("label", "--teacher", TEACHER, "--set", DECLARED, "--out", store)
    code, _, err = run(*label, ions, "--extxyz", tmp_path / "out.extxyz")
    assert code == 0, err
    found = read(tmp_path / "out.extxyz", ":")
    assert [(a.info["charge"], a.info["spin"]) for a in found] == [(1.0, 2)] * 3
    # a store that no student could learn from is not made
    assert f"{store} and the new frames, frame 3: structures of different total charge" in refused(
        *label, neutral
    )
    sampled = tmp_path / "frames.extxyz"
    md = "sampling.steps=[{kind: md, temperature_K: 300, frames: 2, every_fs: 1, equilibrate_fs: 1}]"
    sample = ("sample", "--structures", ions, "--teacher", TEACHER, "--set", md, "--out", sampled)
    assert "does not treat a total charge" in refused(*sample)
    code, _, err = run(*sample, "--set", DECLARED)
    assert code == 0, err
    assert {(a.info["charge"], a.info["spin"]) for a in read(sampled, ":")} == {(1.0, 2)}


def test_distilling_a_charged_smiles(run, refused, tmp_path):
    pytest.importorskip("rdkit")
    distill = (
        "distill", "--smiles", "[NH4+]", "--teacher", TEACHER, "--preset", "ultra-tiny", "--out", tmp_path / "run",
        "--set", "sampling.steps=[{kind: rattle, stdev_a: 0.05, n: 12}]",
        "--set", "test.steps=[{kind: rattle, stdev_a: 0.04, n: 4}]", "--set", "test.seed=7",
        "--set", "training.epochs=1", "--set", "validation.onpolicy_frames=2", "--set", "validation.nve_fs=5",
    )  # fmt: skip
    assert "does not treat a total charge" in refused(*distill)
    code, _, err = run(*distill, "--set", DECLARED, "--overwrite")
    assert code == 0, err
    assert "OutOfDomainWarning" not in err
    assert read_card(tmp_path / "run" / "ultra-tiny.safetensors")["total_charge"] == 1.0
    assert {a.info["charge"] for a in read(tmp_path / "run" / "test.extxyz", ":")} == {1.0}


@pytest.fixture
def field() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared" / "field"
    if not folder.is_dir():
        pytest.skip(f"no files from the field at {folder}")
    return folder


def test_files_from_the_field(run, refused, field, tmp_path):
    mixed = field / "macepolar_mixed.xyz"
    for command in (("lint",), ("train", "--epochs", 1, "--out", tmp_path / "a"),
                    ("label", "--teacher", TEACHER, "--out", tmp_path / "b")):  # fmt: skip
        text = refused(command[0], mixed, *command[1:])
        assert (
            "frame 1: structures of different total charge in one set; got charge 1 here and 0 in frame 0"
            in text
        )
    cations = field / "omol_all_cations.xyz"
    assert run("lint", cations)[0] == 0
    code, _, err = run("train", cations, "--preset", "ultra-tiny", "--epochs", 1, "--out", tmp_path / "c")
    assert code == 0, err
    card = read_card(tmp_path / "c" / "ultra-tiny.safetensors")
    assert (card["total_charge"], card["spin_multiplicity"]) == (1.0, 2)


def test_an_export_tells_the_charge_once(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from limbeck.export import run as exporting

    def refuse(*_: object) -> None:
        raise LimbeckError("no file: tracing and certificates take their time")

    monkeypatch.setattr(exporting, "_prepare", lambda *_: None)
    monkeypatch.setattr(exporting, "_export_one", refuse)
    for state, told in ((ChargeState(-2.0), ["total charge -2"]), (ChargeState(), [])):
        path, said = tmp_path / "student.safetensors", []
        write_student(path, replace(random_record(), card=state.on_card()))
        exporting.export_student(path, ("torchscript", "torch-export"), tmp_path, None, said.append)
        assert len(said) == 2 + len(told)
        assert all(text in said[0] for text in told)
