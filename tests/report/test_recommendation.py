"""Which preset is recommended, and what the sentence says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from limbeck.report.reading import read_run
from limbeck.report.recommendation import PresetRow, no_better, preset_rows, recommend
from tests.report.conftest import complete

ORIGINAL = PresetRow("original", parameters=400_000, force_rmse=20.0, atoms_per_s=10_000.0, speedup=100.0)
TINY = PresetRow("tiny", parameters=70_000, force_rmse=25.0, atoms_per_s=25_000.0, speedup=250.0)
ULTRA = PresetRow("ultra-tiny", parameters=20_000, force_rmse=40.0, atoms_per_s=50_000.0, speedup=500.0)
ROWS = [ORIGINAL, TINY, ULTRA]


@pytest.mark.parametrize(
    ("target", "preset"), [(100.0, "ultra-tiny"), (40.0, "ultra-tiny"), (39.9, "tiny"), (20.0, "original")]
)
def test_the_cheapest_preset_that_meets_the_target_is_chosen(target, preset):
    advice = recommend(ROWS, target)
    assert advice.preset == preset
    assert f"the cheapest preset that meets the target of {target:g} meV/Å" in advice.text


def test_a_target_that_none_meets_is_said_with_the_best_figure():
    advice = recommend(ROWS, 19.0)
    assert advice.preset is None
    assert advice.text.startswith(
        "No preset meets the target of 19 meV/Å: the most accurate, original, is at 20.0 meV/Å."
    )


def test_a_student_that_fails_in_its_own_dynamics_is_passed_over():
    failing = PresetRow(
        "ultra-tiny", force_rmse=22.0, atoms_per_s=50_000.0, stable=False, instability="it flew apart"
    )
    assert recommend([ORIGINAL, TINY, failing], 30.0).preset == "tiny"
    alone = recommend([failing], 30.0)
    assert alone.preset is None
    assert "fails in its own dynamics" in alone.text
    assert "it flew apart" in alone.text


def test_without_a_target_both_ends_stand_with_their_figures():
    advice = recommend(ROWS)
    assert advice.preset is None
    assert advice.text == (
        "original is the most accurate: force RMSE 20.0 meV/Å, 10,000 atoms/s, 100 times the teacher's speed. "
        "ultra-tiny is the fastest: force RMSE 40.0 meV/Å, 50,000 atoms/s, 500 times the teacher's speed; "
        "5.0 times as fast for 20.0 meV/Å more error."
    )


def test_one_student_that_is_best_in_both_is_the_one_to_use():
    assert recommend([TINY, PresetRow("original", force_rmse=30.0, atoms_per_s=9e3)]).preset == "tiny"
    assert recommend([TINY]).text.startswith("Use tiny, the only one there is: force RMSE 25.0 meV/Å")


def test_without_speeds_the_smallest_is_the_cheapest():
    rows = [
        PresetRow("original", parameters=400_000, force_rmse=20.0),
        PresetRow("tiny", parameters=70_000, force_rmse=25.0),
    ]
    assert recommend(rows, 30.0).preset == "tiny"
    assert "tiny is the smallest" in recommend(rows).text


SMALL = PresetRow("ultra-tiny", parameters=20_000, force_rmse=10.0, training_loss=4e-5)
LIMITED = [
    PresetRow("original", parameters=400_000, force_rmse=11.5, atoms_per_s=10_000.0, training_loss=2e-5),
    PresetRow("tiny", parameters=70_000, force_rmse=8.0, atoms_per_s=25_000.0, training_loss=3e-5),
    PresetRow("ultra-tiny", parameters=20_000, force_rmse=9.3, atoms_per_s=50_000.0, training_loss=5e-5),
]


@pytest.mark.parametrize("target", [None, 9.0, 1.0])
def test_a_larger_preset_that_is_no_better_is_named_with_what_limits_it(target):
    advice = recommend(LIMITED, target)
    assert advice.preset == (None if target != 9.0 else "tiny")
    assert "original (400,000 parameters) is no more accurate than tiny (70,000)" in advice.text
    assert "the number of labels limits it: use tiny, or a larger --budget" in advice.text
    assert "limbeck learning-curve RUN --preset original" in advice.text
    assert "a larger preset may close the gap" not in advice.text
    assert "tiny (70,000 parameters)" not in advice.text  # it is better than ultra-tiny


def test_of_two_that_are_as_accurate_the_smaller_is_recommended():
    original = replace(LIMITED[0], force_rmse=7.8)
    advice = recommend([original, *LIMITED[1:]])
    assert advice.text.startswith("tiny is about as accurate as original: force RMSE 8.0 meV/Å")
    assert recommend([original, LIMITED[1]]).preset == "tiny"
    clearly_better = replace(LIMITED[0], force_rmse=7.0)
    assert "more accurate than" not in recommend([clearly_better, *LIMITED[1:]]).text


def test_a_smaller_student_that_fails_in_its_own_dynamics_is_no_reason_against_a_larger_one():
    failing = replace(LIMITED[1], stable=False, instability="it flew apart")
    assert "more accurate than" not in recommend([LIMITED[0], failing]).text


@pytest.mark.parametrize(
    ("error", "named"), [(9.0, False), (9.4, False), (9.6, True), (10.0, True), (14.0, True)]
)
def test_a_gain_within_noise_is_none(error, named):
    found = no_better([SMALL, replace(SMALL, name="original", parameters=400_000, force_rmse=error)])
    assert all(("hardly more" in one.text()) is (error < 10.0) for one in found)
    assert [(one.larger.name, one.smaller.name) for one in found] == [("original", "ultra-tiny")] * named


def test_the_most_accurate_of_the_smaller_students_is_compared_with():
    tiny = PresetRow("tiny", parameters=70_000, force_rmse=6.0)
    original = PresetRow("original", parameters=400_000, force_rmse=8.0)
    (found,) = no_better([original, SMALL, tiny])
    assert (found.larger, found.smaller) == (original, tiny)
    assert no_better([SMALL]) == no_better([]) == []


@pytest.mark.parametrize(
    ("loss", "limit", "words"),
    [
        (1e-5, "labels", "the number of labels limits it"),
        (9e-5, "time", "training time limits it"),
        (None, None, "Labels or training time limit it"),
    ],
)
def test_the_training_loss_tells_few_labels_from_little_training(loss, limit, words):
    original = PresetRow("original", parameters=400_000, force_rmse=14.0, training_loss=loss)
    (found,) = no_better([SMALL, original])
    assert found.limit == limit
    for said in (words, "force RMSE 14.0 and 10.0 meV/Å", "use ultra-tiny, or a larger --budget"):
        assert said in found.text()


def test_without_errors_nothing_is_recommended():
    assert recommend([]).preset is None
    assert recommend([PresetRow("tiny")]).text == "No student has a force error, so none can be recommended."


def test_rows_take_the_speed_of_the_benchmark_where_there_is_one(run_folder):
    before = preset_rows(read_run(run_folder))
    assert [row.name for row in before] == ["tiny", "ultra-tiny"]
    assert before[0].atoms_per_s == 20_000.0
    complete(run_folder)
    after = preset_rows(read_run(run_folder))
    assert after[0].speed_of == "1,000 atoms, native engine, 2 threads"
    assert after[1].speedup == pytest.approx(5e4 / 300)
