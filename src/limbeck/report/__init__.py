"""One self-contained page about a run, figures of errors, and cards of students as model hubs read them."""

from __future__ import annotations

from limbeck.report.card import model_card
from limbeck.report.error_figures import write_plots
from limbeck.report.page import Written, write_page
from limbeck.report.reading import Run, read_run
from limbeck.report.recommendation import PresetRow, Recommendation, preset_rows, recommend

__all__ = [
    "PresetRow",
    "Recommendation",
    "Run",
    "Written",
    "model_card",
    "preset_rows",
    "read_run",
    "recommend",
    "write_page",
    "write_plots",
]
