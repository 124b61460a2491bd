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
from limbeck.report.evidence import Evidence
from limbeck.report.markup import code, figures, missing, number, paragraph, table, text, verdict
from limbeck.report.reading import Run
from limbeck.report.recommendation import PresetRow, Recommendation, teacher_rate
from limbeck.report.speed_figures import trained_points

_WORST = 5
_SPLITS = {TEST: "held out", VALIDATION: "validation", GIVEN: "test set"}
#: title, attribute of a row, and form
_PRESETS = (
    ("force RMSE, meV/Å", "force_rmse", "{:.1f}"),
    ("force R²", "force_r2", "{:.4f}"),
    ("energy MAE, meV/atom", "energy_mae", "{:.2f}"),
    ("on-policy force RMSE, meV/Å", "on_policy_force_rmse", "{:.1f}"),
    ("threads", "threads", "{:d}"),
    ("atoms/s", "atoms_per_s", "{:,.0f}"),
    ("speed-up", "speedup", "{:,.0f}×"),
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
    lines = [(name, *(number(getattr(row, key), form) for _, key, form in _PRESETS)) for name, row in models]
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
        + table(["model", *(title for title, _, _ in _PRESETS)], lines, marked=marked)
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
    heading = f"<h3>Worst {text(evidence.what)} frames of {text(preset)}</h3>"
    return heading + table(columns, rows, words=(0, 1, 5))


def learning_curve(curve: Mapping[str, Any], drawn: Sequence[Figure]) -> str:
    """The verdict, the figures, and every training in a table."""
    done = trained_points(curve)
    said = f'<p class="advice"><strong>{text(curve["preset"])}.</strong> {text(curve["text"])}</p>'
    if isinstance(curve.get("busy"), str) and curve["busy"]:
        said += paragraph(f"{curve['busy'][0].upper()}{curve['busy'][1:]}.", "warn")
    rows = [
        (text(row.get("preset", "–")), *(number(row.get(key), form) for _, key, form in _CURVE))
        for row in curve["points"]
        if row["skipped"] is None
    ]
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
        + table(["student", *(title for title, _, _ in _CURVE)], rows, marked=0 if done else None)
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
        errors, lasted = student.errors(ON_POLICY), nve.duration_fs
        stability = "–" if own.stable is None else verdict(own.stable, "stable" if own.stable else "failed")
        rows.append(
            (
                text(preset),
                number(own.temperature_k, "{:.0f}"),
                number(errors.n_structures, "{:d}"),
                number(errors.force_rmse_mev_per_a, "{:.1f}"),
                number(run.errors(preset).force_rmse_mev_per_a, "{:.1f}"),
                number(errors.force_r2, "{:.4f}"),
                stability,
                number(nve.drift_mev_per_atom_per_ps, "{:.3f}"),
                number(nve.energy_std_mev_per_atom, "{:.3f}"),
                number(lasted and lasted / 1000, "{:g}"),
            )
        )
        reasons += [f"{preset}: {reason}" for reason in (own.reason, nve.reason) if reason]
    if not rows:
        return missing(
            "The students' own dynamics were not examined in this run, which takes a teacher.",
            "limbeck distill CONFIG.yaml",
        )
    columns = (
        "student", "K", "frames", "force RMSE on its own frames, meV/Å", f"{_SPLITS[run.split]}, meV/Å",
        "force R²", "dynamics", "NVE drift, meV/atom/ps", "NVE fluctuation, meV/atom", "NVE, ps",
    )  # fmt: skip
    said = paragraph(
        "Each student drives its own dynamics and the teacher labels its frames: regions that only the "
        "student finds attractive are in no trajectory of the teacher. Without a thermostat the total energy "
        "must not drift.",
        "note",
    )
    return table(columns, rows, words=(0, 6)) + said + "".join(paragraph(one, "warn") for one in reasons)


def active_learning(run: Run) -> str:
    """The failure-driven loop; nothing where the run had none."""
    seen = run.metrics.more.get("active_learning")
    rows = []
    for one in map(as_dict, seen if isinstance(seen, list) else []):
        for model, student in as_dict(one.get("students")).items():
            own, held = (read(Errors, student.get(split)) for split in (ON_POLICY, TEST))
            rows.append(
                (
                    number(one.get("number"), "{:d}"),
                    text(model),
                    number(one.get("labels"), "{:,}"),
                    number(held.force_rmse_mev_per_a, "{:.1f}"),
                    number(own.force_rmse_mev_per_a, "{:.1f}"),
                    text(f"{student.get('stable', '–')} of {student.get('runs', '–')}"),
                    number(student.get("shortest_ps"), "{:.2f}"),
                    number(student.get("mean_ps"), "{:.2f}"),
                    text("; ".join(map(str, student.get("reasons") or []))[:200]),
                )
            )
    if not rows:
        return ""
    columns = (
        "iteration", "student", "labels", "test force RMSE, meV/Å", "on-policy, meV/Å", "runs that lasted",
        "shortest, ps", "mean, ps", "why runs ended",
    )  # fmt: skip
    return "<h3>Active learning</h3>" + table(columns, rows, words=(1, 8))


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
