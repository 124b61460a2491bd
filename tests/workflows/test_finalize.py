"""`limbeck finalize` on bundled students: it goes on past what fails, repeats nothing, and says what became of
each part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from limbeck.artifact.file import read_student, write_student
from limbeck.planning.plan import untrained_student
from limbeck.runtime.released import find_student
from limbeck.runtime.student import Student
from limbeck.workflows import finalize as finalizing
from limbeck.workflows.finalize_inputs import FinalizeSettings
from tests.students.tools import checkpoint_state

from .conftest import labelled_copper

PRESETS = ("tiny", "ultra-tiny")
QUICK = ("--skip", "bench,export,quantize")


def write_untrained(path: Path, preset: str) -> Path:
    record = untrained_student(preset, labelled_copper(1)[0], 4.0).record
    card = {"preset": preset, "metrics": {"test": {"all": {"force_rmse_mev_per_a": 30.0}}}}
    write_student(path, replace(record, card=card))
    return path


@contextmanager
def small_measurements() -> Iterator[None]:
    """Exports are repeated and timed, and students benchmarked, on a few atoms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("limbeck.export.runtimes.SIZES", (16,))
        patch.setattr("limbeck.export.runtimes._ENOUGH_S", 0.02)
        patch.setattr("limbeck.export.structures.MANY_ATOMS", 64)
        patch.setattr(finalizing, "SIZES", (16,))
        patch.setattr(finalizing, "BATCHES", (1,))
        yield


@pytest.fixture(autouse=True)
def small():
    with small_measurements():
        yield


def settings(**more: Any) -> FinalizeSettings:
    plain: dict[str, Any] = {"formats": ("torchscript",), "quantisations": ("int8",), "teacher": "none"}
    return FinalizeSettings(**plain | {"threads": 1, "row_limit_s": 5.0} | more)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """A run of two bundled students, as limbeck distill leaves one; metrics.json says 20 and 40 meV/Å."""
    folder = tmp_path_factory.mktemp("given") / "run"
    folder.mkdir()
    metrics: dict = {"run": {"name": "copper", "teacher": {"name": "emt", "parameters": 2_000_000}}}
    for preset, error in zip(PRESETS, (20.0, 40.0), strict=True):
        shutil.copy(find_student(f"cu111-{preset}"), folder / f"{preset}.safetensors")
        split = {"energy_mae_mev_per_atom": 1.0, "force_rmse_mev_per_a": error, "n_structures": 6}
        metrics[preset] = {"test": {"all": split}, "run": {"compression": 30.0}}
    (folder / "config.yaml").write_text("# Limbeck run: the resolved configuration\nseed: 0\n")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write(folder / "test.extxyz", labelled_copper(6))
    write(folder / "structures.extxyz", labelled_copper(1))
    return folder


@pytest.fixture(scope="module")
def finished(given) -> Path:
    """That run, finalised once and for all tests."""
    folder = given.with_name("finished")
    shutil.copytree(given, folder)
    with small_measurements():
        finalizing.finalize([folder], settings(), say=lambda line: None)
    return folder


@pytest.fixture
def folder(given, tmp_path) -> Path:
    return shutil.copytree(given, tmp_path / "run")


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "a copy")


def verdicts(told: dict[str, Any]) -> dict[tuple[str, str | None], str]:
    return {(one["part"], one["student"]): one["verdict"] for one in told["parts"]}


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "finalize.json").read_text())


def done_now(told: dict[str, Any]) -> set[str]:
    """Parts that the command did itself; the recommendation costs nothing and is never kept."""
    names = {one["part"] + " " + (one["student"] or "") for one in told["parts"]
             if one["verdict"] == "done" and not one["reused"]}  # fmt: skip
    return {name.strip() for name in names} - {"recommendation"}


def again(folder: Path, **more: Any) -> dict[str, Any]:
    return finalizing.finalize([folder], settings(**more), say=lambda line: None)


def test_a_run_comes_to_everything(finished):
    told = summary_of(finished)
    found = verdicts(told)
    assert {key for key, verdict in found.items() if verdict != "done"} == set()
    for student in PRESETS:
        for part in ("validate", "export torchscript", "quantize int8"):
            assert (part, student) in found
    assert {(p, None) for p in ("worst frames", "bench", "recommendation", "report")} <= set(found)
    held, rows = (
        read(finished / "test.extxyz", ":"),
        json.loads((finished / "finalize.bench.json").read_text()),
    )
    reference = np.concatenate([atoms.get_forces() for atoms in held])
    for one, student in zip(told["students"], PRESETS, strict=True):
        loaded = Student.load(finished / f"{student}.safetensors")
        assert (one["name"], one["parameters"]) == (student, loaded.n_parameters)
        assert one["compression"] == pytest.approx(2_000_000 / loaded.n_parameters)
        rmse = 1000 * np.sqrt(np.mean((loaded.evaluate(held).forces - reference) ** 2))
        assert one["errors"]["force_rmse_mev_per_a"] == pytest.approx(rmse, rel=1e-4)
        (row,) = (row for row in rows["rows"] if row["model"] == student)
        assert one["speed"]["atoms_per_s"] == row["atoms_per_s"] > 0
        (export,) = one["exports"]
        file = finished / "exports" / f"{student}.torchscript.pt"
        assert (export["format"], export["verdict"], export["path"]) == ("torchscript", "pass", str(file))
        assert export["bytes"] == file.stat().st_size
        kinds = json.loads(Path(f"{file}.certificate.json").read_text())["parity"]["against_student"]
        assert export["parity"]["on"] == "test"
        assert export["parity"]["force_mev_per_a"] == kinds["test"]["force_mev_per_a"]
        assert 0 < export["parity"]["share"] == max(kind["share"] for kind in kinds.values()) <= 1
        # bytes for weights cost these students too much: a finding, with what was measured, and no file
        (int8,) = one["quantisation"]
        assert (int8["quantisation"], int8["verdict"]) == ("int8", "refused")
        assert int8["loss"]["force_rmse_mev_per_a"] > 0.5
        assert "path" not in int8


def test_worst_frames_hold_both_answers(finished):
    worst, held = read(finished / "worst.extxyz", ":"), read(finished / "test.extxyz", ":")
    assert {atoms.info["frame"] for atoms in worst} == set(range(6))  # fewer frames than are asked for
    student = Student.load(finished / f"{worst[0].info['student']}.safetensors")
    for atoms in worst[:2]:
        reference = held[atoms.info["frame"]]
        assert atoms.get_forces() == pytest.approx(reference.get_forces(), abs=1e-7)
        own = student.evaluate([reference])
        assert atoms.arrays["student_forces"] == pytest.approx(own.forces, abs=1e-7)
        assert atoms.info["student_energy"] == pytest.approx(own.energy[0], rel=1e-7)
        assert np.reshape(atoms.info["student_stress"], (3, 3)) == pytest.approx(own.stress[0], abs=1e-7)
        rmse = 1000 * np.sqrt(np.mean((own.forces - reference.get_forces()) ** 2))
        assert atoms.info["force_rmse_mev_per_a"] == pytest.approx(rmse, rel=1e-3)


def test_a_run_that_was_moved_repeats_nothing_but_what_changed(run, copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (copy / "bench.json").write_text('{"rows": [], "mine": true}')
    told = again(Path(copy.name))
    assert done_now(told) == {"report"}  # the page shows a bench.json of one's own, which stays as it is
    assert "mine" in (copy / "bench.json").read_text()
    assert verdicts(told) == verdicts(summary_of(copy))
    assert all(Path(f["path"]).is_relative_to("a copy") for part in told["parts"] for f in part["files"])
    assert done_now(again(copy)) == set()
    # a file that is gone, a file that is no longer what was written, and a learning curve for the page
    (copy / "worst.extxyz").unlink()
    (copy / "validation" / "tiny.json").write_text("damaged")
    (copy / "learning-curve").mkdir()
    (copy / "learning-curve" / "tiny.json").write_text("{}")
    told = again(copy)
    assert done_now(told) == {"validate tiny", "worst frames", "report"}
    assert json.loads((copy / "validation" / "tiny.json").read_text())["data"]["all"]


def test_another_student_under_the_same_name_and_a_budget_that_is_used_up(copy):
    """Exports are those of the new student; each command gets on by one at least."""
    record = read_student(copy / "ultra-tiny.safetensors")
    write_student(copy / "ultra-tiny.safetensors", replace(record, card=record.card | {"note": "new"}))
    told = again(copy, budget_s=1.0, began=-1e6)
    assert done_now(told) == {"validate ultra-tiny", "export torchscript ultra-tiny", "report"}
    found = verdicts(told)
    assert found["bench", None] == found["quantize int8", "ultra-tiny"] == "skipped"
    reason = next(one["reason"] for one in told["parts"] if one["part"] == "bench")
    assert reason == "the budget, 1 s, is used up; the same command resumes it"
    assert found["quantize int8", "tiny"] == "done"  # what is finished costs nothing


def test_a_damaged_student_of_a_run_fails_alone(run, copy):
    (copy / "tiny.safetensors").write_bytes(b"not a student")
    options = ("--to", "torchscript", "--quantize", "none", "--teacher", "none", "--threads", 1)
    code, _, err = run("finalize", copy, *options, "--row-limit", "5s")
    assert code == 1
    assert err.splitlines()[-1].startswith(f"error: {copy}: 1 of ")
    assert "parts failed; got read of tiny; remedy: " in err
    told = summary_of(copy)
    assert done_now(told) == {"bench", "worst frames", "report"}
    assert (told["verdict"], told["failed"]) == ("failed", ["read of tiny"])
    assert [one["name"] for one in told["students"]] == ["ultra-tiny"]


def test_parts_that_fail_stop_no_other_and_are_done_again(folder):
    """A folder that cannot be made, and weights beyond the range of float16."""
    (folder / "exports").write_text("a file where a folder is to be")
    skip = frozenset(["bench", "quantize", "validate"])
    told = again(folder, skip=skip)
    assert told["failed"] == ["export torchscript of tiny", "export torchscript of ultra-tiny"]
    assert verdicts(told)["report", None] == "done"
    told = again(folder, skip=skip | {"report"})
    assert len(told["failed"]) == 2  # tried again, and failed again
    (folder / "exports").unlink()
    for preset in PRESETS:
        record = read_student(folder / f"{preset}.safetensors")
        large = record.weights | {"embedding": record.weights["embedding"] + np.float32(1e5)}
        write_student(folder / f"{preset}.safetensors", replace(record, weights=large))
    skip = frozenset(["bench", "export", "validate", "report"])
    told = again(folder, skip=skip, quantisations=("float16",))
    assert told["failed"] == ["quantize float16 of tiny", "quantize float16 of ultra-tiny"]
    assert "weight 'embedding' is beyond the range of float16" in str(told["parts"])


def test_interrupted_it_goes_on(given, tmp_path):
    """Interrupted while the second student is validated: what the first came to is kept."""
    folder = shutil.copytree(given, tmp_path / "run")

    def interrupting(task: str, done: int, total: int | None = None, text: str = "") -> None:
        if text == "ultra-tiny":
            raise KeyboardInterrupt

    only = settings(skip=frozenset(["export", "quantize", "bench"]))
    with pytest.raises(KeyboardInterrupt):
        finalizing.finalize([folder], only, progress=interrupting, say=lambda line: None)
    assert not (folder / "finalize.json").exists()
    told = finalizing.finalize([folder], only, say=lambda line: None)
    assert done_now(told) == {"validate ultra-tiny", "worst frames", "report"}


def test_skips_are_listed_and_no_failure(run, folder, monkeypatch):
    (folder / "test.extxyz").unlink()
    code, printed, _ = run("finalize", folder, "--skip", "bench,report,export", "--quantize", "none")
    assert code == 0
    told = summary_of(folder)
    assert {one["reason"] for one in told["parts"] if one["part"] in ("bench", "report")} == {
        "asked for by --skip"
    }
    assert "validate of tiny: skipped: no test.extxyz in the run; --data FILE names labels" in printed
    assert not (folder / "worst.extxyz").exists()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, printed, _ = run("finalize", folder, "--skip", "bench,report,export", "--quantize", "int8")
    assert code == 0
    assert "quantize int8 of tiny: skipped: ONNX needs packages that are not installed" in printed


def test_students_of_several_elements_and_an_old_checkpoint(run, refused, folder, tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    old = tmp_path / "old.pt"
    torch.save(checkpoint_state(read_student(folder / "tiny.safetensors")), old)
    code, printed, _ = run("finalize", old, "licl-ultra-tiny", "--data", folder / "test.extxyz", *QUICK)
    assert code == 0
    told = summary_of(tmp_path / "finalized")
    found = verdicts(told)
    assert found["convert", "old"] == found["card", "old"] == found["validate", "old"] == "done"
    assert "validate of licl-ultra-tiny: skipped: the data hold elements that it does not know" in printed
    assert (tmp_path / "finalized" / "old.card.md").read_text().startswith("---")
    converted = Student.load(tmp_path / "finalized" / "converted" / "old.safetensors")
    atoms = labelled_copper(1)
    own = Student.load(folder / "tiny.safetensors").evaluate(atoms)
    assert converted.evaluate(atoms).forces == pytest.approx(own.forces)
    assert "report: skipped: a report is about a run, and students alone were given" in printed
    # without labels the card's own error tells the students apart
    assert {one["name"]: one["errors"]["on"] for one in told["students"]} == {
        "old": "test labels", "licl-ultra-tiny": "the card's own split"
    }  # fmt: skip
    assert [group["elements"] for group in told["recommendation"]["groups"]] == ["Cu", "Li Cl"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--skip", "exports"], "--skip: unknown name; got exports; wanted validate, bench"),
        (["--target-force-rmse", -3], "--target-force-rmse: the target is no error; got -3.0"),
        (["--quantize", "int4"], "--quantize: unknown name; got int4"),
        (["--to", "onx"], "--to: unknown name; got 'onx'"),
        (["--threads", 10_000], "--threads: invalid number of threads; got 10000"),
        (["--data", "nowhere.extxyz"], "nowhere.extxyz: no such file"),
        (["--teacher", "sevenet-0"], "sevenet-0"),
        (["--energy-key", "REF_energy"], "names of labels without a file; wanted --data FILE beside them"),
        (["--data", "silver.extxyz"], "no student knows all elements of the data; got Ag; wanted tiny: Cu"),
        (["--data", "nan.extxyz"], "nan.extxyz, frame 1: reference energies or forces are not finite; got 1"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_work(
    refused, folder, tmp_path, monkeypatch, arguments, text
):
    monkeypatch.chdir(tmp_path)
    frames = labelled_copper(3)
    frames[1].calc.results["forces"][0, 0] = np.nan
    write("nan.extxyz", frames)
    for atoms in (silver := labelled_copper(2)):
        atoms.numbers[:] = 47
    write("silver.extxyz", silver)
    before = sorted(path.name for path in folder.iterdir())
    assert text in refused("finalize", folder, *arguments)
    assert sorted(path.name for path in folder.iterdir()) == before
    if "--data" in arguments and "nowhere" not in text:
        refused("report", folder, *arguments)
        assert not (folder / "report.html").exists()


def test_wrong_inputs_are_refused_before_any_work(refused, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student = folder / "tiny.safetensors"
    assert "a run is finalised alone" in refused("finalize", folder, student)
    assert "no such student file" in refused("finalize", student, "other.safetensors")
    assert "no such checkpoint" in refused("finalize", "old.pt")
    (tmp_path / "empty").mkdir()
    assert "this is no run folder" in refused("finalize", tmp_path / "empty")
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    assert "bad.pt" in refused("finalize", "bad.pt")
    (folder / "metrics.json").unlink()
    assert "the run is not finished" in refused("finalize", folder)
    assert not (tmp_path / "finalized").exists()


def frames_like(student: Path, stretch: float, n: int = 4) -> list[Atoms]:
    """Frames whose labels are the student's own answers, forces times ``stretch``: errors known by hand."""
    frames = labelled_copper(n, seed=9)
    own = Student.load(student).evaluate(frames)
    forces = np.split(stretch * own.forces, np.cumsum([len(atoms) for atoms in frames])[:-1])
    for atoms, energy, force in zip(frames, own.energy, forces, strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=float(energy), forces=force)
    return frames


def test_labels_that_are_given_decide_recommendation_and_page(run, folder, tmp_path):
    """metrics.json says tiny 20, ultra-tiny 40 meV/Å; on labels that ultra-tiny wrote itself it is at 0."""
    pytest.importorskip("plotly")
    given = tmp_path / "test set.extxyz"
    write(given, frames_like(folder / "ultra-tiny.safetensors", 1.0))
    target = ("--target-force-rmse", 25)
    for command, more in (("finalize", QUICK), ("report", ())):
        code, printed, err = run(command, folder, *more, *target)
        assert code == 0, err
        assert "Use tiny: the cheapest preset that meets the target of 25 meV/Å" in printed
        code, printed, err = run(command, folder, *more, *target, "--data", given)
        assert code == 0, err
        assert "Use ultra-tiny" in printed
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "Use ultra-tiny: the cheapest preset that meets the target of 25 meV/Å (force RMSE 0.0" in page
        assert "Errors on 4 structures of test set.extxyz, named with --data" in page
        assert "Worst test frames of ultra-tiny" in page
    told = summary_of(folder)
    assert told["recommendation"]["preset"] == "ultra-tiny"
    assert told["recommendation"]["errors_on"] == str(given)


def test_labels_of_other_names_beside_an_isolated_atom(run, refused, folder, tmp_path):
    pytest.importorskip("plotly")
    frames = frames_like(folder / "ultra-tiny.safetensors", 1.0)
    for atoms in frames:
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = (
            atoms.get_potential_energy(),
            atoms.get_forces(),
        )
        atoms.calc = None
    frames.insert(0, Atoms("Cu", info={"REF_energy": -3.5}))
    given = tmp_path / "mace.xyz"
    write(given, frames, format="extxyz")
    names = ("--energy-key", "REF_energy", "--forces-key", "REF_forces")
    for command, more in (("finalize", QUICK), ("report", ())):
        assert "no energy" in refused(command, folder, *more, "--data", given)
        code, printed, err = run(command, folder, *more, "--data", given, *names, "--target-force-rmse", 25)
        assert code == 0, err
        assert "Use ultra-tiny: the cheapest preset" in printed
    found = json.loads((folder / "validation" / "tiny.json").read_text())["run"]["worst_frames"]
    assert sorted(one["index"] for one in found) == [1, 2, 3, 4]
    assert "names of labels without a file" in refused("report", folder, *names)


def test_a_run_without_held_out_set_is_judged_on_the_labels_given(run, folder, tmp_path):
    metrics = json.loads((folder / "metrics.json").read_text())
    for preset in PRESETS:
        metrics[preset]["validation"] = metrics[preset].pop("test")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "test.extxyz").unlink()
    frames = frames_like(folder / "tiny.safetensors", 2.0)
    write(tmp_path / "test.extxyz", frames)
    skip = ("--skip", "bench,export,quantize,report")
    assert run("finalize", folder, "--data", tmp_path / "test.extxyz", *skip)[0] == 0
    told = summary_of(folder)
    own = np.concatenate([atoms.get_forces() for atoms in frames]) / 2
    rmse = 1000 * np.sqrt(np.mean(own**2))  # forces doubled: off by themselves
    assert told["students"][0]["errors"]["force_rmse_mev_per_a"] == pytest.approx(rmse, rel=1e-4)
    assert told["recommendation"]["errors_on"] == str(tmp_path / "test.extxyz")
    assert run("finalize", folder, *skip)[0] == 0
    assert summary_of(folder)["recommendation"]["errors_on"] == str(folder / "validation.extxyz")


@pytest.mark.slow
@pytest.mark.ci
def test_half_precision_and_a_teacher_beside_the_student(run, folder):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    (folder / "tiny.safetensors").unlink()
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["tiny"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    options = ("--skip", "export", "--quantize", "float16", "--teacher", "ase.calculators.emt:EMT")
    code, printed, err = run("finalize", folder, *options, "--threads", 1, "--row-limit", "5s")
    assert code == 0, err + printed
    told = summary_of(folder)
    assert told["verdict"] == "done"
    (student,) = told["students"]
    (rounded,) = student["quantisation"]
    assert (rounded["verdict"], rounded["format"]) == ("kept", "onnx")
    assert rounded["loss"]["force_rmse_mev_per_a"] > 0
    engines = {row["engine"] for row in json.loads((folder / "finalize.bench.json").read_text())["rows"]}
    assert engines == {"native", "teacher"}
    assert "ultra-tiny.float16.onnx" in (folder / "report.html").read_text(encoding="utf-8")
