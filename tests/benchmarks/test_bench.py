"""The table of the benchmark of the released students."""

from __future__ import annotations

from benchmarks.bench import BEGIN, END, HERE, STARTS, WHERE, table

from limbeck.runtime.released import list_students

ROW = {
    "model": "si-tiny", "preset": "tiny", "parameters": 1, "engine": "native", "device": "cpu", "threads": 1,
    "system": "Si 5x5x5", "atoms": 1000, "batch": 1, "latency_ms_median": 12.345, "latency_ms_iqr": 0.567,
    "structures_per_s": 81.0, "atoms_per_s": 81_004.5, "peak_memory_mb": 12.3, "speedup_vs_teacher": 456.7,
    "skipped": None,
}  # fmt: skip


def test_a_row_of_each_kind():
    machine = {"processor": "Fast One", "cores": 2, "python": "3.11.7", "load": 0.1}
    skipped = {**dict.fromkeys(ROW), **{k: ROW[k] for k in ("system", "atoms", "batch")}}
    skipped |= {"model": "slow", "engine": "teacher", "skipped": "too slow"}
    report = {"machine": machine, "settings": {"threads": 1}, "versions": {"limbeck": "0.1.0"}}
    lines = table([{**report, "rows": [ROW]}, {**report, "rows": [skipped]}]).splitlines()
    assert lines[0] == "Fast One, 1 of 2 cores, Python 3.11.7; limbeck 0.1.0; load when it began 0.1."
    assert lines[4] == "| si-tiny | native | Si 5x5x5 | 1,000 | 1 | 12.3 (0.57) | 81 | 81,004 | 12 | 457x |"
    assert lines[5] == "| slow | teacher | Si 5x5x5 | 1,000 | 1 | not measured: too slow |  |  |  |  |"
    assert {line.count("|") for line in lines[2:]} == {11}


def test_the_readme_has_its_place_and_every_start_a_name():
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    assert readme.count(BEGIN) == 1
    assert END in readme.split(BEGIN)[1]
    assert list(STARTS) == list(WHERE)
    assert {student.name.split("-")[0] for student in list_students()} == set(STARTS)
