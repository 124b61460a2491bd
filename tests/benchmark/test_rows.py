"""What a row says follows from the seconds of its calls."""

from __future__ import annotations

import pytest

from limbeck.benchmark.rows import Model, Row, make_row
from limbeck.core.timing import Timing

KEYS = (
    "model preset parameters engine device threads system atoms batch latency_ms_median latency_ms_iqr "
    "structures_per_s atoms_per_s peak_memory_mb speedup_vs_teacher skipped student_sha256"
).split()
MODEL = Model("si", "native", "cpu", 2, "tiny", 70_000, "a" * 64)


def test_a_row_from_known_seconds():
    timing = Timing(((0.010, 0.020), (0.030,), (0.040, 0.050)), 12.5)
    row = make_row(MODEL, "Si", 16, 8, timing)
    assert row.latency_ms_median == pytest.approx(30.0)
    assert row.latency_ms_iqr == pytest.approx(20.0)  # 20 to 40
    assert row.structures_per_s == pytest.approx(8 / 0.030)
    assert row.atoms_per_s == pytest.approx(16 * 8 / 0.030)
    assert (row.peak_memory_mb, row.speedup_vs_teacher, row.skipped) == (12.5, None, None)
    assert list(row.to_dict()) == KEYS


def test_a_skipped_row_keeps_its_place_and_has_no_figures():
    row = make_row(MODEL, "Si", 4000, 1, "too slow")
    assert row == Row(
        "si", "tiny", 70_000, "native", "cpu", 2, "Si", 4000, 1, skipped="too slow", student_sha256="a" * 64
    )
    assert [key for key, value in row.to_dict().items() if value is None] == [
        key for key in KEYS if key.endswith(("median", "iqr", "_s", "_mb", "teacher"))
    ]


def test_speed_up_stands_beside_the_teachers_timing():
    student, teacher = Timing(((1.0, 1.0), (10.0,))), Timing(((4.0,), (40.0,)))
    assert make_row(MODEL, "Si", 16, 1, student, teacher).speedup_vs_teacher == pytest.approx(4.0)
    assert make_row(MODEL, "Si", 16, 1, teacher, teacher).speedup_vs_teacher == 1.0
