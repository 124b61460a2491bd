"""The whole job put together; the only place that names concrete stages."""

from __future__ import annotations

from limbeck.pipeline.commands import run_label, run_sample, run_train, run_validate
from limbeck.pipeline.distilling import distill
from limbeck.pipeline.planning import plan

__all__ = ["distill", "plan", "run_label", "run_sample", "run_train", "run_validate"]
