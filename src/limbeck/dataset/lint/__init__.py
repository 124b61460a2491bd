"""Checks of labelled data before training."""

from __future__ import annotations

from limbeck.dataset.lint.close import find_copies
from limbeck.dataset.lint.records import CODES, NOTHING_EXPECTED, Expected, Finding, LintReport, check_codes
from limbeck.dataset.lint.run import lint

__all__ = [
    "CODES", "NOTHING_EXPECTED", "Expected", "Finding", "LintReport", "check_codes", "find_copies", "lint",
]  # fmt: skip
