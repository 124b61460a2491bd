"""The whole job put together; the only place that names concrete stages."""

from __future__ import annotations

from limbeck.planning.plan import plan
from limbeck.workflows.distillation import distill
from limbeck.workflows.stages import run_label, run_sample, run_train, run_validate

__all__ = ["distill", "plan", "run_label", "run_sample", "run_train", "run_validate"]
