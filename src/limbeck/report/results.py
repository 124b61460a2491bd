"""Results in words and tables: presets side by side, worst frames, learning curves, on-policy dynamics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.core.charge import ChargeState
from limbeck.progress import format_seconds
from limbeck.records.figure import Figure
from limbeck.records.metrics import (
    GIVEN,
    ON_POLICY,
    TEST,
    VALIDATION,
    DriftFacts,
    Errors,
    OnPolicyFacts,
    as_dict,
    read,
)
from limbeck.report.markup import code, figures, missing, number, paragraph, records_table, text, verdict
from limbeck.report.reading import Evidence, Run
from limbeck.report.recommendation import PresetRow, Recommendation, teacher_rate
from limbeck.report.speed_figures import trained_points

_WORST = 5
_SPLITS = {TEST: "test set", VALIDATION: "validation set", GIVEN: "given labels"}
#: title, attribute of a row, and form
_PRESETS = (
    ("force RMSE, meV/Å", "force_rmse", "{:.1f}"),
    ("force R²", "force_r2", "{:.4f}"),
    ("energy MAE, meV/atom", "energy_mae", "{:.2f}"),
    ("on-policy force RMSE, meV/Å", "on_policy_force_rmse", "{:.1f}"),
    ("threads", "threads", "{:d}"),
    ("atoms/s", "atoms_per_s", "{:,.0f}"),
    ("speed-up", "speedup", "{:,.0f}×"),
    ("break-even, MD steps", "break_even_steps", "{:,}"),
    ("parameters", "parameters", "{:,}"),
    ("smaller by", "compression", "{:.0f}×"),
    ("file, kB", "file_kb", "{:,.0f}"),
    ("drift, meV/atom/ps", "drift", "{:.3f}"),
)
_CURVE = (
    ("labels", "labels", "{:,}"),
    ("time, s", "seconds", "{:.0f}"),
    ("parameters", "parameters", "{:,}"),
    ("force RMSE, meV/Å", "force_rmse_mev_per_a", "{:.1f}"),
    ("energy MAE, meV/atom", "energy_mae_mev_per_atom", "{:.2f}"),
)
_FRAMES = (
    ("origin", "group", ""),
    ("K", "temperature_k", "{:.0f}"),
    ("force RMSE, meV/Å", "force_rmse_mev_per_a", "{:.1f}"),
    ("energy error, meV/atom", "energy_error_mev_per_atom", "{:+.2f}"),
    ("worst atom", "atom", ""),
    ("|ΔF|, meV/Å", "worst_force_error_mev_per_a", "{:.0f}"),
)
_DYNAMICS = (
    ("K", "kelvin", "{:.0f}"),
    ("frames", "n_structures", "{:d}"),
    ("force RMSE on its own frames, meV/Å", "force_rmse_mev_per_a", "{:.1f}"),
    ("{split}, meV/Å", "held", "{:.1f}"),
    ("force R²", "force_r2", "{:.4f}"),
    ("dynamics", "lasts", None),
    ("NVE drift, meV/atom/ps", "drift_mev_per_atom_per_ps", "{:.3f}"),
    ("NVE fluctuation, meV/atom", "energy_std_mev_per_atom", "{:.3f}"),
    ("NVE, ps", "nve_ps", "{:g}"),
)
_ROUNDS = (
    ("student", "model", ""),
    ("labels", "labels", "{:,}"),
    ("test force RMSE, meV/Å", "held", "{:.1f}"),
    ("on-policy, meV/Å", "own", "{:.1f}"),
    ("runs that lasted", "reached", ""),
    ("shortest, ps", "shortest_ps", "{:.2f}"),
    ("mean, ps", "mean_ps", "{:.2f}"),
    ("why runs ended", "why", ""),
)


def presets(run: Run, rows: Sequence[PresetRow], advice: Recommendation, target: float | None) -> str:
    """The recommendation, and teacher and students side by side."""
    teacher = run.metrics.teacher
    models = [(text(row.name), row) for row in rows]
    if teacher.name:
        slow = PresetRow(
            teacher.name,
            parameters=teacher.parameters,
            atoms_per_s=teacher_rate(rows, teacher),
            threads=next((row.threads for row in rows if row.threads), teacher.threads),
        )
        models.insert(0, (f"{code(teacher.name)} (teacher)", slow))
    marked = next((k for k, (_, row) in enumerate(models) if row.name == advice.preset), None)
    count = max((run.errors(row.name).n_structures or 0 for row in rows), default=0)
    frames = {
        TEST: "test frames of the teacher's own dynamics, which no student saw",
        VALIDATION: "validation structures, which chose the best weights (the run has no test set)",
        GIVEN: f"structures of {run.compared_on.name}, named with --data",
    }[run.split]
    notes = [f"Errors on {count:,} {frames}. R² of force components."]
    if any(row.on_policy_force_rmse is not None for row in rows):
        notes.append("On-policy: frames of the student's own dynamics, labelled by the teacher.")
    if speeds := {row.speed_of for row in rows if row.speed_of}:
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
        + records_table("model", models, _PRESETS, marked=marked)
        + paragraph(" ".join(notes), "note")
        + aim
    )


def worst_frames(evidence: Evidence, preset: str) -> str:
    """The frames with the largest force errors of one student."""
    report = evidence.reports.get(preset)
    if report is None:
        return ""
    rows = [
        (number(frame.index, "{:d}"), vars(frame) | {"atom": f"{frame.worst_element} {frame.worst_atom}"})
        for frame in report.worst[:_WORST]
    ]
    heading = f"<h3>Worst {text(evidence.what)} frames of {text(preset)}</h3>"
    return heading + records_table("frame", rows, _FRAMES)


def learning_curve(curve: Mapping[str, Any], drawn: Sequence[Figure]) -> str:
    """The verdict, the figures, and every training in a table."""
    done = trained_points(curve)
    said = f'<p class="advice"><strong>{text(curve["preset"])}.</strong> {text(curve["text"])}</p>'
    if isinstance(curve.get("busy"), str) and curve["busy"]:
        said += paragraph(f"{curve['busy'][0].upper()}{curve['busy'][1:]}.", "warn")
    rows = [(text(row.get("preset", "–")), row) for row in curve["points"] if row["skipped"] is None]
    notes = [
        f"Each point is a training of its own, evaluated on {curve.get('test_structures', '–')} test "
        "structures that none of them saw. The verdict compares what a doubling of each would gain."
    ]
    lost = [str(row["skipped"]) for row in curve["points"] if row["skipped"] is not None]
    if lost:
        reasons = "; ".join(dict.fromkeys(lost))
        notes.append(f"{len(lost)} of {len(curve['points'])} trainings were not done: {reasons}.")
    own = curve.get("trained_in_run_s")
    if done and isinstance(own, int | float) and done[0]["seconds"] <= 0.75 * own:
        notes.append(
            f"The run's own {curve['preset']} trained {format_seconds(own)}, these "
            f"{format_seconds(done[0]['seconds'])} at most: their errors are larger, and time limits them "
            "sooner."
        )
    return (
        said
        + figures(drawn, abreast=True)
        + records_table("student", rows, _CURVE, marked=0 if done else None)
        + paragraph(" ".join(notes), "note")
    )


def dynamics(run: Run) -> str:
    """What students do when they drive the atoms: on-policy errors and drift."""
    rows, reasons = [], []
    for preset in run.presets:
        student = run.metrics.students[preset]
        if student.on_policy is None and student.nve is None:
            continue
        own, nve = student.on_policy or OnPolicyFacts(), student.nve or DriftFacts()
        lasts = "–" if own.stable is None else verdict(own.stable, "stable" if own.stable else "failed")
        record = vars(student.errors(ON_POLICY)) | vars(nve) | {
            "kelvin": own.temperature_k, "held": run.errors(preset).force_rmse_mev_per_a, "lasts": lasts,
            "nve_ps": nve.duration_fs and nve.duration_fs / 1000,
        }  # fmt: skip
        rows.append((text(preset), record))
        reasons += [f"{preset}: {reason}" for reason in (own.reason, nve.reason) if reason]
    if not rows:
        return missing(
            "The students' own dynamics were not examined in this run, which takes a teacher.",
            "limbeck distill CONFIG.yaml",
        )
    columns = [(title.format(split=_SPLITS[run.split]), key, form) for title, key, form in _DYNAMICS]
    said = paragraph(
        "Each student drives its own dynamics and the teacher labels its frames: regions that only the "
        "student finds attractive are in no trajectory of the teacher. Without a thermostat the total energy "
        "must not drift.",
        "note",
    )
    return records_table("student", rows, columns) + said + "".join(paragraph(one, "warn") for one in reasons)


def active_learning(run: Run) -> str:
    """The failure-driven loop; nothing where the run had none."""
    seen = run.metrics.more.get("active_learning")
    rows = []
    for one in map(as_dict, seen if isinstance(seen, list) else []):
        for model, student in as_dict(one.get("students")).items():
            student = as_dict(student)
            own, held = (read(Errors, student.get(split)) for split in (ON_POLICY, TEST))
            record = student | {
                "labels": one.get("labels"), "model": model, "reached": f"{student.get('stable', '–')} of "
                f"{student.get('runs', '–')}", "held": held.force_rmse_mev_per_a,
                "own": own.force_rmse_mev_per_a,
                "why": "; ".join(map(str, student.get("reasons") or []))[:200],
            }  # fmt: skip
            rows.append((number(one.get("number"), "{:d}"), record))
    if not rows:
        return ""
    return "<h3>Active learning</h3>" + records_table("iteration", rows, _ROUNDS)


def long_range(run: Run) -> str:
    """What of the teacher's forces lies beyond the students' receptive fields."""
    cards = {preset: student.card for preset, student in run.students.items()}
    fields = {preset: as_dict(card.get("limits")).get("receptive_field_a") for preset, card in cards.items()}
    reach = "; ".join(f"{preset}: {field:g} Å" for preset, field in fields.items() if field)
    states = {str(ChargeState.of_card(card, preset)) for preset, card in cards.items()}
    lines = [report.text() for report in run.metrics.teacher.long_range]
    said = [
        f"Students see no further than their receptive field{reach and f' ({reach})'}. Electrostatics and "
        "dispersion beyond it are not described.",
        *(f"They are for structures of {state}, as in the training data." for state in sorted(states)),
        f"{'. '.join(line[0].upper() + line[1:] for line in lines)}."
        if lines
        else "How much force the teacher carries from beyond was not measured in this run.",
    ]
    return "<h3>Reach</h3>" + "".join(map(paragraph, said))
