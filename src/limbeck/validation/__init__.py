"""How far a Potential is from reference labels, on a test set and on its own trajectories."""

from __future__ import annotations

from limbeck.core.nve import DriftReport, nve_drift
from limbeck.records.metrics import (
    METRIC_KEYS,
    Errors,
    GroupedErrors,
    LongRangeReport,
    ValidationReport,
    WorstFrame,
)
from limbeck.validation.longrange import long_range_force
from limbeck.validation.metrics import compute_metrics, grouped_metrics
from limbeck.validation.onpolicy import OnPolicyReport, on_policy_error
from limbeck.validation.run import predict, validate, worst_frames

__all__ = [
    "METRIC_KEYS",
    "DriftReport",
    "Errors",
    "GroupedErrors",
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
]
