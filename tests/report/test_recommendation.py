"""Which preset is recommended, what the sentence says, and which student is no better than a smaller one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from limbeck.report.reading import read_run
from limbeck.report.recommendation import PresetRow, no_better, preset_rows, recommend

ORIGINAL = PresetRow("original", parameters=400_000, force_rmse=20.0, atoms_per_s=10_000.0, speedup=100.0)
TINY = PresetRow("tiny", parameters=70_000, force_rmse=25.0, atoms_per_s=25_000.0, speedup=250.0)
ULTRA = PresetRow("ultra-tiny", parameters=20_000, force_rmse=40.0, atoms_per_s=50_000.0, speedup=500.0)
ROWS = [ORIGINAL, TINY, ULTRA]
FAILING = replace(ULTRA, force_rmse=22.0, stable=False, instability="it flew apart")
SLOW = [replace(row, atoms_per_s=None, speedup=None) for row in (ORIGINAL, TINY)]
#: the largest is no better
LIMITED = [
    replace(ORIGINAL, force_rmse=11.5, training_loss=2e-5),
    replace(TINY, force_rmse=8.0, training_loss=3e-5),
    replace(ULTRA, force_rmse=9.3, training_loss=5e-5),
]
CLOSE = replace(LIMITED[0], force_rmse=7.8)


@pytest.mark.parametrize(
    ("rows", "target", "preset", "words"),
    [
        (ROWS, 100.0, "ultra-tiny", "the cheapest preset that meets the target of 100 meV/Å"),
        (ROWS, 40.0, "ultra-tiny", "the target of 40 meV/Å"),
        (ROWS, 39.9, "tiny", "the target of 39.9 meV/Å"),
        (ROWS, 20.0, "original", "the target of 20 meV/Å"),
        (ROWS, 19.0, None, "No preset meets the target of 19 meV/Å: the most accurate, original, is at 20.0"),
        ([ORIGINAL, TINY, FAILING], 30.0, "tiny", "Use tiny"),
        (
            [FAILING],
            30.0,
            None,
            "fails in its own dynamics. The dynamics of ultra-tiny did not stay physical",
        ),
        ([FAILING], 30.0, None, "it flew apart"),
        (ROWS, None, None, "original is the most accurate: force RMSE 20.0 meV/Å, 10,000 atoms/s, 100 times"),
        (ROWS, None, None, "ultra-tiny is the fastest: force RMSE 40.0 meV/Å, 50,000 atoms/s, 500 times"),
        (ROWS, None, None, "5.0 times as fast for 20.0 meV/Å more error."),
        ([TINY, replace(ORIGINAL, force_rmse=30.0)], None, "tiny", "Use tiny"),
        ([TINY], None, "tiny", "Use tiny, the only one there is: force RMSE 25.0 meV/Å"),
        (SLOW, 30.0, "tiny", "Use tiny"),
        (SLOW, None, None, "tiny is the smallest"),
        ([CLOSE, *LIMITED[1:]], None, None, "tiny is about as accurate as original: force RMSE 8.0 meV/Å"),
        (
            [CLOSE, LIMITED[1]],
            None,
            "tiny",
            "original (400,000 parameters) is hardly more accurate than tiny",
        ),
        ([], None, None, "No student has a force error"),
        ([PresetRow("tiny")], None, None, "No student has a force error"),
    ],
)
def test_a_preset_is_recommended_with_the_reason(rows, target, preset, words):
    advice = recommend(rows, target)
    assert advice.preset == preset
    assert words in advice.text


@pytest.mark.parametrize(("target", "preset"), [(None, None), (9.0, "tiny"), (1.0, None)])
def test_a_larger_preset_that_is_no_better_is_named_with_what_limits_it(target, preset):
    advice = recommend(LIMITED, target)
    assert advice.preset == preset
    assert "original (400,000 parameters) is no more accurate than tiny (70,000)" in advice.text
    assert "the number of labels limits it: use tiny, or a larger --budget" in advice.text
    assert "limbeck learning-curve RUN --preset original" in advice.text
    assert "a larger preset may close the gap" not in advice.text
    assert "tiny (70,000 parameters)" not in advice.text  # it is better than ultra-tiny


@pytest.mark.parametrize(
    "rows",
    [
        [replace(LIMITED[0], force_rmse=7.0), *LIMITED[1:]],  # clearly better
        [LIMITED[0], replace(LIMITED[1], stable=False)],  # one that fails is no reason against a larger one
    ],
)
def test_of_a_larger_preset_that_is_better_nothing_is_said(rows):
    assert "more accurate than" not in recommend(rows).text


@pytest.mark.parametrize(("error", "named"), [(37.0, 0), (37.9, 0), (38.1, 1), (40.0, 1), (60.0, 1)])
def test_a_gain_within_noise_is_none(error, named):
    found = no_better([ULTRA, replace(ORIGINAL, force_rmse=error)])
    assert all(("hardly more" in one.text()) is (error < 40.0) for one in found)
    assert [(one.larger.name, one.smaller.name) for one in found] == [("original", "ultra-tiny")] * named


def test_the_most_accurate_of_the_smaller_students_is_compared_with():
    (found,) = no_better([LIMITED[0], LIMITED[2], LIMITED[1]])
    assert (found.larger, found.smaller) == (LIMITED[0], LIMITED[1])
    assert no_better([ULTRA]) == no_better([]) == []


@pytest.mark.parametrize(
    ("loss", "limit", "words"),
    [
        (1e-5, "labels", "the number of labels limits it"),
        (9e-5, "time", "training time limits it"),
        (None, None, "Labels or training time limit it"),
    ],
)
def test_the_training_loss_tells_few_labels_from_little_training(loss, limit, words):
    (found,) = no_better([LIMITED[2], replace(LIMITED[0], training_loss=loss)])
    assert found.limit == limit
    for said in (words, "force RMSE 11.5 and 9.3 meV/Å", "use ultra-tiny, or a larger --budget"):
        assert said in found.text()


def test_rows_take_the_speed_of_the_benchmark_where_there_is_one(made_run, complete_run):
    before, after = (preset_rows(read_run(folder)) for folder in (made_run, complete_run))
    assert [row.name for row in before] == ["tiny", "ultra-tiny"]
    assert before[0].atoms_per_s == 20_000.0
    assert after[0].speed_of == "1,000 atoms, native engine, 2 threads"
    assert after[1].speedup == pytest.approx(5e4 / 300)
