"""The sections of the page that are words and tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from limbeck import __version__
from limbeck.report.evidence import Evidence
from limbeck.report.markup import (
    code,
    details,
    facts,
    linked,
    missing,
    number,
    paragraph,
    sha,
    table,
    text,
    verdict,
)
from limbeck.report.reading import HELDOUT, RUN, Run
from limbeck.report.recommendation import PresetRow, Recommendation
from limbeck.validation.longrange import LongRangeReport

_WORST = 5


def provenance(run: Run) -> str:
    """Where everything comes from: teacher, licence, versions, seeds, hashes, commands."""
    card = next((student.card for student in run.students.values()), {})
    teacher = card.get("teacher") or {}
    named = run.config.get("teacher") or {}
    name = teacher.get("name") or named.get("name") or run.facts.get("teacher", {}).get("name")
    version = teacher.get("version")
    data = card.get("data") or {}
    elements = data.get("elements") or {}
    training = card.get("training") or {}
    rows = [
        ("Teacher", code(name) + (f" {text(version)}" if version else "") if name else ""),
        ("Licence of the teacher", text(teacher.get("licence") or "not known")),
        ("Citation", linked(teacher.get("citation") or "")),
        ("Weights, SHA-256", sha(teacher["weights_hash"]) if teacher.get("weights_hash") else ""),
        ("Arithmetic, options", _options(teacher)),
        ("System", text(_system(run, elements))),
        ("Training labels", _counted(data)),
        ("Labels, SHA-256", sha(data["content_hash"]) if data.get("content_hash") else ""),
        ("Split", text(training.get("split") or "")),
        ("Energy references", text(training.get("references") or "")),
        ("Seed", number(training.get("seed", run.config.get("seed")), "{:d}")),
        ("Limbeck", _versions(run)),
        ("Command", code(run.facts["command"]) if run.facts.get("command") else ""),
    ]
    files = table(
        ("student", "parameters", "file", "kB", "SHA-256"),
        [
            (
                text(preset),
                number(student.parameters, "{:,}"),
                code(student.path.name),
                number(student.path.stat().st_size / 1e3, "{:,.0f}"),
                sha(student.sha256),
            )
            for preset, student in run.students.items()
        ],
        left=1,
    )
    return facts(rows) + (files if run.students else "") + details(
        "Configuration (config.yaml)", f"<pre>{text(run.config_text)}</pre>"
    )  # fmt: skip


def _options(teacher: dict[str, Any]) -> str:
    options = str(teacher.get("options") or "{}")
    parts = [str(teacher.get("precision") or ""), "" if options == "{}" else options]
    return text(", ".join(part for part in parts if part))


def _system(run: Run, elements: dict[str, Any]) -> str:
    for source in ("bulk", "smiles", "liquid", "structures"):
        if value := run.config.get(source):
            shown = Path(str(value)).name if source == "structures" else value
            if isinstance(shown, dict):
                shown = json.dumps(shown, ensure_ascii=False)
            return f"{source} {shown}; elements {', '.join(elements)}"
    return f"elements {', '.join(elements)}" if elements else ""


def _counted(data: dict[str, Any]) -> str:
    if not data.get("n_structures"):
        return ""
    parts = [f"{data['n_structures']:,} structures, {data.get('n_atoms', 0):,} atoms"]
    if data.get("n_families"):
        parts.append(f"{data['n_families']:,} families")
    kelvin, density = data.get("temperature_k"), data.get("density_g_per_cm3")
    if kelvin:
        parts.append(f"{kelvin[0]:g} to {kelvin[1]:g} K")
    if density:
        parts.append(f"{density[0]:.2f} to {density[1]:.2f} g/cm³")
    return text("; ".join(parts))


def _versions(run: Run) -> str:
    trained = sorted({str(s.card.get("limbeck_version")) for s in run.students.values()} - {"None"})
    words = f"trained with {', '.join(trained)}; " if trained else ""
    return text(f"{words}this page by {__version__}")


def presets(run: Run, rows: Sequence[PresetRow], advice: Recommendation, target: float | None) -> str:
    """The recommendation, and teacher and students side by side."""
    teacher = run.facts.get("teacher") or {}
    lines = []
    if teacher.get("name"):
        own = (code(teacher["name"]) + " (teacher)", number(teacher.get("parameters"), "{:,}"))
        rate = _teacher_rate(rows, teacher)
        lines.append((*own, "–", "–", "–", "–", "–", "–", "–", number(rate, "{:,.0f}"), "–"))
    for row in rows:
        lines.append(
            (
                text(row.name),
                number(row.parameters, "{:,}"),
                number(row.compression, "{:.0f}×"),
                number(row.file_kb, "{:,.0f}"),
                number(row.force_rmse, "{:.1f}"),
                number(row.force_r2, "{:.4f}"),
                number(row.energy_mae, "{:.2f}"),
                number(row.on_policy_force_rmse, "{:.1f}"),
                number(row.drift, "{:.3f}"),
                number(row.atoms_per_s, "{:,.0f}"),
                number(row.speedup, "{:,.0f}×"),
            )
        )
    marked = [k for k, line in enumerate(lines) if advice.preset and line[0] == text(advice.preset)]
    columns = (
        "model", "parameters", "smaller by", "file, kB", "force RMSE, meV/Å", "force R²",
        "energy MAE, meV/atom", "on-policy force RMSE, meV/Å", "drift, meV/atom/ps", "atoms/s", "speed-up",
    )  # fmt: skip
    split = run.metrics[rows[0].name][run.split]["all"] if rows else {}
    frames = f"{split.get('n_structures', 0):,} "
    frames += (
        "held-out frames of the teacher's own dynamics, which no student saw"
        if run.split == HELDOUT
        else "validation structures, which chose the best weights (the run has no held-out set)"
    )
    notes = [f"Errors on {frames}. R² of force components."]
    if any(row.on_policy_force_rmse is not None for row in rows):
        notes.append("On-policy: frames of the student's own dynamics, labelled by the teacher.")
    speeds = {row.speed_of for row in rows if row.speed_of}
    if speeds:
        notes.append(f"Speed of energies and forces: {'; '.join(sorted(speeds))}.")
    aim = "" if target is not None else (
        f'<p class="note">No target is set: {code("limbeck report RUN --target-force-rmse 30")} asks for the '
        "cheapest preset that meets one.</p>"
    )  # fmt: skip
    return (
        f'<p class="advice"><strong>Recommendation.</strong> {text(advice.text)}</p>'
        + table(columns, lines, marked=marked[0] if marked else None)
        + paragraph(" ".join(notes), "note")
        + aim
    )


def _teacher_rate(rows: Sequence[PresetRow], teacher: dict[str, Any]) -> float | None:
    """The teacher's speed beside the students' of the same table, not of another measurement."""
    for row in rows:
        if row.atoms_per_s and row.speedup:
            return row.atoms_per_s / row.speedup
    return teacher.get("atoms_per_s")


def worst_frames(evidence: Evidence, preset: str) -> str:
    """The frames with the largest force errors of one student."""
    report = evidence.reports.get(preset)
    if report is None:
        return ""
    rows = [
        (
            number(frame.index, "{:d}"),
            text(frame.family or "–"),
            number(frame.temperature_k, "{:.0f}"),
            number(frame.force_rmse_mev_per_a, "{:.1f}"),
            number(frame.energy_error_mev_per_atom, "{:+.2f}"),
            text(f"{frame.worst_element} {frame.worst_atom}"),
            number(frame.worst_force_error_mev_per_a, "{:.0f}"),
        )
        for frame in report.worst[:_WORST]
    ]
    columns = ("frame", "origin", "K", "force RMSE, meV/Å", "energy error, meV/atom", "worst atom", "|ΔF|, meV/Å")
    return f"<h3>Worst {text(evidence.what)} frames of {text(preset)}</h3>" + table(columns, rows, left=2)


def dynamics(run: Run) -> str:
    """What students do when they drive the atoms: on-policy errors, drift, rounds."""
    rows, reasons = [], []
    for preset in run.presets:
        judged = run.metrics[preset]
        facts_ = judged.get(RUN) or {}
        own, nve = facts_.get("on_policy") or {}, facts_.get("nve") or {}
        errors = (judged.get("on_policy") or {}).get("all") or {}
        held = judged[run.split]["all"]
        if not own and not nve:
            continue
        rows.append(
            (
                text(preset),
                number(own.get("temperature_k"), "{:.0f}"),
                number(errors.get("n_structures"), "{:d}"),
                number(errors.get("force_rmse_mev_per_a"), "{:.1f}"),
                number(held.get("force_rmse_mev_per_a"), "{:.1f}"),
                number(errors.get("force_r2"), "{:.4f}"),
                verdict(own.get("stable"), {True: "stable", False: "failed"}.get(own.get("stable"), "")),
                number(nve.get("drift_mev_per_atom_per_ps"), "{:.3f}"),
                number(nve.get("energy_std_mev_per_atom"), "{:.3f}"),
                number((nve.get("duration_fs") or 0) / 1000 or None, "{:g}"),
            )
        )
        for part in (own, nve):
            if part.get("reason"):
                reasons.append(f"{preset}: {part['reason']}")
    if not rows:
        return missing(
            "The students' own dynamics were not examined in this run.",
            "limbeck distill CONFIG.yaml",
        )
    columns = (
        "student", "K", "frames", "force RMSE on its own frames, meV/Å", f"{_split_word(run)}, meV/Å", "force R²",
        "dynamics", "NVE drift, meV/atom/ps", "NVE fluctuation, meV/atom", "NVE, ps",
    )  # fmt: skip
    said = paragraph(
        "Each student drives its own dynamics and the teacher labels its frames: regions that only the student "
        "finds attractive are in no trajectory of the teacher. Without a thermostat the total energy must not "
        "drift.",
        "note",
    )
    return table(columns, rows) + said + "".join(paragraph(reason, "warn") for reason in reasons)


def _split_word(run: Run) -> str:
    return "held out" if run.split == HELDOUT else "validation"


def rounds(run: Run) -> str:
    """The failure-driven loop; nothing where the run had none."""
    seen = run.facts.get("rounds") or []
    rows = []
    for one in seen:
        for model, student in (one.get("students") or {}).items():
            own, held = student.get("on_policy") or {}, student.get("heldout") or {}
            rows.append(
                (
                    number(one.get("number"), "{:d}"),
                    text(model),
                    number(one.get("labels"), "{:,}"),
                    number(held.get("force_rmse_mev_per_a"), "{:.1f}"),
                    number(own.get("force_rmse_mev_per_a"), "{:.1f}"),
                    text(f"{student.get('survived', '–')} of {student.get('runs', '–')}"),
                    number(student.get("shortest_ps"), "{:.2f}"),
                    number(student.get("mean_ps"), "{:.2f}"),
                    text("; ".join(map(str, student.get("reasons") or []))[:200]),
                )
            )
    if not rows:
        return ""
    columns = (
        "round", "student", "labels", "held-out force RMSE, meV/Å", "on-policy, meV/Å", "runs that lasted",
        "shortest, ps", "mean, ps", "why runs ended",
    )  # fmt: skip
    return "<h3>Rounds of learning from failures</h3>" + table(columns, rows, left=2)


def long_range(run: Run) -> str:
    """What of the teacher's forces lies beyond the students' reach."""
    lines = []
    for report in (run.facts.get("teacher") or {}).get("long_range") or []:
        try:
            lines.append(LongRangeReport(**report).text())
        except TypeError:
            lines.append(json.dumps(report))
    fields = {
        preset: (student.card.get("limits") or {}).get("receptive_field_a")
        for preset, student in run.students.items()
    }
    reach = "; ".join(f"{preset}: {field:g} Å" for preset, field in fields.items() if field)
    said = [
        "Students see no further than their receptive field"
        + (f" ({reach})." if reach else ".")
        + " Electrostatics and dispersion beyond it are not described; total charge and spin are those of the "
        "training data."
    ]
    said.append(f"{'. '.join(line[0].upper() + line[1:] for line in lines)}." if lines else
                "How much force the teacher carries from beyond was not measured in this run.")  # fmt: skip
    return "<h3>Reach</h3>" + "".join(paragraph(line) for line in said)


def physics(run: Run) -> str:
    """Verdicts of ``limbeck physics``, of one student or by student."""
    found = run.physics or {}
    by_student = {"": found} if "properties" in found else found
    parts = []
    for student, result in by_student.items():
        properties = result.get("properties") if isinstance(result, dict) else None
        if not isinstance(properties, dict):
            continue
        rows = [
            (
                text(name),
                verdict({"pass": True, "fail": False}.get(one.get("verdict"))),
                _value(one.get("student")),
                _value(one.get("teacher")),
                _value(one.get("noise")),
                _value(one.get("tolerance")),
                text(one.get("unit") or ""),
                text(one.get("reason") or ""),
            )
            for name, one in properties.items()
            if isinstance(one, dict)
        ]
        heading = f"<h3>{text(student)}</h3>" if student else ""
        overall = result.get("verdict")
        said = f"<p>Verdict: {verdict({'pass': True, 'fail': False}.get(overall), str(overall))}</p>"
        columns = ("property", "verdict", "student", "teacher", "noise", "tolerance", "unit", "reason")
        parts.append(heading + said + table(columns, rows, left=2))
    return "".join(parts) or missing(
        "Physical properties (equation of state, phonons, RDF, diffusion, …) were not compared with the teacher.",
        f"limbeck physics {_first_file(run)} --teacher {_teacher_name(run)} --json {_in(run, 'physics.json')}",
    )


def _value(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value, "{:.4g}")
    shown = "" if value is None else json.dumps(value, ensure_ascii=False)
    return text(shown if len(shown) <= 60 else shown[:57] + "…") or "–"


def _first_file(run: Run) -> str:
    return str(_in(run, f"{run.presets[0]}.safetensors"))


def _in(run: Run, name: str) -> Path:
    return Path(run.folder.name) / name


def _teacher_name(run: Run) -> str:
    return str((run.facts.get("teacher") or {}).get("name") or "NAME")


def benchmark(run: Run) -> str:
    """What bench.json holds beyond its figures."""
    rows = (run.bench or {}).get("rows")
    if not rows:
        files = " ".join(str(_in(run, f"{preset}.safetensors")) for preset in run.presets)
        return missing(
            "Speed and memory by size and batch were not measured.",
            f"limbeck bench {files} --json {_in(run, 'bench.json')}",
        )
    bench = run.bench or {}
    machine, settings = bench.get("machine") or {}, bench.get("settings") or {}
    said = ", ".join(
        part
        for part in (
            str(machine.get("processor") or ""),
            f"{settings['threads']} of {machine.get('cores', '?')} cores" if settings.get("threads") else "",
            ", ".join(f"{name} {version}" for name, version in (bench.get("versions") or {}).items()),
        )
        if part
    )
    columns = (
        "model", "engine", "system", "atoms", "batch", "latency, ms", "± IQR", "structures/s", "atoms/s",
        "memory, MB", "speed-up", "not measured",
    )  # fmt: skip
    lines = [
        (
            text(row.get("model")),
            text(row.get("engine")) + ("" if row.get("device") in (None, "cpu") else f" ({text(row['device'])})"),
            text(row.get("system")),
            number(row.get("atoms"), "{:,}"),
            number(row.get("batch"), "{:d}"),
            number(row.get("latency_ms_median")),
            number(row.get("latency_ms_iqr"), "{:.2g}"),
            number(row.get("structures_per_s")),
            number(row.get("atoms_per_s"), "{:,.0f}"),
            number(row.get("peak_memory_mb"), "{:,.1f}"),
            number(row.get("speedup_vs_teacher"), "{:.3g}×"),
            text(row.get("skipped") or ""),
        )
        for row in rows
    ]
    what = str(bench.get("what") or "")
    note = paragraph(f"{what[:1].upper()}{what[1:]}. {said}. Medians." if what else said, "note")
    return note + details(f"All {len(lines)} rows", table(columns, lines, left=3))


def exports(run: Run) -> str:
    """Files for other runtimes with their certificates."""
    if not run.exports:
        files = str(_in(run, f"{run.presets[0]}.safetensors"))
        return missing(
            "There are no exports for other runtimes.",
            f"limbeck export {files} --to all --out {_in(run, 'exports')}",
        )
    rows = []
    for one in run.exports:
        parity = one.get("parity") or {}
        kinds = parity.get("against_student") or {}
        kinds = {k: v for k, v in kinds.items() if isinstance(v, dict)}
        passed = {"pass": True, "fail": False}.get(str(one.get("verdict", "")).lower())
        rows.append(
            (
                text(one.get("format") or "–"),
                code(Path(str(one["path"])).name),
                number(one["bytes"] / 1e3, "{:,.0f}") if isinstance(one.get("bytes"), int | float) else "–",
                sha(one["sha256"]) if one.get("sha256") else "–",
                text(_versions_of(one)),
                verdict(passed),
                number(one.get("n_structures"), "{:,}"),
                number(_largest(kinds, "force_mev_per_a"), "{:.2g}"),
                number(_largest(kinds, "energy_mev"), "{:.2g}"),
                number(_largest(kinds, "stress_mev_per_a3"), "{:.2g}"),
                number(_largest(kinds, "share"), "{:.2f}"),
                text(_latency(one)),
            )
        )
    columns = (
        "format", "file", "kB", "SHA-256", "made with", "certificate", "structures", "largest ΔF, meV/Å",
        "largest ΔE, meV", "largest Δσ, meV/Å³", "share of tolerance", "latency",
    )  # fmt: skip
    said = paragraph(
        "Certificate: the file was loaded in its own runtime and its energies, forces and stress compared with the "
        "student's on structures that include a triclinic cell, a cell smaller than the cutoff, a molecule and an "
        "isolated atom.",
        "note",
    )
    return table(columns, rows, left=2) + said


def _largest(kinds: dict[str, dict[str, Any]], key: str) -> float | None:
    values = [kind.get(key) for kind in kinds.values()]
    known = [float(v) for v in values if isinstance(v, int | float)]
    return max(known) if known else None


def _versions_of(one: dict[str, Any]) -> str:
    parts = [f"opset {one['opset']}" if one.get("opset") else ""]
    parts += [f"torch {one['torch']}" if one.get("torch") else "", str(one.get("quantisation_kind") or "")]
    return ", ".join(part for part in parts if part)


def _latency(one: dict[str, Any]) -> str:
    shown = []
    for row in one.get("latency") or []:
        if isinstance(row, dict) and isinstance(row.get("export_ms"), int | float):
            native = row.get("native_ms")
            beside = f" (native {native:.3g})" if isinstance(native, int | float) else ""
            shown.append(f"{row.get('atoms', '?')} atoms {row['export_ms']:.3g} ms{beside}")
    return "; ".join(shown)


def elements_of(run: Run) -> list[str]:
    """Symbols of the elements that the students know."""
    for student in run.students.values():
        return [chemical_symbols[int(z)] for z in student.card.get("elements", [])]
    return []
