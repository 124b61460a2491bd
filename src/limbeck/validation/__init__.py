"""How far a Potential is from reference labels, held out and on its own trajectories."""

from __future__ import annotations

from limbeck.core.nve import DriftReport, nve_drift
from limbeck.validation.longrange import LongRangeReport, long_range_force
from limbeck.validation.metrics import METRIC_KEYS, compute_metrics, grouped_metrics
from limbeck.validation.onpolicy import OnPolicyReport, on_policy_error
from limbeck.validation.plots import write_plots
from limbeck.validation.run import ValidationReport, WorstFrame, predict, validate, worst_frames

__all__ = [
    "METRIC_KEYS",
    "DriftReport",
    "LongRangeReport",
    "OnPolicyReport",
    "ValidationReport",
    "WorstFrame",
    "compute_metrics",
    "grouped_metrics",
    "long_range_force",
    "nve_drift",
    "on_policy_error",
    "predict",
    "validate",
    "worst_frames",
    "write_plots",
]
