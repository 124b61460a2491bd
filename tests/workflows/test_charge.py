"""One total charge and spin a student, from the file to the card and back: lint, label, train, validate, distill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from limbeck.artifact.file import read_card, read_student, write_student
from limbeck.core.charge import ChargeState
from limbeck.core.checks import suits
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError
from limbeck.export.formats import make_metadata
from limbeck.report.card import model_card
from limbeck.runtime.released import find_student
from limbeck.runtime.student import Calculator
from tests.students.tools import random_record

from .conftest import labelled

TEACHER = "--teacher ase.calculators.emt:EMT"
DECLARED = "--set 'teacher.options.capabilities={charge: true, spin: true}'"
TRAIN = "train --preset ultra-tiny --epochs 1"
MIXED = "structures of different total charge in one set"


def methanol(n: int, seed: int = 0, **info: object) -> list[Atoms]:
    """Rattled molecules with EMT's labels, which stand for those of any charge."""
    frames = [molecule("CH3OH") for _ in range(n)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=100 * seed + k)
        labelled(atoms).info.update(info)
    return frames


@pytest.fixture
def labels(tmp_path):
    """labels(name, frames) -> the file that they were written to."""

    def _write(name: str, frames: list[Atoms]) -> Path:
        write(tmp_path / f"{name}.extxyz", frames)
        return tmp_path / f"{name}.extxyz"

    return _write


@pytest.mark.parametrize("key", ["charge", "total_charge", "overall_charge"])
@pytest.mark.parametrize("command", ["lint", f"{TRAIN} --out OUT", f"label {TEACHER} {DECLARED} --out OUT"])
def test_mixed_charges_are_refused(refused, labels, tmp_path, command, key):
    path, out = labels("mixed", [*methanol(6, **{key: 0}), *methanol(6, 1, **{key: 1})]), tmp_path / "out"
    text = refused(f"{command.replace('OUT', str(out))} {path}")
    assert text.startswith(f"{path}, frame 6: {MIXED}; got charge 1 here and 0 in frame 0; ")
    assert not out.exists()


def test_files_of_different_charge(refused, labels, tmp_path):
    neutral, cation = labels("neutral", methanol(6)), labels("cation", methanol(6, 1, total_charge=1))
    for command in (
        "lint {} {}",
        "lint {} --val {}",
        TRAIN + " {} {} --out {}",
        TRAIN + " {} --val {} --out {}",
    ):
        assert f"frame {1 if '--val' in command and 'train' in command else 6}: {MIXED}" in refused(
            command.format(neutral, cation, tmp_path / "run")
        )
    spins = labels("spins", [*methanol(6, spin=1), *methanol(6, 1, total_spin=3)])
    text = "frame 6: structures of different spin in one set; got multiplicity 3 here"
    assert text in refused(f"lint {spins}")


def test_a_student_of_cations(done, refused, labels, tmp_path):
    hydrogen = Atoms("H", info={"spin": 2})
    hydrogen.calc = SinglePointCalculator(hydrogen, energy=3.21)
    cations = labels("cations", [hydrogen, *methanol(20, total_charge=1, multiplicity=2)])
    done(f"{TRAIN} {cations} --out {tmp_path}/run")
    student = tmp_path / "run/ultra-tiny.safetensors"

    card = read_card(student)
    assert (card["total_charge"], card["spin_multiplicity"]) == (1.0, 2)
    assert "total_charge: 1.0" in done(f"info {student}")
    assert "For structures of total charge +1, spin multiplicity 2" in model_card(card, "ultra-tiny")
    held = read(tmp_path / "run/validation.extxyz", ":")
    assert {(a.info["charge"], a.info["spin"]) for a in held} == {(1.0, 2)}
    written = make_metadata(read_student(student), student_hash="", name="x", quantisation=None)
    assert (written["total_charge"], written["spin_multiplicity"]) == (1.0, 2)

    # used on what says the same, or nothing; warnings of limbeck are errors here
    strict = Calculator(student, strict=True, threads=1)
    for info in ({"charge": 1}, {}):
        atoms = molecule("CH3OH")
        atoms.info.update(info)
        assert np.isfinite(strict.get_potential_energy(atoms))
        done(f"validate {student} {labels('own', methanol(3, 2, **info))}")
    anions = labels("anions", methanol(3, 2, overall_charge=-1))
    text = refused(f"validate {student} {anions}")
    assert text.startswith(f"{anions}: structures of another total charge or spin than the student's; ")
    assert "got total charge -1; wanted total charge +1, spin multiplicity 2;" in text
    text = refused(f"{TRAIN} {labels('neutral', methanol(20))} --init {student} --out {tmp_path}/b")
    assert text.startswith(f"{student}: the student to start from is of another total charge or spin; ")
    assert "got total charge +1, spin multiplicity 2; wanted total charge 0, as the data;" in text
    done(f"{TRAIN} {cations} --init {student} --out {tmp_path}/c")


def test_which_labels_suit_a_student():
    neutral, cation = ChargeState(), ChargeState(1.0, 2)
    for student, info, well in (
        (neutral, {}, True), (neutral, {"spin": 3}, True), (neutral, {"charge": 1}, False),
        (cation, {}, True), (cation, {"charge": 1}, True), (cation, {"charge": -1}, False),
        (cation, {"charge": 1, "spin": 4}, False),
    ):  # fmt: skip
        assert suits(student, StructureBatch.from_atoms(methanol(1, **info))) == well, (student, info)


def test_a_student_file_without_a_charge_is_neutral(done, tmp_path):
    record = read_student(find_student("3bpa-tiny"))
    assert "total_charge" not in record.card
    assert record.state == ChargeState(0.0, 0)
    assert "total_charge: 0.0" in done("info 3bpa-tiny")
    path = tmp_path / "cation.safetensors"
    write_student(path, replace(record, card=record.card | ChargeState(1.0, 2).on_card()))
    # the C++ reader takes the new entries too
    atoms = molecule("CH3CH2OH")
    plain, charged = (Calculator(student, threads=1) for student in ("3bpa-tiny", path))
    assert plain.get_potential_energy(atoms) == charged.get_potential_energy(atoms)


@pytest.mark.slow  # it starts five teachers
def test_a_callable_must_declare_charges(done, refused, labels, tmp_path):
    ions, neutral = labels("ions", methanol(3, total_charge=1, spin=2)), labels("neutral", methanol(3, 1))
    store = tmp_path / "labels"
    text = refused(f"label {ions} {TEACHER} --out {store}")
    assert "does not treat a total charge; got total charge 1; wanted total charge 0, or no entry" in text
    assert "'teacher.options.capabilities={charge: true}'" in text
    label = f"label {TEACHER} {DECLARED} --out {store}"
    done(f"{label} {ions} --extxyz {tmp_path}/out.extxyz")
    found = read(tmp_path / "out.extxyz", ":")
    assert [(a.info["charge"], a.info["spin"]) for a in found] == [(1.0, 2)] * 3
    # a store that no student could learn from is not made
    assert f"{store} and the new frames, frame 3: {MIXED}" in refused(f"{label} {neutral}")
    sampled = tmp_path / "frames.extxyz"
    md = "--set 'sampling.steps=[{kind: md, temperature_K: 300, frames: 2, every_fs: 1, equilibrate_fs: 1}]'"
    sample = f"sample --structures {ions} {TEACHER} {md} --out {sampled}"
    assert "does not treat a total charge" in refused(sample)
    done(f"{sample} {DECLARED}")
    assert {(a.info["charge"], a.info["spin"]) for a in read(sampled, ":")} == {(1.0, 2)}


def test_distilling_a_charged_smiles(run, refused, tmp_path):
    pytest.importorskip("rdkit")
    steps = "'{}.steps=[{{kind: rattle, stdev_a: 0.05, n: {}}}]'"
    distill = (
        f"distill --smiles [NH4+] {TEACHER} --preset ultra-tiny --epochs 1 --out {tmp_path}/run "
        f"--set {steps.format('sampling', 12)} --set {steps.format('test', 4)} --set test.seed=7 "
        "--set validation.onpolicy_frames=2 --set validation.nve_fs=5"
    )
    assert "does not treat a total charge" in refused(distill)
    code, _, err = run(f"{distill} {DECLARED} --overwrite")
    assert code == 0, err
    assert "OutOfDomainWarning" not in err
    assert read_card(tmp_path / "run" / "ultra-tiny.safetensors")["total_charge"] == 1.0
    assert {a.info["charge"] for a in read(tmp_path / "run" / "test.extxyz", ":")} == {1.0}


def test_files_from_the_field(done, refused, shared_field, tmp_path):
    mixed = shared_field / "macepolar_mixed.xyz"
    for command in ("lint", f"{TRAIN} --out {tmp_path}/a", f"label {TEACHER} --out {tmp_path}/b"):
        assert f"frame 1: {MIXED}; got charge 1 here and 0 in frame 0" in refused(f"{command} {mixed}")
    cations = shared_field / "omol_all_cations.xyz"
    done(f"lint {cations}")
    done(f"{TRAIN} {cations} --out {tmp_path}/c")
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
