"""The test set stands apart: no training reads it, however the labels are stored or given."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from ase.io import read, write

from limbeck import cli
from limbeck.config import LabelKeys
from limbeck.core.hashing import hash_structure
from limbeck.dataset.lint import find_copies
from limbeck.dataset.read import labelled_from_atoms, read_labelled
from limbeck.errors import InputError
from limbeck.labelling.store import LabelStore
from limbeck.pipeline import distilling
from limbeck.pipeline.active_learning import ActiveLearning
from limbeck.pipeline.curve_data import read_curve_data
from limbeck.pipeline.training_data import LabelSource, Lesson, Preparation, prepare_training_data
from tests.pipeline.conftest import labelled_copper

N_TEST = 4
FEW_CHECKS = {"training": {"epochs": 1}, "validation": {"onpolicy_frames": 0, "nve_fs": 0}}
OLD_STORE = "they are of a test set, which earlier versions of Limbeck stored here"


def _config(tmp_path, **changes):
    values = {
        "bulk": "Cu",
        "teacher": {"name": "counting_emt:CountingEMT", "options": {"log": str(tmp_path / "evaluations.log")}},
        "presets": ["ultra-tiny"],
        "sampling": {"seed": 1, "steps": [{"kind": "rattle", "stdev_a": 0.08, "n": 24}]},
        "test": {"seed": 101, "steps": [{"kind": "md", "temperature_K": 300, "frames": N_TEST, "every_fs": 20,
                                            "equilibrate_fs": 40, "timestep_fs": 4}]},
        **FEW_CHECKS,
        **changes,
    }  # fmt: skip
    path = tmp_path / "cu.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def _hashes(frames):
    return [hash_structure(atoms) for atoms in frames]


@pytest.fixture
def learned(monkeypatch):
    """The training and validation structures (hashes) of each student that ``distill`` trains."""
    seen = []

    def train(preset, lesson, *arguments, **options):
        seen.append({p: _hashes(getattr(lesson, p).structures.to_atoms()) for p in ("train", "validation")})
        return real(preset, lesson, *arguments, **options)

    real = distilling.train_student
    monkeypatch.setattr(distilling, "train_student", train)
    return seen


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a finished run, its configuration and what the teacher evaluated."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        assert cli.main(["distill", str(_config(folder)), "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def finished(made, tmp_path):
    """A copy of that run."""
    return shutil.copytree(made / "run", tmp_path / "run")


@pytest.fixture
def earlier(finished):
    """The same, with the store as earlier versions left it: labels of the test set first, under a prefix."""
    with LabelStore(finished / "test") as test, LabelStore(finished / "labels") as labels:
        records = [*test.records(), *labels.records()]
    shutil.rmtree(finished / "test")
    shutil.rmtree(finished / "labels")
    with LabelStore(finished / "labels") as store:
        assert store.append_many(records) == 24 + N_TEST
    return finished


def test_a_run_keeps_the_labels_of_its_test_set_in_a_store_of_their_own(finished):
    test_set = set(_hashes(read(finished / "test.extxyz", ":")))
    assert len(test_set) == N_TEST
    stored = {s: read_labelled(finished / s).structures.to_atoms() for s in ("labels", "test")}
    assert set(_hashes(stored["test"])) == test_set
    assert len(stored["labels"]) == 24
    assert not test_set & set(_hashes(stored["labels"]))


def test_training_on_a_store_of_an_earlier_version_leaves_its_test_set_out(
    run, importable_here, made, earlier, tmp_path
):
    options = ("--preset", "ultra-tiny", "--epochs", 1, "--init", earlier / "ultra-tiny.safetensors")
    with pytest.warns(UserWarning, match=f"labels: {N_TEST} of 28 labels are left out: {OLD_STORE}"):
        code, printed, err = run("train", earlier / "labels", *options, "--out", tmp_path / "next")
    assert code == 0, err
    n_train, n_val = (int(line.split(" ")[k]) for line in printed.splitlines()[:1] for k in (0, 5))
    assert "structures to train on" in printed.splitlines()[0]
    assert n_train + n_val == 24
    teacher = (
        "--teacher",
        "counting_emt:CountingEMT",
        "--set",
        f"teacher.options.log={made}/evaluations.log",
    )
    exported = ("--out", earlier / "labels", "--extxyz", tmp_path / "all.extxyz")
    with pytest.warns(UserWarning, match=OLD_STORE):
        code, printed, err = run("label", earlier / "validation.extxyz", *teacher, *exported)
    assert code == 0, err
    assert "0 new labels" in printed
    assert len(read(tmp_path / "all.extxyz", ":")) == 24


def test_a_learning_curve_of_an_earlier_version_leaves_its_test_set_out(earlier):
    with pytest.warns(UserWarning, match=OLD_STORE):
        data = read_curve_data(earlier, LabelKeys(), 0, print)
    assert len(data.test) == N_TEST
    parts = (data.lesson.train, data.lesson.validation)
    used = {h for part in parts for h in _hashes(part.structures.to_atoms())}
    assert len(used) == 24
    assert not used & set(_hashes(data.test.structures.to_atoms()))


def test_a_run_of_an_earlier_version_goes_on_and_its_test_set_moves(
    run, importable_here, made, earlier, learned
):
    kept = (earlier / "test.extxyz").read_text()
    for name in ("metrics.json", "test.extxyz", "ultra-tiny.safetensors"):
        (earlier / name).unlink()
    shutil.rmtree(earlier / "train")
    log = made / "evaluations.log"
    log.unlink()
    code, printed, err = run("distill", made / "cu.yaml", "--out", earlier)
    assert code == 0, err
    assert "going on after" in printed
    assert (earlier / "test.extxyz").read_text() == kept
    test_set = set(_hashes(read(earlier / "test.extxyz", ":")))
    assert set(_hashes(read_labelled(earlier / "test").structures.to_atoms())) == test_set
    (student,) = learned
    assert len(student["train"]) + len(student["validation"]) == 24
    assert not test_set & {*student["train"], *student["validation"]}
    # the teacher labelled none of them again; on the first one it is timed
    evaluated = Counter(log.read_text().split())
    assert sorted(evaluated[h] for h in test_set)[: N_TEST - 1] == [0] * (N_TEST - 1)


def test_structures_of_the_test_set_do_not_train_or_validate(run, importable_here, learned, tmp_path):
    # both samplings keep the structure that they start from
    config = yaml.safe_load(_config(tmp_path).read_text())
    for part in ("sampling", "test"):
        config[part]["keep_starts"] = True
    code, printed, err = run("distill", _config(tmp_path, **config), "--out", tmp_path / "run")
    assert code == 0, err
    assert "note: 1 of 25 labels are left out, because their structures are in the test set" in printed
    (student,) = learned
    assert len(student["train"]) + len(student["validation"]) == 24
    test_set = set(_hashes(read(tmp_path / "run/test.extxyz", ":")))
    assert not test_set & {*student["train"], *student["validation"]}


def test_a_validation_file_is_linted_like_the_labels(refused, importable_here, tmp_path):
    frames = labelled_copper(30, seed=3)
    for atoms in frames:
        atoms.calc.results["forces"] = -atoms.calc.results["forces"]
    write(tmp_path / "val.extxyz", frames)
    for command in ("distill", "train"):
        write(tmp_path / "own.extxyz", labelled_copper(30))
        given = _config(tmp_path) if command == "distill" else tmp_path / "own.extxyz"
        options = () if command == "distill" else ("--preset", "ultra-tiny", "--epochs", 1)
        out = tmp_path / command
        text = refused(command, given, *options, "--val", tmp_path / "val.extxyz", "--out", out)
        assert text.startswith(f"{tmp_path}/val.extxyz: forces-sign: "), command
        assert not (out / "ultra-tiny.safetensors").exists()


def test_a_validation_file_near_to_the_labels_leaks(run, refused, importable_here, finished, tmp_path):
    near = read(finished / "validation.extxyz", ":")
    rng = np.random.default_rng(0)
    for atoms in near:
        atoms.positions += 1e-3 * rng.normal(size=atoms.positions.shape)
        atoms.calc.atoms.positions[:] = atoms.positions  # the labels stay
    path = tmp_path / "val.extxyz"
    write(path, near)
    command = ("distill", _config(tmp_path), "--val", path)
    text = refused(*command, "--out", tmp_path / "one")
    assert "leak: " in text
    assert f"{len(near)} of {len(near)} validation structures are in the training data, or within" in text
    # told to pass over it, it trains; structures of the test set do not validate all the same
    write(path, [*near, *read(finished / "test.extxyz", ":2")])
    code, printed, err = run(*command, "--set", "lint.ignore=[leak]", "--out", tmp_path / "two")
    assert code == 0, err
    assert f"note: 2 of {len(near) + 2} labels of {path} are left out" in printed
    assert f"{len(near)} in the validation set" in printed


def test_copies_of_a_test_structure_are_found_however_many_they_are():
    labelled = labelled_from_atoms(labelled_copper(20), "here")
    frames = labelled.select([3] * 12 + [7] + [0, 1, 2]).to_atoms()
    rng = np.random.default_rng(0)
    for k, atoms in enumerate(frames[:13]):
        atoms.positions += 0.001 * rng.normal(size=(4, 3)) + [0.1 * k, 0.0, 0.0]  # and moved as a whole
    for atoms in frames[13:]:
        atoms.positions += 0.05 * rng.normal(size=(4, 3))
    found = find_copies(labelled_from_atoms(frames, "there"), labelled.select([3, 7]))
    assert found.tolist() == [True] * 13 + [False] * 3
    assert find_copies(labelled, labelled.select([3, 7])).nonzero()[0].tolist() == [3, 7]
    assert not find_copies(labelled, labelled.select([])).any()
    assert find_copies(labelled.select([]), labelled).shape == (0,)


def test_active_learning_adds_no_structure_of_the_test_set():
    labelled = labelled_from_atoms(labelled_copper(12), "here")
    lesson = Lesson(labelled.select([0, 1, 2]), labelled.select([3]), None, "", {})
    said: list[str] = []
    config = SimpleNamespace(val=0.1, seed=0)
    trial = SimpleNamespace(test=labelled.select([10, 11]))
    run = SimpleNamespace(config=config, say=said.append)
    loop = ActiveLearning(run, None, trial, [], None)  # type: ignore[arg-type]
    joined = loop._joined(lesson, labelled.select([4, 10, 5]))
    np.testing.assert_array_equal(joined.train.labels.energy, labelled.labels.energy[[0, 1, 2, 4, 5]])
    assert said == ["note: 1 of 3 labels are left out, because their structures are in the test set"]
    assert loop._joined(lesson, labelled.select([11])) is lesson


def test_large_forces_are_a_wrong_unit_in_a_file_and_left_out_of_a_teachers_labels():
    """Lint sees the labels as they were read; what the audit leaves out has the numbers of its frames."""
    frames = labelled_copper(30)
    for atoms in frames[:9]:
        atoms.calc.results["forces"] = 1000.0 * atoms.calc.results["forces"]
    source = LabelSource("own.extxyz", labelled_from_atoms(frames, "here"))
    with pytest.raises(InputError, match=r"^own\.extxyz: forces-large: "):
        prepare_training_data([source], Preparation(0.1, 0), {}, print)
    said: list[str] = []
    numbered = replace(source, frames=np.arange(100, 130))
    how = Preparation(0.1, 0, max_force_ev_per_a=50.0)
    lesson = prepare_training_data([numbered], how, {}, said.append)
    assert len(lesson.train) + len(lesson.validation) == 21
    assert [line.split(" left out: force of")[0] for line in said] == [
        *(f"frame {k}" for k in range(100, 105)),
        "... and 4 more labels left out",
    ]
