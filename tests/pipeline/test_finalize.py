"""`limbeck finalize`: it goes on past what fails, repeats nothing, and says what became of each part."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write

from limbeck.artifact.convert import checkpoint_state
from limbeck.artifact.file import read_student, write_student
from limbeck.errors import LimbeckError, MissingPackageError
from limbeck.pipeline import final_parts as parts
from limbeck.pipeline.ledger import Done
from limbeck.pipeline.students import untrained_student
from limbeck.runtime.student import Student

from .conftest import labelled_copper

SPLIT = {
    "energy_mae_mev_per_atom": 1.0, "energy_rmse_mev_per_atom": 1.0, "force_mae_mev_per_a": 20.0,
    "force_r2": 0.9, "force_cosine": 0.9, "stress_mae_mev_per_a3": 1.0, "n_structures": 6, "n_atoms": 24,
}  # fmt: skip


def write_untrained(path: Path, preset: str) -> Path:
    record = untrained_student(preset, labelled_copper(1)[0], 4.0).record
    card = {"preset": preset, "metrics": {"test": {"all": {"force_rmse_mev_per_a": 30.0}}}}
    write_student(path, replace(record, card=card))
    return path


@pytest.fixture
def folder(tmp_path):
    """A run of two untrained students, as limbeck distill leaves one."""
    path = tmp_path / "run"
    path.mkdir()
    metrics: dict = {"run": {"name": "copper", "teacher": {"name": "emt", "parameters": 2_000_000}}}
    for preset, error in (("tiny", 20.0), ("ultra-tiny", 40.0)):
        write_untrained(path / f"{preset}.safetensors", preset)
        metrics[preset] = {
            "test": {"all": SPLIT | {"force_rmse_mev_per_a": error}}, "run": {"compression": 30.0}
        }  # fmt: skip
    (path / "config.yaml").write_text("# Limbeck run: the resolved configuration\nseed: 0\n")
    (path / "metrics.json").write_text(json.dumps(metrics))
    write(path / "test.extxyz", labelled_copper(6))
    write(path / "structures.extxyz", labelled_copper(1))
    return path


@pytest.fixture
def calls(monkeypatch):
    """Costly parts as stubs that write a file each; the list has what was called."""
    made: list[str] = []

    def written(name: str, path: Path, result: dict) -> Done:
        made.append(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        return Done(result | {"path": str(path), "bytes": 4, "sha256": "0"}, (path,))

    def export(ware, kind, out, structures, threads):
        return written(f"{ware.name} {kind}", out / f"{ware.name}.{kind}", {"format": kind})

    def quantise(ware, how, out, structures, threads, float32):
        result = {"quantisation": how, "verdict": "kept", "format": "onnx"}
        return written(f"{ware.name} {how}", out / f"{ware.name}.{how}", result)

    def bench(wares, out, **_):
        row = {"engine": "native", "batch": 1, "atoms": 1000, "threads": 2, "latency_ms_median": 1.0,
               "peak_memory_mb": 1.0, "parameters": 1, "speedup_vs_teacher": 9.0}  # fmt: skip
        rows = [row | {"model": ware.name, "atoms_per_s": 1e4 * (k + 1)} for k, ware in enumerate(wares)]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"rows": rows}))
        made.append("bench")
        return Done({"rows": rows}, (out,))

    def compile_one(ware, program, out, structures, threads, limit_s):
        return written(f"{ware.name} aoti", out / f"{ware.name}.aoti", {"format": "aot-inductor"})

    def report(inputs, target, progress):
        return written("report", inputs.out / "report.html", {})

    for name, stub in (
        ("export_one", export), ("quantise_one", quantise), ("bench_all", bench),
        ("compile_one", compile_one), ("report_page", report),
    ):  # fmt: skip
        monkeypatch.setattr(parts, name, stub)
    return made


def verdicts(folder):
    told = json.loads((folder / "finalize.json").read_text())
    return {(one["part"], one["student"]): one["verdict"] for one in told["parts"]}, told


def test_a_run_comes_to_everything(run, folder, calls, tmp_path):
    code, printed, err = run(
        "finalize", folder, "--target-force-rmse", 25, "--json", tmp_path / "copy.json", "--budget", "5m"
    )
    assert (code, err.count("error")) == (0, 0)
    found, told = verdicts(folder)
    assert set(found.values()) == {"done"}
    for student in ("tiny", "ultra-tiny"):
        for part in ("validate", "export onnx", "export torch-export", "export torchscript",
                     "export aot-inductor", "quantize float16", "quantize bfloat16", "quantize int8"):  # fmt: skip
            assert (part, student) in found
    assert {(p, None) for p in ("worst frames", "bench", "recommendation", "report")} <= set(found)
    assert told == json.loads((tmp_path / "copy.json").read_text())
    tiny, ultra = told["students"]
    assert (tiny["name"], ultra["name"]) == ("tiny", "ultra-tiny")
    assert tiny["compression"] == pytest.approx(2_000_000 / tiny["parameters"])
    assert ultra["speed"]["atoms_per_s"] == 2e4
    assert [one["format"] for one in tiny["exports"]] == [
        "onnx", "torch-export", "torchscript", "aot-inductor"
    ]  # fmt: skip
    assert [one["quantisation"] for one in tiny["quantisation"]] == ["float16", "bfloat16", "int8"]
    # of the run's two students only tiny (20 meV/Å in metrics.json) meets 25
    assert told["recommendation"]["preset"] == "tiny"
    assert "Use tiny: the cheapest preset that meets the target of 25 meV/Å" in printed
    assert "0 failed, 0 skipped" in printed


def test_worst_frames_hold_both_answers(run, folder, calls):
    assert run("finalize", folder)[0] == 0
    worst, held = read(folder / "worst.extxyz", ":"), read(folder / "test.extxyz", ":")
    assert {atoms.info["frame"] for atoms in worst} == set(range(6))  # fewer frames than are asked for
    student = Student.load(folder / f"{worst[0].info['student']}.safetensors")
    for atoms in worst[:2]:
        reference = held[atoms.info["frame"]]
        assert atoms.get_forces() == pytest.approx(reference.get_forces(), abs=1e-7)
        own = student.evaluate([reference])
        assert atoms.arrays["student_forces"] == pytest.approx(own.forces, abs=1e-7)
        assert atoms.info["student_energy"] == pytest.approx(own.energy[0], rel=1e-7)
        assert np.reshape(atoms.info["student_stress"], (3, 3)) == pytest.approx(own.stress[0], abs=1e-7)
        rmse = 1000 * np.sqrt(np.mean((own.forces - reference.get_forces()) ** 2))
        assert atoms.info["force_rmse_mev_per_a"] == pytest.approx(rmse, rel=1e-3)


def test_parts_that_fail_stop_no_other(run, folder, calls, monkeypatch):
    export, quantise = parts.export_one, parts.quantise_one

    def failing_export(ware, kind, *rest):
        if kind == "torchscript":
            raise LimbeckError("the export does not agree", where=ware.name)
        return export(ware, kind, *rest)

    def failing_quantise(ware, how, *rest):
        if how == "int8":
            return 1 / 0
        if how == "bfloat16":
            raise MissingPackageError("ONNX needs packages", remedy="pip install onnx")
        return quantise(ware, how, *rest)

    monkeypatch.setattr(parts, "export_one", failing_export)
    monkeypatch.setattr(parts, "quantise_one", failing_quantise)
    code, printed, err = run("finalize", folder)
    assert code == 1
    assert err.splitlines()[-1].startswith(f"error: {folder}: 4 of ")
    assert "parts failed; got export torchscript of tiny, " in err
    found, told = verdicts(folder)
    assert found["export torchscript", "tiny"] == "failed"
    assert found["quantize int8", "tiny"] == "failed"
    assert found["quantize bfloat16", "ultra-tiny"] == "skipped"
    assert found["export onnx", "ultra-tiny"] == found["bench", None] == found["report", None] == "done"
    assert told["verdict"] == "failed"
    assert len(told["failed"]) == 4
    assert "quantize int8 of tiny: failed in 0 s: internal error: ZeroDivisionError" in printed
    assert "quantize bfloat16 of tiny: skipped: ONNX needs packages; remedy: pip install onnx" in printed
    # the same command does again what failed or was skipped, and nothing else
    calls.clear()
    monkeypatch.setattr(parts, "export_one", export)
    monkeypatch.setattr(parts, "quantise_one", quantise)
    assert run("finalize", folder)[0] == 0
    again = {"torchscript", "bfloat16", "int8"}
    # the page is made anew where what it shows has changed
    assert {c for c in calls if c != "report"} == {f"{s} {c}" for s in ("tiny", "ultra-tiny") for c in again}


def test_finished_parts_are_reused_unless_what_they_are_made_from_changed(run, folder, calls):
    assert run("finalize", folder)[0] == 0
    first, _ = verdicts(folder)
    calls.clear()
    code, printed, _ = run("finalize", folder)
    assert (code, calls) == (0, [])
    assert "bench: done before" in printed
    found, told = verdicts(folder)
    assert found == first
    assert told["students"][0]["speed"] is not None
    # a file that is no longer what was written
    (folder / "exports" / "tiny.onnx").write_text("damaged")
    assert run("finalize", folder)[0] == 0
    assert calls == ["tiny onnx"]
    # another student under the same name
    calls.clear()
    record = read_student(folder / "ultra-tiny.safetensors")
    write_student(folder / "ultra-tiny.safetensors", replace(record, card=record.card | {"note": "new"}))
    assert run("finalize", folder)[0] == 0
    assert "tiny onnx" not in calls
    assert {"ultra-tiny onnx", "ultra-tiny int8", "bench"} <= set(calls)
    calls.clear()
    assert run("finalize", folder, "--overwrite")[0] == 0
    assert {"tiny onnx", "ultra-tiny int8", "bench", "report"} <= set(calls)


def test_exports_of_an_earlier_limbeck_are_made_anew(run, folder, calls, monkeypatch):
    """Those that were certified when a certificate asked less."""
    with monkeypatch.context() as before:
        before.setattr("limbeck.pipeline.finalizing.REVISION", 1)
        assert run("finalize", folder)[0] == 0
    calls.clear()
    assert run("finalize", folder)[0] == 0
    assert {"tiny onnx", "tiny torch-export", "ultra-tiny int8", "ultra-tiny aoti"} <= set(calls)
    assert "bench" not in calls


def test_a_learning_curve_makes_the_page_anew(run, folder, calls):
    assert run("finalize", folder)[0] == 0
    calls.clear()
    (folder / "learning-curve").mkdir()
    (folder / "learning-curve" / "tiny.json").write_text("{}")
    assert run("finalize", folder)[0] == 0
    assert calls == ["report"]


def test_interrupted_it_goes_on(run, folder, calls, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    bench = parts.bench_all
    monkeypatch.setattr(parts, "bench_all", interrupted)
    code, _, err = run("finalize", folder)
    assert code == 130
    assert "run the same command again to go on" in err
    assert not (folder / "finalize.json").exists()
    calls.clear()
    monkeypatch.setattr(parts, "bench_all", bench)
    assert run("finalize", folder)[0] == 0
    assert calls == ["bench", "tiny aoti", "ultra-tiny aoti", "report"]


def test_skips_are_listed_and_no_failure(run, folder, calls):
    code, printed, _ = run("finalize", folder, "--skip", "bench,report", "--quantize", "none", "--to", "onnx")
    assert code == 0
    found, told = verdicts(folder)
    assert found["bench", None] == found["report", None] == "skipped"
    assert told["skipped"] == ["bench", "report"]
    assert "bench: skipped: asked for by --skip" in printed
    assert calls == ["tiny onnx", "ultra-tiny onnx"]


def test_what_the_budget_leaves_out_is_said(run, folder, calls):
    code, printed, _ = run("finalize", folder, "--budget", "2s")
    assert code == 0
    found, _ = verdicts(folder)
    assert found["export onnx", "tiny"] == found["report", None] == "done"
    assert found["quantize int8", "tiny"] == found["bench", None] == "skipped"
    assert found["export torch-export", "tiny"] == found["export onnx", "ultra-tiny"] == "skipped"
    assert "bench: skipped: the budget, 2 s, is used up; the same command goes on with it" in printed


def test_without_held_out_labels_it_says_so(run, folder, calls):
    (folder / "test.extxyz").unlink()
    code, printed, _ = run("finalize", folder)
    assert code == 0
    assert "validate of tiny: skipped: no test.extxyz in the run; --data FILE names labels" in printed
    assert not (folder / "worst.extxyz").exists()


def test_a_damaged_student_of_a_run_fails_alone(run, folder, calls):
    (folder / "tiny.safetensors").write_bytes(b"not a student")
    code, _, err = run("finalize", folder)
    assert code == 1
    found, _ = verdicts(folder)
    assert found["read", "tiny"] == "failed"
    assert found["export onnx", "ultra-tiny"] == "done"
    assert "read of tiny" in err


def test_students_and_an_old_checkpoint(run, folder, calls, tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    old = tmp_path / "old.pt"
    torch.save(checkpoint_state(read_student(folder / "tiny.safetensors")), old)
    code, printed, _ = run("finalize", old, folder / "ultra-tiny.safetensors")
    assert code == 0
    found, told = verdicts(tmp_path / "finalized")
    assert found["convert", "old"] == "done"
    assert found["card", "old"] == "done"
    assert (tmp_path / "finalized" / "old.card.md").read_text().startswith("---")
    converted = Student.load(tmp_path / "finalized" / "converted" / "old.safetensors")
    atoms = labelled_copper(1)
    own = Student.load(folder / "tiny.safetensors").evaluate(atoms)
    assert converted.evaluate(atoms).forces == pytest.approx(own.forces)
    assert "report: skipped: a report is about a run, and students alone were given" in printed
    # without labels the card's own error tells the students apart
    assert told["students"][0]["errors"]["on"] == "the card's own split"


def summary_of(**entries):
    return {"exports": [], "skipped": {}, "failures": [], **entries}


def refused_by_loss(how):
    text = f"tiny: {how} is refused; got force RMSE against float32 7 meV/Å, at most 5; remedy: --force"
    loss = {"force_rmse_mev_per_a": 7.0, "nve_completed": True}
    figures = {"verdict": "pass", "path": "gone.onnx", "bytes": 9, "format": "onnx"}
    return summary_of(failures=[text], refused=text, refused_figures=figures, loss=loss)


def test_a_refused_rounding_is_a_finding_but_of_float16_a_failure(run, folder, calls, monkeypatch):
    monkeypatch.undo()  # the real parts, but for the export itself
    monkeypatch.setattr(parts, "check_installed", lambda formats: None)
    monkeypatch.setattr(
        parts, "export_student", lambda path, formats, out, options: refused_by_loss(options.quantisation)
    )
    options = ("--skip", "validate,bench,export,report", "--quantize")
    code, printed, _ = run("finalize", folder, *options, "int8,bfloat16")
    assert code == 0
    found, told = verdicts(folder)
    assert found["quantize int8", "tiny"] == "done"
    (bfloat16, int8) = sorted(told["students"][0]["quantisation"], key=lambda one: one["quantisation"])
    assert (bfloat16["verdict"], int8["verdict"]) == ("refused", "refused")
    assert int8["loss"]["force_rmse_mev_per_a"] == 7.0
    assert (int8["bytes"], "path" in int8) == (9, False)
    assert "quantize int8 of tiny: done in 0 s: refused: tiny: int8 is refused; got force RMSE" in printed
    code, _, err = run("finalize", folder, *options, "float16")
    assert code == 1
    assert "quantize float16 of tiny" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--skip", "exports"], "--skip: unknown part; got exports; wanted validate, bench"),
        (["--target-force-rmse", -3], "--target-force-rmse: the target is no error; got -3.0"),
        (["--quantize", "int4"], "--quantize: unknown quantisation; got 'int4'"),
        (["--to", "onx"], "--to: unknown name; got 'onx'"),
        (["--threads", 10_000], "--threads: so many threads have no cores of their own here; got 10000"),
        (["--data", "nowhere.extxyz"], "nowhere.extxyz: no such file"),
        (["--teacher", "sevenet-0"], "sevenet-0"),
        (["--energy-key", "REF_energy"], "names of labels without a file; wanted --data FILE beside them"),
    ],
)
def test_wrong_options_are_refused_before_any_work(refused, folder, calls, arguments, text):
    before = sorted(path.name for path in folder.iterdir())
    assert text in refused("finalize", folder, *arguments)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert calls == []


def test_wrong_inputs_are_refused_before_any_work(refused, folder, calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student = folder / "tiny.safetensors"
    assert "a run is finalised alone" in refused("finalize", folder, student)
    assert "no such student file" in refused("finalize", student, "other.safetensors")
    assert "no such checkpoint" in refused("finalize", "old.pt")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "this is no run folder" in refused("finalize", empty)
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    assert "bad.pt" in refused("finalize", "bad.pt")
    frames = labelled_copper(2)
    for atoms in frames:
        atoms.numbers[:] = 47
    write(tmp_path / "silver.extxyz", frames)
    line = refused("finalize", student, "--data", "silver.extxyz")
    assert "no student knows all elements of the data; got Ag; wanted tiny: Cu" in line
    (folder / "metrics.json").unlink()
    assert "the run is not finished" in refused("finalize", folder)
    assert not (tmp_path / "finalized").exists()


def frames_like(student: Path, stretch: float, n: int = 4) -> list:
    """Frames whose labels are the student's own answers, forces times ``stretch``: errors known by hand."""
    from ase.calculators.singlepoint import SinglePointCalculator

    frames = labelled_copper(n, seed=9)
    own = Student.load(student).evaluate(frames)
    at = 0
    for k, atoms in enumerate(frames):
        forces = stretch * own.forces[at : at + len(atoms)]
        at += len(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=float(own.energy[k]), forces=forces)
    return frames


def test_labels_that_are_given_decide_recommendation_and_page(run, folder, tmp_path):
    """metrics.json says tiny 20, ultra-tiny 40 meV/Å; on labels that ultra-tiny wrote itself it is at 0."""
    pytest.importorskip("plotly")
    given = tmp_path / "test set.extxyz"
    write(given, frames_like(folder / "ultra-tiny.safetensors", 1.0))
    options = ("--skip", "bench,export,quantize", "--target-force-rmse", 25)
    code, printed, err = run("finalize", folder, *options)
    assert code == 0, err
    assert "Use tiny: the cheapest preset that meets the target of 25 meV/Å" in printed
    code, printed, err = run("finalize", folder, *options, "--data", given)
    assert code == 0, err
    _, told = verdicts(folder)
    assert told["recommendation"]["preset"] == "ultra-tiny"
    assert told["recommendation"]["errors_on"] == str(given)
    assert "(force RMSE 0.0 meV/Å" in told["recommendation"]["text"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Use ultra-tiny: the cheapest preset that meets the target of 25 meV/Å (force RMSE 0.0" in page
    assert "Errors on 4 structures of test set.extxyz, named with --data" in page
    assert "Worst test frames of ultra-tiny" in page
    # the command line's report says the same
    code, printed, err = run("report", folder, "--target-force-rmse", 25, "--data", given)
    assert code == 0, err
    assert "Use ultra-tiny" in printed
    code, printed, err = run("report", folder, "--target-force-rmse", 25)
    assert "Use tiny" in printed


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
    options = ("--skip", "bench,export,quantize")
    for command in ("finalize", "report"):
        more = options if command == "finalize" else ()
        assert "no energy" in refused(command, folder, *more, "--data", given)
        code, printed, err = run(command, folder, *more, "--data", given, *names, "--target-force-rmse", 25)
        assert code == 0, err
        assert (
            "Use ultra-tiny: the cheapest preset that meets the target of 25 meV/Å (force RMSE 0.0" in printed
        )
    found = json.loads((folder / "validation" / "tiny.json").read_text())["run"]["worst_frames"]
    assert sorted(one["index"] for one in found) == [1, 2, 3, 4]
    assert "names of labels without a file" in refused("report", folder, *names)


def test_a_run_without_held_out_set_is_judged_on_the_labels_given(run, folder, calls, tmp_path):
    metrics = json.loads((folder / "metrics.json").read_text())
    for preset in ("tiny", "ultra-tiny"):
        metrics[preset]["validation"] = metrics[preset].pop("test")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "test.extxyz").unlink()
    given = tmp_path / "test.extxyz"
    frames = frames_like(folder / "tiny.safetensors", 2.0)
    write(given, frames)
    assert run("finalize", folder, "--data", given)[0] == 0
    _, told = verdicts(folder)
    own = np.concatenate([atoms.get_forces() for atoms in frames]) / 2
    rmse = 1000 * np.sqrt(np.mean(own**2))  # forces doubled: off by themselves
    assert told["students"][0]["errors"]["force_rmse_mev_per_a"] == pytest.approx(rmse, rel=1e-4)
    assert told["recommendation"]["errors_on"] == str(given)
    assert run("finalize", folder)[0] == 0
    assert verdicts(folder)[1]["recommendation"]["errors_on"] == str(folder / "validation.extxyz")


def test_a_benchmark_of_ones_own_stays(run, folder, calls):
    (folder / "bench.json").write_text('{"rows": [], "mine": true}')
    assert run("finalize", folder, "--overwrite")[0] == 0
    assert (folder / "bench.json").read_text() == '{"rows": [], "mine": true}'
    assert (folder / "finalize.bench.json").is_file()


def test_a_run_that_was_moved_repeats_nothing(run, folder, calls, tmp_path, monkeypatch):
    import shutil

    monkeypatch.chdir(tmp_path)
    assert run("finalize", folder)[0] == 0
    calls.clear()
    copy = tmp_path / "a copy"
    shutil.copytree(folder, copy)
    (copy / "report.html").unlink()
    assert run("finalize", copy)[0] == 0
    # the page is gone there, though it is still where it was made; all else is there
    assert calls == ["report"]
    assert (copy / "report.html").is_file()
    shutil.rmtree(folder)
    calls.clear()
    assert run("finalize", copy.relative_to(tmp_path))[0] == 0
    assert calls == []
    _, told = verdicts(copy)
    assert [Path(f["path"]).is_file() for part in told["parts"] for f in part["files"]]
    assert all(Path(f["path"]).is_relative_to("a copy") for part in told["parts"] for f in part["files"])


def test_exports_keep_to_the_budget_and_each_command_gets_on(run, folder, calls, monkeypatch):
    options = ("--skip", "bench,quantize,report", "--to", "onnx,torchscript", "--budget", "1s")
    for done in range(1, 5):
        # as if the export had taken what the budget has
        monkeypatch.setattr("limbeck.pipeline.finalizing._REPORT_S", 1e6)
        assert run("finalize", folder, *options)[0] == 0
        found, _ = verdicts(folder)
        made = [key for key, verdict in found.items() if key[0].startswith("export") and verdict == "done"]
        assert len(made) == done
    assert len(calls) == 4


def test_labels_that_are_not_finite_are_named_before_any_work(refused, folder, calls, tmp_path):
    frames = labelled_copper(3)
    frames[1].calc.results["forces"][0, 0] = np.nan
    write(tmp_path / "nan.extxyz", frames)
    line = refused("finalize", folder, "--data", tmp_path / "nan.extxyz")
    assert "nan.extxyz, frame 1: reference energies or forces are not finite; got 1 such frames of 3" in line
    line = refused("validate", folder / "tiny.safetensors", tmp_path / "nan.extxyz")
    assert "nan.extxyz, frame 1: reference energies" in line
    line = refused("report", folder, "--data", tmp_path / "nan.extxyz")
    assert "nan.extxyz, frame 1: reference energies" in line
    assert not (folder / "report.html").exists()
    frames = labelled_copper(2)
    for atoms in frames:
        atoms.numbers[:] = 47
    write(tmp_path / "silver.extxyz", frames)
    line = refused("report", folder, "--data", tmp_path / "silver.extxyz")
    assert "silver.extxyz: no student of the run can be judged on these labels" in line


@pytest.mark.slow
@pytest.mark.ci
def test_a_trained_run_end_to_end(run, copper_file, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(parts, "SIZES", (16,))
    monkeypatch.setattr(parts, "BATCHES", (1,))
    out, held = tmp_path / "run", tmp_path / "held.extxyz"
    write(held, labelled_copper(8, seed=3))
    code, _, err = run("train", copper_file, "--preset", "ultra-tiny", "--epochs", 30, "--out", out)
    assert code == 0, err
    options = ("--data", held, "--to", "onnx", "--quantize", "int8", "--threads", 1)
    code, printed, err = run(
        "finalize", out, *options, "--teacher", "ase.calculators.emt:EMT", "--row-limit", "5s"
    )
    assert code == 0, err + printed
    found, told = verdicts(out)
    assert set(found.values()) == {"done"}
    (student,) = told["students"]
    (export,) = student["exports"]
    assert export["verdict"] == "pass"
    certificate = json.loads((out / "exports" / "ultra-tiny.onnx.certificate.json").read_text())
    kinds = certificate["parity"]["against_student"]
    assert export["parity"]["on"] == "test"
    assert export["parity"]["force_mev_per_a"] == kinds["test"]["force_mev_per_a"]
    assert 0 < export["parity"]["share"] == max(kind["share"] for kind in kinds.values()) <= 1
    assert export["bytes"] == (out / "exports" / "ultra-tiny.onnx").stat().st_size
    (int8,) = student["quantisation"]
    assert int8["verdict"] in ("kept", "refused")
    assert int8["loss"]["force_rmse_mev_per_a"] > 0
    assert student["speed"]["atoms_per_s"] > 0
    assert student["errors"]["n_structures"] == 8
    engines = {row["engine"] for row in json.loads((out / "finalize.bench.json").read_text())["rows"]}
    assert engines == {"native", "teacher"}
    assert len(read(out / "worst.extxyz", ":")) == 8
    assert "ultra-tiny.onnx" in (out / "report.html").read_text(encoding="utf-8")
    code, again, _ = run(
        "finalize", out, *options, "--teacher", "ase.calculators.emt:EMT", "--row-limit", "5s"
    )
    assert code == 0
    assert again.count("done before") == len(found)
