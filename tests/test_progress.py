"""Progress lines: rate-limited, with the time left, first and last always said."""

from __future__ import annotations

import io

import pytest

from limbeck import progress
from limbeck.progress import (
    BarProgress,
    LineProgress,
    format_figure,
    format_seconds,
    no_progress,
    open_progress,
)
from limbeck.report.markup import number


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by one second a call of ``tick``."""

    class Clock:
        now = 100.0

        def tick(self, seconds: float = 1.0) -> None:
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    return clock


def test_lines_are_rare_and_tell_the_time_left(clock):
    stream = io.StringIO()
    with LineProgress(stream, every_s=10) as report:
        for done in range(41):
            report("labelling", done, 40, "3.2 labels/s")
            clock.tick()
        report("labelling", 40, 40, "said already")
        report("training", 0)
    assert stream.getvalue().splitlines() == [
        "labelling: 0/40  3.2 labels/s",
        "labelling: 10/40  30 s left  3.2 labels/s",
        "labelling: 20/40  20 s left  3.2 labels/s",
        "labelling: 30/40  10 s left  3.2 labels/s",
        "labelling: 40/40  3.2 labels/s",
        "training: 0",
    ]


def test_work_found_done_does_not_count_as_fast(clock):
    stream = io.StringIO()
    report = LineProgress(stream, every_s=1)
    report("labelling", 30, 40)
    clock.tick(10)
    report("labelling", 35, 40)
    assert stream.getvalue().splitlines()[-1] == "labelling: 35/40  10 s left"


def test_progress_is_lines_where_stderr_is_no_terminal(capsys):
    with open_progress() as report:
        report("x", 1, 1)
    assert isinstance(report, LineProgress)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "x: 1/1\n")


def test_bars_take_the_same_calls(capsys):
    with BarProgress() as report:
        report("a [b] c", 0, 2)
        report("a [b] c", 2, 2, "done [x]")
        report("unknown length", 5)
    assert capsys.readouterr().out == ""
    no_progress("x", 1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min"), (-1, "0 s")],
)
def test_durations_read_well(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(1473.2, 3, "1,470"), (0.7158, 3, "0.716"), (240.1, 2, "240"), (2.0, 3, "2"), (1.2e-6, 3, "1.2e-06")],
)
def test_large_figures_are_no_powers_of_ten(value, digits, text):
    assert format_figure(value, digits) == text
    assert number(value, f"{{:.{digits}g}}×") == f"{text}×"  # on the report's page too
