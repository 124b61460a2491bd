"""Configurations: loading, overriding, saving; every error is one line that names key and place."""

from __future__ import annotations

from limbeck.config.documents import dump_yaml
from limbeck.config.durations import format_budget, parse_budget
from limbeck.config.loading import (
    config_from_values,
    load_config,
    load_label_config,
    load_label_keys,
    load_train_config,
    resolved_yaml,
)
from limbeck.config.models import (
    DistillConfig,
    LabelKeys,
    LabelRunConfig,
    LintConfig,
    RecipeName,
    TeacherConfig,
    TrainRunConfig,
    ValidationConfig,
)

__all__ = [
    "DistillConfig",
    "LabelKeys",
    "LabelRunConfig",
    "LintConfig",
    "RecipeName",
    "TeacherConfig",
    "TrainRunConfig",
    "ValidationConfig",
    "config_from_values",
    "dump_yaml",
    "format_budget",
    "load_config",
    "load_label_config",
    "load_label_keys",
    "load_train_config",
    "parse_budget",
    "resolved_yaml",
]
