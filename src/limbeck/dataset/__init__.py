"""Labelled data: reading, splitting, describing."""

from __future__ import annotations

from limbeck.dataset.read import labelled_from_atoms, read_labelled, split_isolated_atoms
from limbeck.dataset.split import Split, split
from limbeck.dataset.statistics import DataStatistics, fit_references, shortest_pairs, statistics

__all__ = [
    "DataStatistics",
    "Split",
    "fit_references",
    "labelled_from_atoms",
    "read_labelled",
    "shortest_pairs",
    "split",
    "split_isolated_atoms",
    "statistics",
]
