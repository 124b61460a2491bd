"""Each student against its teacher: held-out errors, its own dynamics, drift, speed; the last table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.benchmark.speed import atoms_per_second
from limbeck.config import ValidationConfig
from limbeck.core.files import write_whole
from limbeck.core.hashing import hash_file
from limbeck.core.labels import LabelledSet
from limbeck.errors import LimbeckError
from limbeck.labelling.remote import WorkerPotential
from limbeck.pipeline.defaults import timestep_fs
from limbeck.pipeline.table import format_table
from limbeck.runtime.student import Student
from limbeck.validation.onpolicy import nve_drift, on_policy_error
from limbeck.validation.run import validate

Say = Callable[[str], None]
_SUMMARY = ("force_rmse_mev_per_a", "force_r2", "energy_mae_mev_per_atom")


@dataclass(frozen=True)
class Trial:
    """What students are judged on.

    Attributes
    ----------
    validation, heldout: labelled sets. hottest_k: temperature of a student's own dynamics.
    """

    validation: LabelledSet
    heldout: LabelledSet
    teacher: WorkerPotential
    hottest_k: float
    seed: int


def judge(student: Student, trial: Trial, settings: ValidationConfig) -> dict[str, Any]:
    """Held-out and validation errors, errors on the student's own dynamics, drift without thermostat."""
    starts = _heldout_starts(trial.heldout)
    step = settings.timestep_fs or min(1.0, timestep_fs(starts))
    result: dict[str, Any] = {
        "validation": validate(student, trial.validation).metrics,
        "heldout": validate(student, trial.heldout).metrics,
        "on_policy": {},
    }
    summary: dict[str, Any] = {"parameters": student.n_parameters}
    summary |= {k: result["heldout"]["all"][k] for k in _SUMMARY}
    if settings.onpolicy_frames:
        report = on_policy_error(
            student,
            trial.teacher,
            starts[-2:],
            temperature_k=trial.hottest_k,
            frames=settings.onpolicy_frames,
            every_fs=settings.onpolicy_every_fs,
            timestep_fs=step,
            equilibrate_fs=settings.onpolicy_equilibrate_fs,
            seed=trial.seed + 7,
        )
        result["on_policy"] = {
            "all": report.metrics,
            "n_frames": report.n_frames,
            "stable": report.stable,
            "reason": report.reason,
            "temperature_k": trial.hottest_k,
        }
        if report.metrics:
            summary["on_policy_force_rmse_mev_per_a"] = report.metrics["force_rmse_mev_per_a"]
    if settings.nve_fs:
        drift = nve_drift(
            student,
            starts[-1],
            temperature_k=trial.hottest_k,
            timestep_fs=step / 2,
            duration_fs=settings.nve_fs,
            seed=trial.seed + 8,
        )
        result["nve"] = asdict(drift) | {
            "temperature_k": trial.hottest_k,
            "timestep_fs": step / 2,
            "duration_fs": settings.nve_fs,
        }
        summary["drift_mev_per_atom_per_ps"] = drift.drift_mev_per_atom_per_ps
    result["summary"] = summary
    return result


def card_metrics(judged: dict[str, Any]) -> dict[str, Any]:
    """What the card keeps of the judgement."""
    keep = {k: judged[k]["all"] for k in ("validation", "heldout")}
    keep["heldout_by_temperature"] = judged["heldout"].get("by_temperature", {})
    keep["on_policy"] = judged["on_policy"]
    keep["nve"] = judged.get("nve")
    return keep


def write_judged(path: Path, student: Path, judged: dict[str, Any]) -> None:
    """Keep the judgement of a finished student file, so that it is not repeated."""
    write_whole(path, json.dumps({"student": hash_file(student), "judged": judged}, indent=1))


def read_judged(path: Path, student: Path) -> dict[str, Any] | None:
    """The judgement of exactly this student file, or None."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return dict(kept["judged"]) if kept["student"] == hash_file(student) else None
    except (OSError, ValueError, KeyError, TypeError, LimbeckError):
        return None  # judged again, which is always right


def write_metrics(
    folder: Path, presets: Sequence[str], metrics: dict[str, Any], trial: Trial, say: Say
) -> None:
    """Add speeds, write metrics.json, print the table."""
    teacher = trial.teacher
    rates = _rates(folder, presets, trial)
    teacher_parameters = _teacher_parameters(teacher)
    rows: list[dict[str, Any]] = [
        {"model": teacher.name, "parameters": teacher_parameters, "atoms_per_s": rates[teacher.name]}
    ]
    for preset in presets:
        summary = metrics[preset]["summary"]
        summary["atoms_per_s"] = rates[preset]
        summary["speedup"] = rates[preset] / rates[teacher.name]
        if teacher_parameters:
            summary["compression"] = teacher_parameters / summary["parameters"]
        rows.append({"model": preset, **summary})
    metrics["teacher"] = {
        "name": teacher.name,
        "parameters": teacher_parameters,
        "atoms_per_s": rates[teacher.name],
    }
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=1))
    say("")
    say(format_table(rows))
    say(
        f"(errors on {len(trial.heldout)} held-out frames of the teacher's own dynamics; on-policy: frames "
        f"of the student's own dynamics at {trial.hottest_k:g} K, labelled by the teacher)"
    )
    for preset in presets:
        if metrics[preset]["on_policy"].get("reason"):
            say(f"{preset}: {metrics[preset]['on_policy']['reason']}")
    say(f"results in {folder}: " + ", ".join(f"{p}.safetensors" for p in presets) + ", metrics.json")


def _heldout_starts(heldout: LabelledSet) -> list[Atoms]:
    """The last frame of each held-out trajectory, coolest first."""
    last = {family: k for k, family in enumerate(heldout.family)}
    order = sorted(last.values(), key=lambda k: np.nan_to_num(heldout.temperature_k[k]))
    return heldout.structures.select(order).to_atoms()


def _rates(folder: Path, presets: Sequence[str], trial: Trial) -> dict[str, float]:
    students = [Student.load(folder / f"{p}.safetensors") for p in presets]
    atoms = trial.heldout.structures.select([0]).to_atoms()[0]
    values = atoms_per_second([trial.teacher, *students], atoms)
    return dict(zip([trial.teacher.name, *presets], values, strict=True))


def _teacher_parameters(teacher: WorkerPotential) -> int | None:
    count = getattr(teacher, "n_parameters", None)
    return int(count) if count else None
