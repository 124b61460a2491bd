"""The whole benchmark on a small student beside EMT, and the torch engine's batches."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule

from limbeck import cli
from limbeck.artifact.file import StudentFile, write_student
from limbeck.benchmark import run
from limbeck.benchmark.models import card_teacher
from limbeck.benchmark.plots import write_plot
from limbeck.benchmark.rows import Row
from limbeck.benchmark.run import run_benchmark
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.runtime.student import Student
from limbeck.students.painn import PaiNN
from tests.benchmark.test_rows import KEYS
from tests.benchmark.test_timing import Clock
from tests.students.tools import random_record, rattled

EMT = "ase.calculators.emt:EMT"


@pytest.fixture
def student(tmp_path):
    """A student of copper in a run folder with its starting structure."""
    path = tmp_path / "run" / "small.safetensors"
    path.parent.mkdir()
    record = random_record("ultra-tiny", (29,), dtype=np.float32)
    record.card.update(teacher={"name": EMT, "options": "{}"})
    write_student(path, record)
    ase.io.write(path.parent / "structures.extxyz", bulk("Cu", cubic=True))
    return path


def test_rows_of_a_student_and_its_teacher(student):
    report = run_benchmark([student], batches=[2], sizes=[], engines=["native"], threads=1, row_limit_s=30.0)
    said = report.to_dict()
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert [list(row) for row in said["rows"]] == [KEYS] * 2
    heads = [(row.model, row.engine, row.atoms, row.batch) for row in report.rows]
    assert heads == [(EMT, "teacher", 16, 2), ("small", "native", 16, 2)]
    for row in report.rows:
        assert row.skipped is None
        assert row.atoms_per_s == pytest.approx(row.atoms * row.structures_per_s)
        assert row.structures_per_s == pytest.approx(1e3 * row.batch / row.latency_ms_median)
        assert (row.device, row.threads) == ("cpu", 1)
        assert row.peak_memory_mb >= 0
        assert row.speedup_vs_teacher > 0
    assert report.rows[0].speedup_vs_teacher == 1.0
    assert report.rows[1].parameters == Student.load(student).n_parameters
    assert report.rows[1].preset == "ultra-tiny"
    assert list(report.machine) == "processor cores usable_cores system python load".split()
    assert report.machine["processor"]
    assert report.systems == (f"small: {student.parent / 'structures.extxyz'}",)


def test_what_does_not_fit_into_the_time_stays_in_the_table(student):
    class Late(Clock):
        """Past the deadline from its second reading on."""

        def __call__(self):
            self.now += 100.0
            return self.now

    report = run_benchmark(
        [student], batches=[1, 4], sizes=[17, 32], engines=["native", "torch"], threads=1, budget_s=60.0,
        clock=Late(),
    )  # fmt: skip
    # one row of 16 atoms, though two were asked for; small ones first
    assert [(row.atoms, row.batch) for row in report.rows[::3]] == [(16, 1), (32, 1), (16, 4)]
    assert [(row.model, row.engine) for row in report.rows[:3]] == [
        (EMT, "teacher"),
        ("small", "native"),
        ("small", "torch"),
    ]
    assert {row.skipped for row in report.rows} == {"the benchmark's time, 1 min 00 s, was used up"}
    assert all(row.latency_ms_median is None for row in report.rows)


def test_a_teacher_that_does_not_fit_is_a_reason(student):
    report = run_benchmark([student], teacher="so3lr", batches=[1], sizes=[], engines=["native"], threads=1)
    teacher, own = report.rows
    assert teacher.skipped.startswith("structure 0")
    assert "teacher 'so3lr' was not trained on Cu" in teacher.skipped
    assert own.skipped is None
    assert own.speedup_vs_teacher is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"engines": ["fast"]}, "unknown engine; got fast; wanted native or torch"),
        ({"sizes": [0]}, "atoms holds what is no number of them; got [0]; wanted 1 or more each"),
        ({"sizes": [], "batches": []}, "nothing to measure; got no batch and no size; wanted one of them"),
        ({"row_limit_s": 0}, "a limit of time is not positive; got 0; wanted seconds"),
        ({"threads": 99_999}, "invalid number of threads; got 99999; wanted 1 to"),
        ({"device": "tpu"}, "unknown device; got 'tpu'; wanted cpu, cuda or cuda:1"),
    ],
)
def test_wrong_input_is_refused_before_anything_starts(student, options, text):
    with pytest.raises(InputError) as error:
        run_benchmark([student], **{"threads": 1, **options})
    assert str(error.value).startswith(text)


def test_structures_that_no_student_knows_are_refused_before_anything_starts(student, tmp_path):
    ase.io.write(tmp_path / "al.xyz", bulk("Al", cubic=True))
    with pytest.raises(InputError, match=r"al.xyz: no student knows all elements of the structures; got Al"):
        run_benchmark([student], structures=tmp_path / "al.xyz", threads=1)


@pytest.mark.parametrize("periodic", [True, False])
def test_a_batch_of_the_torch_engine_is_so_many_structures(monkeypatch, periodic):
    elements = (14,) if periodic else (1, 6, 8)
    base = bulk("Si", cubic=True) * (2, 1, 1) if periodic else molecule("CH3CH2OH")
    frames = [rattled(base, seed) for seed in range(8)]
    made = Student(random_record("ultra-tiny", elements), engine="torch", precision="float64")
    alone = [made.evaluate([frame]) for frame in frames]
    calls = []
    forward = PaiNN.forward
    monkeypatch.setattr(PaiNN, "forward", lambda self, graph: calls.append(1) or forward(self, graph))
    together = made.evaluate(StructureBatch.from_atoms(frames))
    assert len(calls) == 1  # one call for the batch
    single = np.concatenate([one.energy for one in alone])
    assert together.energy.shape == (8,)
    assert np.ptp(single) > 1e-3  # they differ: a sum or a mean would show
    np.testing.assert_allclose(together.energy, single, rtol=0, atol=1e-9)
    np.testing.assert_allclose(together.forces, np.concatenate([one.forces for one in alone]), atol=1e-9)


ROWS = [
    Row(model, None, 1, engine, "cpu", 1, "Si", atoms, batch, 1.0, 0.1, 1e3 * batch, 1e3 * atoms * batch, 1.0, 2.0)
    for model, engine in (("t", "teacher"), ("tiny", "native"), ("tiny", "torch"))
    for atoms, batch in ((16, 1), (16, 2), (100, 1))
]  # fmt: skip


def test_plots_are_drawn_and_need_nothing_else(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [*ROWS, Row("slow", None, 1, "native", "cpu", 1, "Si", 100, 1, skipped="too slow")]
    write_plot(rows, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    write_plot(rows, tmp_path / "speed.html")
    page = (tmp_path / "speed.html").read_text()
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert not any(f'{name}="http' in page for name in ("src", "xlink:href", "href"))
    write_plot([], tmp_path / "none.png")


def run_cli(capsys, *arguments):
    code = cli.main(["bench", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_prints_a_table_and_writes_json(capsys, student, tmp_path):
    code, out, err = run_cli(
        capsys, student, "--teacher", "none", "--batch", "2", "--atoms", "", "--engines", "native", "--threads", "1",
        "--json", tmp_path / "bench.json",
    )  # fmt: skip
    assert code == 0, err
    assert "atoms/s" in out
    assert "small" in out
    assert f"systems of small: {student.parent / 'structures.extxyz'}" in out
    (row,) = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert list(row) == KEYS
    assert (row["model"], row["atoms"], row["batch"], row["skipped"]) == ("small", 16, 2, None)


def test_nothing_measured_is_a_failure_that_says_why(capsys, student, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_check_known", lambda *_: None)  # which refuses them before
    ase.io.write(tmp_path / "si.xyz", bulk("Si"))
    code, out, err = run_cli(
        capsys, student, "--teacher", "none", "--batch", "1", "--atoms", "", "--engines", "native", "--threads", "1",
        "--structures", tmp_path / "si.xyz", "--json", tmp_path / "bench.json",
    )  # fmt: skip
    assert code == 1
    assert "(1) small: the student does not know an element; got Si" in out
    assert err.splitlines()[-1].startswith(
        "error: nothing could be measured; got small: the student does not know"
    )
    assert len(json.loads((tmp_path / "bench.json").read_text())["rows"]) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--batch", "1,two"], "--batch: not a list of numbers; got '1,two'; wanted such as 1,2,4"),
        (["--atoms", "-4"], "--atoms: not a list of numbers; got '-4'; wanted such as 1,2,4"),
        (["--row-limit", "soon"], "not a length of time; got 'soon'; wanted such as 90s, 20m or 1h30m"),
        (
            ["--plot", "speed.pdf"],
            "speed.pdf: plots are PNG or HTML; wanted a name that ends in .png or .html",
        ),
        (["--trust"], "options of a teacher that is not named; got --trust; wanted --teacher NAME with them"),
        (["--engines", "native,onnx"], "unknown engine; got native, onnx; wanted native or torch"),
        (["--structures", "no.xyz"], "no.xyz: no such file; wanted a structure file that ASE reads"),
    ],
)
def test_wrong_usage_is_one_line(capsys, student, arguments, text):
    code, out, err = run_cli(capsys, student, "--threads", "1", *arguments)
    assert (code, out, err) == (2, "", f"error: {text}\n")


def test_an_unknown_student_or_teacher_is_one_line(capsys, student):
    code, _, err = run_cli(capsys, "silicon-tny", "--threads", "1")
    assert (code, err.startswith("error: no such student; got 'silicon-tny'")) == (2, True)
    code, _, err = run_cli(capsys, student, "--teacher", "chgnt", "--threads", "1")
    assert (code, "unknown teacher; got 'chgnt'; wanted 'chgnet'?" in err) == (2, True)


def test_own_labels_are_no_teacher(tmp_path):
    def card(name):
        return StudentFile(tmp_path, {"teacher": {"name": name}}, "student")

    assert card_teacher([card("labels of dft.extxyz")]) is None
    assert card_teacher([card("labels of dft.extxyz"), card("chgnet")]).name == "chgnet"
