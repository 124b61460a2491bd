"""Results in words and tables: presets side by side, worst frames, the students' own dynamics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from limbeck.core.charge import ChargeState
from limbeck.report.evidence import Evidence
from limbeck.report.markup import code, missing, number, paragraph, table, text, verdict
from limbeck.report.reading import GIVEN, RUN, TEST, VALIDATION, Run, as_dict, figures
from limbeck.report.recommendation import PresetRow, Recommendation, teacher_rate
from limbeck.validation.longrange import LongRangeReport

_WORST = 5
_SPLITS = {TEST: "held out", VALIDATION: "validation", GIVEN: "test set"}


def presets(run: Run, rows: Sequence[PresetRow], advice: Recommendation, target: float | None) -> str:
    """The recommendation, and teacher and students side by side."""
    teacher = as_dict(run.facts.get("teacher"))
    models = [(text(row.name), row) for row in rows]
    if teacher.get("name"):
        at_once = teacher_rate(rows, teacher)
        threads = next((row.threads for row in rows if row.threads), teacher.get("threads"))
        slow = PresetRow(
            str(teacher["name"]), parameters=teacher.get("parameters"), atoms_per_s=at_once, threads=threads
        )
        models.insert(0, (f"{code(slow.name)} (teacher)", slow))
    lines = [
        (
            name,
            number(row.force_rmse, "{:.1f}"),
            number(row.force_r2, "{:.4f}"),
            number(row.energy_mae, "{:.2f}"),
            number(row.on_policy_force_rmse, "{:.1f}"),
            number(row.threads, "{:d}"),
            number(row.atoms_per_s, "{:,.0f}"),
            number(row.speedup, "{:,.0f}×"),
            number(row.parameters, "{:,}"),
            number(row.compression, "{:.0f}×"),
            number(row.file_kb, "{:,.0f}"),
            number(row.drift, "{:.3f}"),
        )
        for name, row in models
    ]
    marked = [k for k, line in enumerate(lines) if advice.preset and line[0] == text(advice.preset)]
    columns = (
        "model", "force RMSE, meV/Å", "force R²", "energy MAE, meV/atom", "on-policy force RMSE, meV/Å",
        "threads", "atoms/s", "speed-up", "parameters", "smaller by", "file, kB", "drift, meV/atom/ps",
    )  # fmt: skip
    judged_rows = [run.errors(row.name) for row in rows]
    frames = (
        f"{max((one.get('n_structures', 0) for one in judged_rows), default=0):,} "
        + {
            TEST: "test frames of the teacher's own dynamics, which no student saw",
            VALIDATION: "validation structures, which chose the best weights (the run has no test set)",
            GIVEN: f"structures of {run.compared_on.name}, named with --data",
        }[run.split]
    )
    notes = [f"Errors on {frames}. R² of force components."]
    if any(row.on_policy_force_rmse is not None for row in rows):
        notes.append("On-policy: frames of the student's own dynamics, labelled by the teacher.")
    speeds = {row.speed_of for row in rows if row.speed_of}
    if speeds:
        notes.append(
            "Speed of a step of dynamics (energies, forces and stress, without the integrator), teacher and "
            f"students in turns: {'; '.join(sorted(speeds))}."
        )
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


def worst_frames(evidence: Evidence, preset: str) -> str:
    """The frames with the largest force errors of one student."""
    report = evidence.reports.get(preset)
    if report is None:
        return ""
    rows = [
        (
            number(frame.index, "{:d}"),
            text(frame.group or "–"),
            number(frame.temperature_k, "{:.0f}"),
            number(frame.force_rmse_mev_per_a, "{:.1f}"),
            number(frame.energy_error_mev_per_atom, "{:+.2f}"),
            text(f"{frame.worst_element} {frame.worst_atom}"),
            number(frame.worst_force_error_mev_per_a, "{:.0f}"),
        )
        for frame in report.worst[:_WORST]
    ]
    columns = (
        "frame", "origin", "K", "force RMSE, meV/Å", "energy error, meV/atom", "worst atom", "|ΔF|, meV/Å",
    )  # fmt: skip
    return f"<h3>Worst {text(evidence.what)} frames of {text(preset)}</h3>" + table(
        columns, rows, words=(0, 1, 5)
    )


def dynamics(run: Run) -> str:
    """What students do when they drive the atoms: on-policy errors, drift, rounds."""
    rows, reasons = [], []
    for preset in run.presets:
        found = run.metrics[preset]
        about = as_dict(found.get(RUN))
        own, nve = as_dict(about.get("on_policy")), as_dict(about.get("nve"))
        errors, lasted = as_dict(as_dict(found.get("on_policy")).get("all")), figures(nve).get("duration_fs")
        held = run.errors(preset)
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
                _stability(own.get("stable")),
                number(nve.get("drift_mev_per_atom_per_ps"), "{:.3f}"),
                number(nve.get("energy_std_mev_per_atom"), "{:.3f}"),
                number(lasted and lasted / 1000, "{:g}"),
            )
        )
        for part in (own, nve):
            if part.get("reason"):
                reasons.append(f"{preset}: {part['reason']}")
    if not rows:
        return missing(
            "The students' own dynamics were not examined in this run, which takes a teacher.",
            "limbeck distill CONFIG.yaml",
        )
    columns = (
        "student", "K", "frames", "force RMSE on its own frames, meV/Å", f"{_SPLITS[run.split]}, meV/Å",
        "force R²",
        "dynamics", "NVE drift, meV/atom/ps", "NVE fluctuation, meV/atom", "NVE, ps",
    )  # fmt: skip
    said = paragraph(
        "Each student drives its own dynamics and the teacher labels its frames: regions that only the "
        "student finds attractive are in no trajectory of the teacher. Without a thermostat the total energy "
        "must not drift.",
        "note",
    )
    return (
        table(columns, rows, words=(0, 6)) + said + "".join(paragraph(reason, "warn") for reason in reasons)
    )


def _stability(stable: Any) -> str:
    if stable is None:
        return "–"
    return verdict(bool(stable), "stable" if stable else "failed")


def rounds(run: Run) -> str:
    """The failure-driven loop; nothing where the run had none."""
    seen = run.facts.get("rounds") or []
    rows = []
    for one in seen if isinstance(seen, list) else []:
        for model, student in as_dict(as_dict(one).get("students")).items():
            own, held = as_dict(student.get("on_policy")), as_dict(student.get("test"))
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
        "round", "student", "labels", "test force RMSE, meV/Å", "on-policy, meV/Å", "runs that lasted",
        "shortest, ps", "mean, ps", "why runs ended",
    )  # fmt: skip
    return "<h3>Rounds of learning from failures</h3>" + table(columns, rows, words=(1, 8))


def long_range(run: Run) -> str:
    """What of the teacher's forces lies beyond the students' reach."""
    lines = []
    for report in as_dict(run.facts.get("teacher")).get("long_range") or []:
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
        + " Electrostatics and dispersion beyond it are not described."
    ]
    states = {str(ChargeState.of_card(student.card, preset)) for preset, student in run.students.items()}
    said += [f"They are for structures of {state}, as in the training data." for state in sorted(states)]
    said.append(f"{'. '.join(line[0].upper() + line[1:] for line in lines)}." if lines else
                "How much force the teacher carries from beyond was not measured in this run.")  # fmt: skip
    return "<h3>Reach</h3>" + "".join(paragraph(line) for line in said)
