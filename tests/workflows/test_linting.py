"""Lint as a command and before training: exit codes, lines, what stops and what is passed over."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from ase.io import write

from limbeck import cli
from limbeck.config import load_train_config
from limbeck.dataset.lint import Expected
from limbeck.errors import InputError
from limbeck.records.label_store import LabelStore
from limbeck.workflows.lint import preflight
from tests.dataset.corrupting import forces_flipped, repeated, scaled
from tests.dataset.systems import alloy_frames, labelled_by_emt


@pytest.fixture(scope="module")
def data():
    return labelled_by_emt(alloy_frames(40))


@pytest.fixture
def run(capsys):
    def _run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return _run


def test_clean_data(data, tmp_path, run):
    write(tmp_path / "clean.extxyz", data.to_atoms())
    code, out, err = run("lint", tmp_path / "clean.extxyz", "--elements", "Cu, Au")
    assert (code, out, err) == (0, "0 errors, 0 warnings in 40 structures\n", "")


def test_errors_exit_with_one(data, tmp_path, run):
    write(tmp_path / "a.extxyz", data.to_atoms())
    write(tmp_path / "b.extxyz", forces_flipped(data, [3, 7]).select(np.arange(10)).to_atoms())
    report = tmp_path / "report.json"
    code, out, _ = run("lint", tmp_path / "a.extxyz", tmp_path / "b.extxyz", "--json", report)
    assert code == 1
    assert "in 50 structures" in out.splitlines()[-1]
    values = json.loads(report.read_text())
    found = {f["code"]: f["frames"] for f in values["findings"]}
    assert found["frames-sign"] == [f"{tmp_path / 'b.extxyz'}:{k}" for k in (3, 7)]
    assert values["structures"] == 50


def test_ignored_errors_do_not_count(data, tmp_path, run):
    write(tmp_path / "b.extxyz", forces_flipped(data, [3]).to_atoms())
    assert run("lint", tmp_path / "b.extxyz")[0] == 1
    assert run("lint", tmp_path / "b.extxyz", "--ignore", "frames-sign,duplicates")[0] == 0
    code, _, err = run("lint", tmp_path / "b.extxyz", "--ignore", "frame-sign")
    assert code == 2
    assert "did you mean 'frames-sign'?" in err


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "the file is empty"), ("3\nno more\nCu 0 0 0\n", "a frame ends before its last atom")],
)
def test_unreadable_input_exits_with_two(tmp_path, run, content, words):
    (tmp_path / "bad.extxyz").write_text(content)
    code, out, err = run("lint", tmp_path / "bad.extxyz")
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_unknown_element_and_keys(data, tmp_path, run):
    write(tmp_path / "clean.extxyz", data.to_atoms())
    assert "no such element; got 'Xy'" in run("lint", tmp_path / "clean.extxyz", "--elements", "Cu,Xy")[2]
    code, _, err = run("lint", tmp_path / "clean.extxyz", "--energy-key", "dft_energy")
    assert code == 2
    assert "name the entry with --energy-key" in err


def test_a_store_in_a_run_is_held_against_its_starting_structures(data, tmp_path, run):
    frames = data.select(np.arange(3)).to_atoms()
    with LabelStore(tmp_path / "labels") as store:
        for record in _records(frames):
            store.append(record)
    assert run("lint", tmp_path / "labels")[0] == 0
    start = frames[0].copy()
    start.numbers[0] = 1
    write(tmp_path / "structures.extxyz", start)
    code, out, _ = run("lint", tmp_path / "labels")
    assert code == 1
    assert out.startswith("error elements-missing: no structure holds H")


def _records(frames):
    from limbeck.core.labels import Labels
    from limbeck.records.label_record import TeacherIdentity, make_record

    fields = TeacherIdentity.__dataclass_fields__
    identity = TeacherIdentity(**dict.fromkeys(fields, "emt"))
    for k, frame in enumerate(frames):
        labels = Labels(np.array([frame.get_potential_energy()]), frame.get_forces())
        yield make_record(frame, labels, identity, k)


def test_preflight_stops_at_errors(data):
    said: list[str] = []
    with pytest.raises(InputError) as caught:
        preflight([("my.extxyz", scaled(data, forces=-1))], (), said.append)
    text = str(caught.value)
    assert text.startswith("my.extxyz: forces-sign: energies fall")
    assert (
        "remedy: see limbeck lint my.extxyz; to train all the same: --set 'lint.ignore=[forces-sign]'" in text
    )
    preflight(
        [("my.extxyz", scaled(data, forces=-1))], ["forces-sign", "stress-sign", "stress-unit"], said.append
    )


def test_preflight_says_warnings_and_no_notes(data):
    said: list[str] = []
    preflight([("my.extxyz", data)], (), said.append)
    assert not said
    preflight([("my.extxyz", repeated(data, [1, 2, 3]))], (), said.append)
    assert [line.split(":")[0] for line in said] == ["warning duplicates"]
    with pytest.raises(InputError, match="elements-missing"):
        preflight([("my.extxyz", data)], (), said.append, Expected(elements=(1, 29, 79)))


def test_few_strange_labels_of_a_teacher_are_left_out_and_many_stop(data):
    said: list[str] = []
    few = forces_flipped(data, [3])
    assert preflight([("run", few)], (), said.append, spare=0.03).tolist() == [3]
    assert said[0].startswith("warning frames-sign")
    assert said[0].endswith("frame 3; remedy: they are left out of the training")
    for spoiled in (forces_flipped(data, [3, 7]), scaled(data, forces=-1)):
        with pytest.raises(InputError, match="sign"):
            preflight([("run", spoiled)], (), said.append, spare=0.03)


def test_training_is_stopped_and_can_be_told_to_go_on(data, tmp_path, run):
    write(tmp_path / "b.extxyz", forces_flipped(data, [3]).to_atoms())
    train = (
        "train",
        tmp_path / "b.extxyz",
        "--epochs",
        "1",
        "--preset",
        "ultra-tiny",
        "--out",
        tmp_path / "run",
    )
    code, _, err = run(*train)
    assert code == 2
    assert "frames-sign: the forces of 1 structures point against those of the others" in err
    assert not (tmp_path / "run").exists()
    code, _, err = run(*train, "--set", "lint.ignore=[frames-sign]")
    assert code == 0
    assert "error" not in err


def test_unknown_codes_in_the_configuration():
    assert load_train_config(["lint.ignore=[leak]"]).lint.ignore == ("leak",)
    with pytest.raises(InputError, match=r"lint\.ignore.*got 'leek'.*'leak'"):
        load_train_config(["lint.ignore=[leek]"])


def test_a_store_with_contact_scans_is_linted(tmp_path, run):
    frames = alloy_frames(6)
    close = frames[0].copy()
    close.positions[1] = close.positions[0] + [0.0, 0.0, 0.4]
    close.info |= {"config_type": "contacts", "group": "a/contacts"}
    frames.append(close)
    write(tmp_path / "frames.extxyz", frames)
    done = run(
        "label",
        tmp_path / "frames.extxyz",
        "--teacher",
        "ase.calculators.emt:EMT",
        "--out",
        tmp_path / "store",
    )
    assert done[0] == 0, done[2]
    code, out, err = run("lint", tmp_path / "store")
    assert (code, err) == (0, "")
    assert "in 7 structures" in out


def test_constant_energies_are_told_and_break_nothing(data, tmp_path, run):
    constant = replace(data, labels=replace(data.labels, energy=np.full(len(data), -3.0)))
    write(tmp_path / "constant.extxyz", constant.to_atoms())
    code, out, err = run("lint", tmp_path / "constant.extxyz")
    assert (code, err) == (1, "")
    assert "error" in out
