"""The test set stands apart: no training reads it, however the labels are stored or given."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from ase.io import read, write

from limbeck.config import LabelKeys
from limbeck.core.hashing import hash_structure
from limbeck.dataset.lint import find_copies
from limbeck.dataset.read import labelled_from_atoms, read_labelled
from limbeck.errors import InputError
from limbeck.records.label_store import LabelStore
from limbeck.workflows import distillation as distilling
from limbeck.workflows.active_learning import ActiveLearning
from limbeck.workflows.curve_data import read_curve_data
from limbeck.workflows.training_data import LabelSource, Preparation, TrainingSets, prepare_training_data

from .conftest import N_TEST, labelled_copper, small_distillation

OLD_STORE = "they are of a test set that an earlier version of Limbeck stored here"


def _hashes(frames) -> list[str]:
    return [hash_structure(atoms) for atoms in frames]


@pytest.fixture
def learned(monkeypatch):
    """The training and validation structures (hashes) of each student that ``distill`` trains."""
    seen = []

    def train(preset, sets, *arguments, **options):
        parts = (sets.train, sets.validation)
        seen.append([h for part in parts for h in _hashes(part.structures.to_atoms())])
        return real(preset, sets, *arguments, **options)

    real = distilling.train_student
    monkeypatch.setattr(distilling, "train_student", train)
    return seen


@pytest.fixture
def earlier(finished):
    """The run with its store as earlier versions left it: labels of the test set first, under a prefix."""
    with LabelStore(finished / "test") as test, LabelStore(finished / "labels") as labels:
        old = (np.char.add("heldout/", r.label.group) for r in test.records())
        prefixed = [
            replace(r, label=replace(r.label, group=g)) for r, g in zip(test.records(), old, strict=True)
        ]
        records = [*prefixed, *labels.records()]
    shutil.rmtree(finished / "test")
    shutil.rmtree(finished / "labels")
    with LabelStore(finished / "labels") as store:
        assert store.append_many(records) == 24 + N_TEST
    return finished


def test_a_run_keeps_the_labels_of_its_test_set_in_a_store_of_their_own(finished):
    test_set = set(_hashes(read(finished / "test.extxyz", ":")))
    assert len(test_set) == N_TEST
    stored = {s: _hashes(read_labelled(finished / s).structures.to_atoms()) for s in ("labels", "test")}
    assert set(stored["test"]) == test_set
    assert len(stored["labels"]) == 24
    assert not test_set & set(stored["labels"])


def test_a_store_of_an_earlier_version_is_read_without_its_test_set(
    done, importable_here, made, earlier, tmp_path
):
    init = f"--init {earlier}/ultra-tiny.safetensors --set training.cutoff=3.5"
    with pytest.warns(UserWarning, match=f"labels: {N_TEST} of 28 labels are left out: {OLD_STORE}"):
        printed = done(f"train {earlier}/labels --preset ultra-tiny --epochs 1 {init} --out {tmp_path}/next")
    assert "structures to train on" in printed.splitlines()[0]
    assert sum(int(printed.split(" ")[k]) for k in (0, 5)) == 24
    teacher = f"--teacher counting_emt:CountingEMT --set teacher.options.log={made}/evaluations.log"
    with pytest.warns(UserWarning, match=OLD_STORE):
        printed = done(
            f"label {earlier}/validation.extxyz {teacher} --out {earlier}/labels --extxyz {tmp_path}/all.extxyz"
        )
    assert "0 new labels" in printed
    assert len(read(tmp_path / "all.extxyz", ":")) == 24
    with pytest.warns(UserWarning, match=OLD_STORE):
        data = read_curve_data(earlier, LabelKeys(), 0, print)
    assert len(data.test) == N_TEST
    parts = (data.sets.train, data.sets.validation)
    used = {h for part in parts for h in _hashes(part.structures.to_atoms())}
    assert len(used) == 24
    assert not used & set(_hashes(data.test.structures.to_atoms()))


def test_a_run_of_an_earlier_version_goes_on_and_its_test_set_moves(
    done, importable_here, made, earlier, learned
):
    kept = _hashes(read(earlier / "test.extxyz", ":"))
    for name in ("metrics.json", "test.extxyz", "ultra-tiny.safetensors"):
        (earlier / name).unlink()
    shutil.rmtree(earlier / "train")
    log = made / "evaluations.log"
    before = Counter(log.read_text().split())
    assert "going on after" in done(f"distill {made}/cu.yaml --out {earlier}")
    assert _hashes(read(earlier / "test.extxyz", ":")) == kept
    test_set = set(_hashes(read(earlier / "test.extxyz", ":")))
    assert set(_hashes(read_labelled(earlier / "test").structures.to_atoms())) == test_set
    (used,) = learned
    assert len(used) == 24
    assert not test_set & set(used)
    # the teacher labelled none of them again; on the first one it is timed
    evaluated = Counter(log.read_text().split()) - before
    assert sorted(evaluated[h] for h in test_set)[: N_TEST - 1] == [0] * (N_TEST - 1)


def test_structures_of_the_test_set_do_not_train_or_validate(done, importable_here, learned, tmp_path):
    # both samplings keep the structure that they start from
    kept = {"seed": 5, "keep_starts": True}
    sampling = kept | {"steps": [{"kind": "rattle", "stdev_a": 0.08, "n": 24}]}
    test = kept | {"seed": 6, "steps": [{"kind": "rattle", "stdev_a": 0.05, "n": 3}]}
    config = small_distillation(tmp_path, sampling=sampling, test=test)
    printed = done(f"distill {config} --out {tmp_path}/run")
    assert "note: 1 of 25 labels are left out, because their structures are in the test set" in printed
    (used,) = learned
    assert len(used) == 24
    assert not set(used) & set(_hashes(read(tmp_path / "run/test.extxyz", ":")))


def test_a_validation_file_near_to_the_labels_leaks(finished, tmp_path):
    near = read(finished / "validation.extxyz", ":")
    rng = np.random.default_rng(0)
    for atoms in near:
        atoms.positions += 1e-3 * rng.normal(size=atoms.positions.shape)
        atoms.calc.atoms.positions[:] = atoms.positions  # the labels stay
    path = tmp_path / "val.extxyz"
    write(path, near)
    source = LabelSource("labels", read_labelled(finished / "labels"))
    how = Preparation(path, 0, test=read_labelled(finished / "test.extxyz"), max_force_ev_per_a=50.0)
    n = len(near)
    with pytest.raises(InputError, match=f"leak: {n} of {n} validation structures are in the training data"):
        prepare_training_data([source], how, {}, print)
    # told to pass over it, it trains; structures of the test set do not validate all the same
    write(path, [*near, *read(finished / "test.extxyz", ":2")])
    said: list[str] = []
    sets = prepare_training_data([source], replace(how, ignore=("leak",)), {}, said.append)
    assert any(line.startswith(f"note: 2 of {n + 2} labels of {path} are left out") for line in said)
    assert len(sets.validation) == n


def test_a_validation_file_is_linted_like_the_labels(refused, tmp_path):
    frames = labelled_copper(30, seed=3)
    for atoms in frames:
        atoms.calc.results["forces"] = -atoms.calc.results["forces"]
    write(tmp_path / "val.extxyz", frames)
    write(tmp_path / "own.extxyz", labelled_copper(30))
    options = f"--preset ultra-tiny --epochs 1 --val {tmp_path}/val.extxyz --out {tmp_path}/out"
    text = refused(f"train {tmp_path}/own.extxyz {options}")
    assert text.startswith(f"{tmp_path}/val.extxyz: forces-sign: ")
    assert not (tmp_path / "out/ultra-tiny.safetensors").exists()


def test_copies_of_a_test_structure_are_found_however_many_they_are():
    labelled = labelled_from_atoms(labelled_copper(20), "here")
    frames = labelled.select([3] * 12 + [7] + [0, 1, 2]).to_atoms()
    rng = np.random.default_rng(0)
    for k, atoms in enumerate(frames):
        if k < 13:  # and moved as a whole
            atoms.positions += 0.001 * rng.normal(size=(4, 3)) + [0.1 * k, 0.0, 0.0]
        else:
            atoms.positions += 0.05 * rng.normal(size=(4, 3))
    found = find_copies(labelled_from_atoms(frames, "there"), labelled.select([3, 7]))
    assert found.tolist() == [True] * 13 + [False] * 3
    assert find_copies(labelled, labelled.select([3, 7])).nonzero()[0].tolist() == [3, 7]
    assert not find_copies(labelled, labelled.select([])).any()
    assert find_copies(labelled.select([]), labelled).shape == (0,)


def test_active_learning_adds_no_structure_of_the_test_set():
    labelled = labelled_from_atoms(labelled_copper(12), "here")
    sets = TrainingSets(labelled.select([0, 1, 2]), labelled.select([3]), None, "", {})
    said: list[str] = []
    run = SimpleNamespace(config=SimpleNamespace(val=0.1, seed=0), say=said.append)
    evaluation = SimpleNamespace(test=labelled.select([10, 11]))
    loop = ActiveLearning(run, None, evaluation, [], None)  # type: ignore[arg-type]
    joined = loop._joined(sets, labelled.select([4, 10, 5]))
    np.testing.assert_array_equal(joined.train.labels.energy, labelled.labels.energy[[0, 1, 2, 4, 5]])
    assert said == ["note: 1 of 3 labels are left out, because their structures are in the test set"]
    assert loop._joined(sets, labelled.select([11])) is sets


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
    sets = prepare_training_data([numbered], how, {}, said.append)
    assert len(sets.train) + len(sets.validation) == 21
    left_out = [f"frame {k}" for k in range(100, 105)]
    assert [line.split(" left out: force of")[0] for line in said] == [
        *left_out,
        "... and 4 more labels left out",
    ]
