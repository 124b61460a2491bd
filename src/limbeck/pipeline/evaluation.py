"""Each student against its teacher: test errors, errors on its own dynamics, drift."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.config import ValidationConfig
from limbeck.core.files import write_whole
from limbeck.core.hashing import hash_file
from limbeck.core.labels import LabelledSet
from limbeck.core.nve import nve_drift
from limbeck.errors import LimbeckError
from limbeck.labelling.remote import WorkerPotential
from limbeck.pipeline.recipes import timestep_fs
from limbeck.runtime.student import Student
from limbeck.validation.onpolicy import on_policy_error
from limbeck.validation.run import validate

#: under this key stand the facts that are no errors on a split; no preset and no split has the name
RUN = "run"


@dataclass(frozen=True)
class Trial:
    """What students are judged on.

    Attributes
    ----------
    validation, test: labelled sets. hottest_k: temperature of a student's own dynamics.
    """

    validation: LabelledSet
    test: LabelledSet
    teacher: WorkerPotential
    hottest_k: float
    seed: int


def judge(student: Student, trial: Trial, settings: ValidationConfig) -> dict[str, Any]:
    """A preset's part of metrics.json: its splits, and under ``run`` how its own dynamics went.

    The split ``on_policy`` is absent where no frame of that dynamics could be compared.
    """
    starts = _test_starts(trial.test)
    timestep = settings.timestep_fs or min(1.0, timestep_fs(starts))
    judged: dict[str, Any] = {
        "validation": validate(student, trial.validation).metrics,
        "test": validate(student, trial.test).metrics,
        RUN: {"parameters": student.n_parameters},
    }
    if settings.onpolicy_frames:
        report = on_policy_error(
            student,
            trial.teacher,
            starts[-2:],
            temperature_k=trial.hottest_k,
            frames=settings.onpolicy_frames,
            every_fs=settings.onpolicy_every_fs,
            timestep_fs=timestep,
            equilibrate_fs=settings.onpolicy_equilibrate_fs,
            seed=trial.seed + 7,
        )
        if report.metrics:
            judged["on_policy"] = {"all": report.metrics}
        judged[RUN]["on_policy"] = {
            "temperature_k": trial.hottest_k, "stable": report.stable, "reason": report.reason
        }  # fmt: skip
    if settings.nve_fs:
        judged[RUN]["nve"] = _drift(student, starts[-1], trial, timestep / 2, settings.nve_fs)
    return judged


def _drift(
    student: Student, start: Atoms, trial: Trial, timestep: float, duration_fs: float
) -> dict[str, Any]:
    drift = nve_drift(
        student,
        start,
        temperature_k=trial.hottest_k,
        timestep_fs=timestep,
        duration_fs=duration_fs,
        seed=trial.seed + 8,
    )
    return asdict(drift) | {
        "temperature_k": trial.hottest_k,
        "timestep_fs": timestep,
        "duration_fs": duration_fs,
    }


def card_metrics(judged: dict[str, Any]) -> dict[str, Any]:
    """What the card keeps of the judgement: errors over each split, drift."""
    facts = judged[RUN]
    keep = {split: judged[split]["all"] for split in ("validation", "test")}
    keep["test_by_temperature"] = judged["test"].get("by_temperature", {})
    if "on_policy" in facts:
        keep["on_policy"] = judged.get("on_policy", {}) | facts["on_policy"]
    if "nve" in facts:
        keep["nve"] = facts["nve"]
    return keep


def write_judged(path: Path, student: Path, judged: dict[str, Any]) -> None:
    """Keep the judgement of a finished student file, so that it is not repeated."""
    write_whole(path, json.dumps({"student": hash_file(student), "judged": judged}, indent=1))


def read_judged(path: Path, student: Path) -> dict[str, Any] | None:
    """The judgement of exactly this student file, or None."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        judged = dict(kept["judged"]) if kept["student"] == hash_file(student) else {}
    except (OSError, ValueError, KeyError, TypeError, LimbeckError):
        return None  # judged again, which is always right
    return judged if {"validation", "test", RUN} <= set(judged) else None


def _test_starts(test: LabelledSet) -> list[Atoms]:
    """The last frame of each test trajectory, coolest first."""
    last = {group: k for k, group in enumerate(test.group)}
    order = sorted(last.values(), key=lambda k: np.nan_to_num(test.temperature_k[k]))
    return test.structures.select(order).to_atoms()
