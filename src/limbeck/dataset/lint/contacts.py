"""The earlier name of :mod:`limbeck.dataset.lint.bonds`, until its caller is changed."""

from limbeck.dataset.lint.bonds import CUTOFF_A as REACH_A
from limbeck.dataset.lint.bonds import nearest_bonds

__all__ = ["REACH_A", "nearest_bonds"]
