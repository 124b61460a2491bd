"""``finalize.json``: parts, and each student with all that is known of it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

from limbeck import __version__
from limbeck.core.machine import describe_machine
from limbeck.export.quantise import own_force_error
from limbeck.pipeline.final_inputs import Inputs, Ware
from limbeck.pipeline.ledger import Ledger, Outcome
from limbeck.report.recommendation import USUAL_ATOMS, PresetRow

_DEVIATIONS = ("force_mev_per_a", "energy_mev", "stress_mev_per_a3", "n_structures")
_CERTIFIED = ("format", "path", "bytes", "sha256", "opset", "torch", "runtime", "verdict", "n_structures",
              "threads", "latency")  # fmt: skip


def student_rows(inputs: Inputs, ledger: Ledger) -> list[dict[str, Any]]:
    """One entry a student, in the order of the inputs."""
    rows = _bench_rows(ledger)
    return [_student(ware, inputs, ledger, rows) for ware in inputs.wares]


def summary(inputs: Inputs, ledger: Ledger, seconds: float, settings: dict[str, Any]) -> dict[str, Any]:
    """The whole of ``finalize.json``."""
    failed = [one.title for one in ledger.outcomes if one.verdict == "failed"]
    advice = [one.result for one in ledger.found("recommendation")]
    return {
        "verdict": "failed" if failed else "done",
        "failed": failed,
        "skipped": [one.title for one in ledger.outcomes if one.verdict == "skipped"],
        "seconds": round(seconds, 1),
        "limbeck": __version__,
        "python": platform.python_version(),
        "machine": describe_machine(),
        "settings": settings,
        "out": str(inputs.out),
        "run": None if inputs.run is None else str(inputs.run.folder),
        "recommendation": advice[0] if advice else None,
        "students": student_rows(inputs, ledger),
        "parts": [one.to_dict() for one in ledger.outcomes],
    }


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


def _student(ware: Ware, inputs: Inputs, ledger: Ledger, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    teacher = ware.card.get("teacher") or {}
    parameters = ware.file.architecture.n_parameters
    return {
        "name": ware.name,
        "path": str(ware.path),
        "bytes": ware.path.stat().st_size,
        "sha256": ware.sha256,
        "preset": ware.card.get("preset"),
        "elements": sorted(ware.elements),
        **ware.state.on_card(),
        "teacher": teacher.get("name"),
        "licence": teacher.get("licence"),
        "parameters": parameters,
        "compression": _compression(ware, inputs, rows, parameters),
        "errors": _errors(ware, ledger),
        "speed": _speed(ware, rows),
        "exports": [_export(one) for one in _of(ledger, "export ", ware.name)],
        "quantisation": [_quantised(one) for one in _of(ledger, "quantize ", ware.name)],
    }


def _of(ledger: Ledger, prefix: str, student: str) -> list[Outcome]:
    return [
        one for one in ledger.outcomes
        if one.part.startswith(prefix) and one.student == student and one.verdict == "done"
    ]  # fmt: skip


def _errors(ware: Ware, ledger: Ledger) -> dict[str, Any] | None:
    """On the data of this command; else the force error that the card has."""
    measured = ledger.found("validate", ware.name)
    if measured:
        return {"on": "held-out labels", **measured[0].result["all"]}
    own = own_force_error(ware.card)
    return None if own is None else {"on": "the card's own split", "force_rmse_mev_per_a": own}


def _bench_rows(ledger: Ledger) -> list[dict[str, Any]]:
    return [row for one in ledger.found("bench") for row in one.result["rows"]]


def _speed(ware: Ware, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The single structure nearest to 1,000 atoms, and the smallest: latency there is overhead."""
    own = [row for row in rows if row["model"] == ware.name and row["batch"] == 1 and row["atoms_per_s"]]
    if not own:
        return None
    usual = min(own, key=lambda row: abs(row["atoms"] - USUAL_ATOMS))
    small = min(own, key=lambda row: row["atoms"])
    ratios = [row for row in own if row["speedup_vs_teacher"]]
    beside = min(ratios, key=lambda row: abs(row["atoms"] - USUAL_ATOMS), default=None)
    return {
        "engine": usual["engine"],
        "threads": usual["threads"],
        "atoms": usual["atoms"],
        "atoms_per_s": usual["atoms_per_s"],
        "latency_ms": usual["latency_ms_median"],
        "peak_memory_mb": usual["peak_memory_mb"],
        "small_atoms": small["atoms"],
        "small_latency_ms": small["latency_ms_median"],
        "speedup_vs_teacher": beside and beside["speedup_vs_teacher"],
        "speedup_at_atoms": beside and beside["atoms"],
    }


def _compression(ware: Ware, inputs: Inputs, rows: Sequence[dict[str, Any]], parameters: int) -> float | None:
    """The teacher's parameters over the student's, where either the run or the benchmark counted them."""
    name = (ware.card.get("teacher") or {}).get("name")
    counted = [row["parameters"] for row in rows if row["engine"] == "teacher" and row["model"] == name]
    if inputs.run is not None:
        counted.append((inputs.run.facts.get("teacher") or {}).get("parameters"))
    known = [n for n in counted if n]
    return known[0] / parameters if known else None


def _parity(certificate: dict[str, Any]) -> dict[str, Any]:
    """The largest deviations of an export from its student where it is used, as the report has them.

    ``on``: which structures those are (the first class of the certificate). ``share``: of the tolerance, over
    all classes; atoms that nearly touch have forces, and so deviations, of another size.
    """
    kinds = (certificate.get("parity") or {}).get("against_student") or {}
    if not kinds:
        return {}
    name, first = next(iter(kinds.items()))
    deviations = {key: first.get(key) for key in _DEVIATIONS}
    return {"on": name, **deviations, "share": max(kind["share"] for kind in kinds.values())}


def _export(one: Outcome) -> dict[str, Any]:
    entry = {key: one.result[key] for key in _CERTIFIED if key in one.result}
    return entry | {"parity": _parity(one.result)}


def _quantised(one: Outcome) -> dict[str, Any]:
    keys = ("quantisation", "verdict", "reason", *(key for key in _CERTIFIED if key != "verdict"), "loss")
    entry = {key: one.result[key] for key in keys if one.result.get(key) is not None}
    return entry | ({"parity": _parity(one.result)} if "parity" in one.result else {})
