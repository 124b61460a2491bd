"""A larger student that is no more accurate than a smaller one, and what limits it."""

from __future__ import annotations

import pytest

from limbeck.validation.size import Sized, no_better

SMALL = Sized("ultra-tiny", 20_000, 10.0, 4e-5)


@pytest.mark.parametrize(
    ("error", "named"), [(9.0, False), (9.4, False), (9.6, True), (10.0, True), (14.0, True)]
)
def test_a_gain_within_noise_is_none(error, named):
    found = no_better([SMALL, Sized("original", 400_000, error, 1e-5)])
    assert all(("hardly more" in one.text()) is (error < 10.0) for one in found)
    assert [(one.larger.name, one.smaller.name) for one in found] == [("original", "ultra-tiny")] * named


def test_the_most_accurate_of_the_smaller_students_is_compared_with():
    tiny, original = Sized("tiny", 70_000, 6.0), Sized("original", 400_000, 8.0)
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
    (found,) = no_better([SMALL, Sized("original", 400_000, 14.0, loss)])
    assert found.limit == limit
    assert words in found.text()
    assert "force RMSE 14.0 and 10.0 meV/Å" in found.text()
    assert "use ultra-tiny, or a larger --budget" in found.text()
