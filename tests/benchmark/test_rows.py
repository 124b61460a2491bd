"""What a row says follows from the seconds of its calls."""

from __future__ import annotations

import numpy as np
import pytest

from limbeck.benchmark.rows import Model, Row, Timing, make_row, speedup

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


def test_speed_up_is_the_median_of_ratios_within_a_round():
    # the machine is ten times slower in the second round: the ratio within it stays 4
    student = ((1.0, 1.0), (10.0, 10.0), (1.0,))
    teacher = ((4.0,), (40.0,), (5.0,))
    assert speedup(teacher, student) == pytest.approx(4.0)
    # rounds that the teacher had no more time for are left out
    assert speedup(teacher[:1], student) == pytest.approx(4.0)
    row = make_row(MODEL, "Si", 16, 1, Timing(student), Timing(teacher))
    assert row.speedup_vs_teacher == pytest.approx(4.0)
    assert make_row(MODEL, "Si", 16, 1, Timing(teacher), Timing(teacher)).speedup_vs_teacher == 1.0


def test_all_calls_count():
    np.testing.assert_array_equal(Timing(((1.0,), (2.0, 3.0))).seconds, [1.0, 2.0, 3.0])
