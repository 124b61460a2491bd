"""The command: what it leaves, what it removes, and how it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write

from limbeck import cli
from limbeck.artifact.file import read_student, write_student
from limbeck.core.hashing import hash_file
from limbeck.errors import LimbeckError
from limbeck.export import run as run_module
from limbeck.export.quantise import Loss, measure_loss, store_weights
from limbeck.export.run import ExportOptions, export_student
from limbeck.runtime.student import Student
from tests.export.tools import need, slow_in_ci, small_graph, small_record
from tests.students.tools import SYSTEMS

COSTLY = Loss("int8", 4, 0.5, 7.5, 30.0, 28.0, True, 0.0, 0.0)
AGAINST = "force RMSE against float32 7.5 meV/Å, at most 2.8 (the student's own error is 28)"


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    path = tmp_path_factory.mktemp("student") / "small.safetensors"
    write_student(path, small_record())
    return path


@pytest.fixture
def quick(monkeypatch):
    """Certificates and latencies on fewer atoms; their real size is for the graph that races."""
    monkeypatch.setattr("limbeck.export.structures.MANY_ATOMS", 150)
    monkeypatch.setattr("limbeck.export.runtimes.SIZES", (16, 100))
    monkeypatch.setattr("limbeck.export.runtimes._ENOUGH_S", 0.05)


@pytest.fixture
def traced(monkeypatch):
    """The small student's graph, traced once for all tests."""
    monkeypatch.setattr(run_module, "make_graph", lambda *_, **__: small_graph())


def files(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def command(capsys, student):
    """command(*arguments) -> (exit code, stdout, stderr) of ``limbeck export small.safetensors``."""

    def _run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main(["export", str(student), *(str(argument) for argument in arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return _run


@slow_in_ci
def test_an_export_and_its_certificate(command, student, tmp_path, quick):
    out, summary, held = tmp_path / "out", tmp_path / "summary.json", tmp_path / "held.extxyz"
    write(held, [SYSTEMS["molecule"], SYSTEMS["triclinic"]])
    code, printed, err = command("--to", "torchscript", "--structures", held, "--out", out, "--json", summary)
    assert (code, err) == (0, "")
    assert "certified on 26 structures, forces of test ones within" in printed
    assert files(out) == ["small.torchscript.pt", "small.torchscript.pt.certificate.json"]
    result = json.loads(summary.read_text())
    assert (result["failures"], result["structures"]["test"]) == ([], 2)
    certificate = json.loads((out / "small.torchscript.pt.certificate.json").read_text())
    assert result["exports"] == [certificate]
    exported = out / "small.torchscript.pt"
    assert (certificate["sha256"], certificate["bytes"]) == (hash_file(exported), exported.stat().st_size)
    assert (certificate["verdict"], certificate["torch"]) == ("pass", torch.__version__)
    assert certificate["threads"] == 1
    assert certificate["n_structures"] == 2 + 1 + 1 + 1 + 5 + 15 + 1
    repeats = certificate["repeats"]
    assert (repeats["repeats"], repeats["threads"] > 1, 0 <= repeats["share"] <= 1) == (20, True, True)
    small, large = certificate["latency"]
    assert small["atoms"] < 50 < 90 < large["atoms"]
    assert all(row["export_ms"] > 0 and row["native_ms"] > 0 for row in (small, large))
    metadata = {"limbeck": ""}
    torch.jit.load(exported, _extra_files=metadata)
    assert json.loads(metadata["limbeck"])["student_sha256"] == hash_file(student)


@slow_in_ci
def test_a_corrupted_export_is_removed(command, tmp_path, monkeypatch, quick, traced):
    honest = run_module.write_format

    def corrupt(graph, kind, path):
        held = dict(graph.traced.named_buffers())["network_weight_interactions_0_mix_weight"]
        kept = held[3].clone()
        with torch.no_grad():
            held[3] *= 1.01
            about = honest(graph, kind, path)
            held[3] = kept
        return about

    monkeypatch.setattr(run_module, "write_format", corrupt)
    out = tmp_path / "out"
    code, _, err = command("--to", "torchscript", "--out", out, "--json", tmp_path / "result.json")
    assert (code, err.count("\n")) == (1, 1)
    assert "the export does not agree with the student, so it was removed" in err
    assert files(out) == json.loads((tmp_path / "result.json").read_text())["exports"] == []


@slow_in_ci
def test_an_export_that_races_is_removed(student, tmp_path, monkeypatch, traced):
    """With the operator that PyTorch translates sums to, whose threads overwrite each other."""
    need("onnx")
    monkeypatch.setattr("limbeck.export.sums.add_distant_pair", lambda *_: None)
    monkeypatch.setattr("limbeck.export.sums.translations", lambda: None)
    result = export_student(student, ["onnx"], tmp_path, ExportOptions(timed=False))
    (failure,) = result["failures"]
    # the first evaluation of many atoms may show it, else one of the twenty
    assert "many atoms" in failure or "evaluated 20 times on" in failure
    assert result["exports"] == files(tmp_path) == []


@slow_in_ci
def test_rounded_weights_are_smaller_and_agree(student, tmp_path, quick):
    need("onnx")
    options = ExportOptions(quantisation="int8", force=True, timed=False)
    result = export_student(student, ["onnx"], tmp_path, options)
    assert result["failures"] == []
    (done,) = result["exports"]
    assert ".int8." in done["path"]
    assert done["quantisation"]["force_rmse_mev_per_a"] > 0.001
    assert done["quantisation"]["nve_completed"]
    assert done["bytes"] < 90_000  # 122 kB with float32 weights, 85 kB of them weights


def test_costly_rounding_is_refused_and_leaves_nothing(command, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "measure_loss", lambda *_: COSTLY)
    out, result = tmp_path / "out", tmp_path / "result.json"
    code, _, err = command("--to", "torchscript", "--quantize", "int8", "--out", out, "--json", result)
    assert code == 1
    assert err.startswith(f"error: small: int8 is refused; got {AGAINST}; remedy: --quantize float16, or")
    assert files(out) == []
    assert json.loads(result.read_text())["loss"]["limit_mev_per_a"] == pytest.approx(2.8)


def test_dynamics_that_fails_in_float32_as_well_is_no_fault_of_the_rounding(student):
    """As it did for released students of LiCl, whose generated crystal heats up by itself."""
    loss = Loss("float16", 4, 0.0, 0.1, 0.3, 28.0, False, None, None)
    assert loss.objection() == "its dynamics does not hold, which it does in float32"
    assert loss.remedy() == "--force to keep it all the same"  # there is nothing finer
    assert replace(loss, float32_nve_completed=False).objection() is None
    record = read_student(student)
    own, suspicious = Student(record, threads=1), Student(store_weights(record, "float16").record, threads=1)
    strained = SYSTEMS["triclinic"].copy()
    strained.set_cell(0.6 * strained.cell.array, scale_atoms=True)
    found = measure_loss(own, suspicious, [strained], "float16")
    assert not found.float32_nve_completed
    assert found.to_dict()["objection"] is None or "force RMSE" in found.to_dict()["objection"]


def test_what_rounding_costs_is_shown_and_why_force_was_needed():
    done = {
        "path": "small.int8.onnx", "bytes": 64_000, "n_structures": 9, "latency": [], "threads": 1,
        "parity": {"against_student": {"generated": {"force_mev_per_a": 0.0022}}},
        "quantisation": COSTLY.to_dict() | {"slower": "16 atoms 2 ms, float32 1 ms"},
    }  # fmt: skip
    assert run_module.describe(done) == (
        "small.int8.onnx: 64 kB, certified on 9 structures, forces of generated ones within 0.0022 meV/Å; int8 "
        f"changes forces by 7.5 meV/Å (rms); kept for --force in spite of {AGAINST}, and 16 atoms 2 ms, float32 1 ms"
    )
    half = Loss("float16", 4, 0.0, 0.1, 0.3, 28.0, True, 0.0, 0.0)
    done["quantisation"] = half.to_dict() | {"slower": None}
    assert run_module.describe(done).endswith("; float16 changes forces by 0.1 meV/Å (rms)")


def test_wrong_usage_is_one_line_and_exit_2(command, tmp_path):
    for arguments, text in [
        (["--to", "onx"], "--to: unknown name; got 'onx'; wanted onnx, torch-export, torchscript, all; remedy: did you mean 'onnx'?"),
        (["--to", ","], "--to: no format given; wanted onnx, torch-export, torchscript or all"),
        (["--to", "onnx", "--quantize", "int4"], "--quantize: unknown name; got 'int4'; wanted float16, int8"),
        (["--to", "onnx", "--threads", "0"], "Invalid value for '--threads'"),
    ]:  # fmt: skip
        code, printed, err = command(*arguments, "--out", tmp_path / "out")
        assert (code, printed, err.count("\n")) == (2, "", 1), arguments
        assert text in err, err
    assert not (tmp_path / "out").exists()


def test_structures_or_folders_that_cannot_serve_are_one_line(command, tmp_path):
    (tmp_path / "empty.extxyz").write_text("")
    write(tmp_path / "gold.extxyz", Atoms("Au"))
    write(tmp_path / "nan.extxyz", Atoms("O", positions=[[np.nan, 0, 0]]))
    for name, result in [
        ("empty.extxyz", "the file is empty; wanted at least one structure"),
        ("gold.extxyz", "the student does not know an element; got Au; wanted H C N O Si"),
        ("nan.extxyz", "nan.extxyz, atom 0: positions or cell are not finite"),
        ("none.extxyz", "no such file"),
    ]:
        path, out = tmp_path / name, tmp_path / "out"
        code, _, err = command("--to", "torchscript", "--structures", path, "--out", out)
        assert (code, err.count("\n")) == (2, 1)
        assert result in err, err
    code, _, err = command("--to", "torchscript", "--out", tmp_path / "empty.extxyz" / "out")
    assert code == 1
    assert "cannot write into the folder; got Not a directory; remedy: choose another --out" in err


def test_a_missing_extra_names_the_remedy(command, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None)
    code, _, err = command("--to", "all", "--out", tmp_path)
    assert code == 2
    assert (
        "got no onnx, onnxscript, onnxruntime; remedy: pip install -c constraints.txt -e '.[export]'" in err
    )


def test_one_format_that_fails_does_not_stop_the_others(student, tmp_path, monkeypatch):
    def export_one(work, kind, *_):
        if kind == "onnx":
            raise LimbeckError("no luck", where="x.onnx")
        parity = {"against_student": {"molecule": {"force_mev_per_a": 0.0}}}
        return {"format": kind, "path": "p", "bytes": 1, "n_structures": 1, "latency": [], "parity": parity}

    monkeypatch.setattr(run_module, "_export_one", export_one)
    monkeypatch.setattr(run_module, "_prepare", lambda *_: None)
    monkeypatch.setattr(run_module, "check_installed", lambda formats: None)
    lines: list[str] = []
    result = export_student(student, ["onnx", "torchscript"], tmp_path, say=lines.append)
    assert result["failures"] == ["x.onnx: no luck"]
    assert [done["format"] for done in result["exports"]] == ["torchscript"]
    assert lines[0] == "onnx: failed: x.onnx: no luck"
