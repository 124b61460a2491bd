"""``finalize.json``: parts, and each student with all that is known of it."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

from limbeck import __version__
from limbeck.artifact.file import StudentFile
from limbeck.core.charge import ChargeState
from limbeck.core.hashing import hash_file
from limbeck.core.machine import describe_machine
from limbeck.export.formats import FORMATS
from limbeck.export.quantise import own_force_error
from limbeck.report.recommendation import USUAL_ATOMS, PresetRow
from limbeck.workflows.finalize_cache import Outcome, Parts
from limbeck.workflows.finalize_inputs import Inputs

_DEVIATIONS = ("force_mev_per_a", "energy_mev", "stress_mev_per_a3", "n_structures")
_EXPORTED = (
    "quantisation", "verdict", "reason", "format", "path", "bytes", "sha256", "opset", "torch", "runtime",
    "n_structures", "threads", "latency", "loss",
)  # fmt: skip
_SETTINGS = ("quantisations", "target_force_rmse_mev_per_a", "budget_s", "threads", "row_limit_s")


def summary(inputs: Inputs, parts: Parts, seconds: float) -> dict[str, Any]:
    """The whole of ``finalize.json``."""
    settings = inputs.settings
    failed = [one.title for one in parts.outcomes if one.verdict == "failed"]
    return {
        "verdict": "failed" if failed else "done",
        "failed": failed,
        "skipped": [one.title for one in parts.outcomes if one.verdict == "skipped"],
        "seconds": round(seconds, 1),
        "limbeck": __version__,
        "python": platform.python_version(),
        "machine": describe_machine(),
        "settings": {name: getattr(settings, name) for name in _SETTINGS} | {
            "data": settings.data and str(settings.data),
            "keys": settings.keys.model_dump(exclude_none=True),
            "teacher": getattr(settings.teacher, "name", settings.teacher),
            "formats": settings.formats or FORMATS,
            "skip": sorted(settings.skip),
        },
        "out": str(inputs.out),
        "run": inputs.run and str(inputs.run.folder),
        "recommendation": next((one.result for one in parts.found("recommendation")), None),
        "students": student_rows(inputs, parts),
        "parts": [_part(one) for one in parts.outcomes],
    }  # fmt: skip


def student_rows(inputs: Inputs, parts: Parts) -> list[dict[str, Any]]:
    """One entry a student, in the order of the inputs."""
    return [_student(student, inputs, parts) for student in inputs.students]


def as_preset_row(student: dict[str, Any]) -> PresetRow:
    """A student of the summary as recommendations are made from."""
    errors, speed = student["errors"] or {}, student["speed"] or {}
    return PresetRow(
        name=student["name"],
        parameters=student["parameters"],
        file_kb=student["bytes"] / 1e3,
        compression=student["compression"],
        force_rmse=errors.get("force_rmse_mev_per_a"),
        atoms_per_s=speed.get("atoms_per_s"),
        speedup=speed.get("speedup_vs_teacher"),
        threads=speed.get("threads"),
    )


def _part(one: Outcome) -> dict[str, Any]:
    entry = asdict(one) | {"seconds": round(one.seconds, 2), "reason": one.reason or None}
    return {key: value for key, value in entry.items() if key != "result"}


def _student(student: StudentFile, inputs: Inputs, parts: Parts) -> dict[str, Any]:
    rows = [row for one in parts.found("bench") for row in one.result["rows"]]
    card, teacher = dict(student.card), student.card.get("teacher") or {}
    parameters = student.architecture.n_parameters
    # the teacher's, where either the benchmark or the run counted them
    name = teacher.get("name")
    counted = [row["parameters"] for row in rows if (row["engine"], row["model"]) == ("teacher", name)]
    if inputs.run is not None:
        counted.append(inputs.run.metrics.teacher.parameters)
    return {
        "name": student.name,
        "path": str(student.path),
        "bytes": student.path.stat().st_size,
        "sha256": hash_file(student.path),
        "preset": card.get("preset"),
        "elements": sorted(student.architecture.elements),
        **ChargeState.of_card(card, student.path).on_card(),
        "teacher": name,
        "licence": teacher.get("licence"),
        "parameters": parameters,
        "compression": next((n / parameters for n in counted if n), None),
        "errors": _errors(student, parts),
        "speed": _speed([row for row in rows if row["model"] == student.name]),
        "exports": [_export(one) for one in parts.found("export ", student.name)],
        "quantisation": [_export(one) for one in parts.found("quantize ", student.name)],
    }


def _errors(student: StudentFile, parts: Parts) -> dict[str, Any] | None:
    """On the data of this command; else the force error that the card has."""
    for measured in parts.found("validate", student.name):
        return {"on": "test labels", **measured.result["all"]}
    own = own_force_error(dict(student.card))
    return None if own is None else {"on": "the card's own split", "force_rmse_mev_per_a": own}


def _speed(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The single structure nearest to 1,000 atoms, and the smallest: latency there is overhead."""
    single = [row for row in rows if row["batch"] == 1 and row["atoms_per_s"]]
    own = sorted(single, key=lambda row: abs(row["atoms"] - USUAL_ATOMS))
    if not own:
        return None
    usual, small = own[0], min(own, key=lambda row: row["atoms"])
    beside = next((row for row in own if row["speedup_vs_teacher"]), {})
    return {
        **{key: usual[key] for key in ("engine", "threads", "atoms", "atoms_per_s", "peak_memory_mb")},
        "latency_ms": usual["latency_ms_median"],
        "small_atoms": small["atoms"],
        "small_latency_ms": small["latency_ms_median"],
        "speedup_vs_teacher": beside.get("speedup_vs_teacher"),
        "speedup_at_atoms": beside.get("atoms"),
    }


def _export(one: Outcome) -> dict[str, Any]:
    """An exported file; ``parity`` has its largest deviations from the student where that is used.

    ``on``: which structures those are (the first class of the certificate). ``share``: of the tolerance, over
    all classes; atoms that nearly touch have forces, and so deviations, of another size.
    """
    known = one.result | (one.files[0] if one.files else {})
    entry = {key: known[key] for key in _EXPORTED if known.get(key) is not None}
    kinds = (known.get("parity") or {}).get("against_student") or {}
    for name, first in list(kinds.items())[:1]:
        deviations = {key: first.get(key) for key in _DEVIATIONS}
        share = max(kind["share"] for kind in kinds.values())
        entry["parity"] = {"on": name, **deviations, "share": share}
    return entry
