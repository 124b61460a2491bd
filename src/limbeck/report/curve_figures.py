"""What limits a student: the curves that ``limbeck learning-curve`` left in the run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from limbeck.progress import format_seconds
from limbeck.report.figures import Figure, color_of, layout, line, log_axis
from limbeck.report.markup import code, figures, number, paragraph, table, text

#: of each panel: the resource, its axis, and what must be as it is for the student itself
PANELS = (
    ("labels", "training labels", ("seconds", "preset")),
    ("seconds", "training time, s", ("labels", "preset")),
    ("parameters", "parameters", ("labels", "seconds")),
)
_ERROR = "force_rmse_mev_per_a"
_TITLES = {"labels": "Fewer labels", "seconds": "Less training time", "parameters": "Other widths"}


def trained_points(curve: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Points that were trained, the student's own first; none without the student's own."""
    rows = curve["points"]
    done = [row for row in rows if row["skipped"] is None and _is_point(row)]
    return done if done and done[0] is rows[0] else []


def series(done: Sequence[Mapping[str, Any]], key: str, same: Sequence[str]) -> list[tuple[float, float]]:
    """(amount, force RMSE) of points that differ from the first, the student's own, in ``key`` alone."""
    if not done:
        return []
    own = done[0]
    return sorted((row[key], row[_ERROR]) for row in done if all(row[k] == own[k] for k in same))


def curve_figures(curve: Mapping[str, Any]) -> list[Figure]:
    """Force error over labels, training time and parameters, each where two points or more were trained."""
    done, drawn = trained_points(curve), []
    errors = [row[_ERROR] for row in done]
    errors += [1.4 * max(errors)] if errors else []  # room for names above the highest point
    for k, (key, title, same) in enumerate(PANELS):
        points = series(done, key, same)
        if len(points) < 2:
            continue
        x, y = (np.array(values, float) for values in zip(*points, strict=True))
        names = {(row[key], row[_ERROR]): row["preset"] for row in done}
        trace = line(
            x, y, title, color_of(k), mode="lines+markers+text" if key == "parameters" else "lines+markers",
            marker={"size": 8}, showlegend=False, cliponaxis=False,
            hovertemplate=f"%{{x:,.6g}} {title.split(',')[0]}: %{{y:.1f}} meV/Å<extra></extra>",
        )  # fmt: skip
        if key == "parameters":
            trace |= {"text": [names[point] for point in points], "textposition": "top center"}
        drawn.append(
            Figure(
                f"curve-{curve['preset']}-{key}", _TITLES[key], _caption(key, done[0]), [trace],
                layout(log_axis(title, [x]), log_axis("force RMSE (meV/Å)", [errors])), height=280,
            )
        )  # fmt: skip
    return drawn


def curve_markup(curve: Mapping[str, Any], drawn: Sequence[Figure]) -> str:
    """The verdict, the figures, and every training in a table."""
    done = trained_points(curve)
    said = [f'<p class="advice"><strong>{text(curve["preset"])}.</strong> {text(curve["text"])}</p>']
    rows = [
        (
            text(row.get("preset", "–")), number(row.get("labels"), "{:,}"),
            number(row.get("seconds"), "{:.0f}"), number(row.get("parameters"), "{:,}"),
            number(row.get(_ERROR), "{:.1f}"), number(row.get("energy_mae_mev_per_atom"), "{:.2f}"),
        )
        for row in curve["points"]
        if row["skipped"] is None
    ]  # fmt: skip
    columns = ("student", "labels", "time, s", "parameters", "force RMSE, meV/Å", "energy MAE, meV/atom")
    notes = [
        f"Each point is a training of its own, judged on {curve.get('test_structures', '–')} test "
        "structures that none of them saw. The verdict compares what a doubling of each would gain."
    ]
    if isinstance(curve.get("busy"), str) and curve["busy"]:
        said.append(paragraph(f"{curve['busy'][0].upper()}{curve['busy'][1:]}.", "warn"))
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
        "".join(said)
        + figures(drawn, abreast=True)
        + table(columns, rows, marked=0 if done else None)
        + paragraph(" ".join(notes), "note")
    )


def without_curves() -> str:
    """Where none were made."""
    return (
        '<p class="note">Whether labels, training time or capacity limits a student, '
        f"{code('limbeck learning-curve RUN --preset tiny')} tells here.</p>"
    )


def _caption(key: str, own: Mapping[str, Any]) -> str:
    labels, time = f"{own['labels']:,} labels", format_seconds(own["seconds"])
    return {
        "labels": f"{own['preset']}, trained {time}.",
        "seconds": f"{own['preset']}, {labels}.",
        "parameters": f"{labels}, each trained {time}.",
    }[key]


def _is_point(row: Mapping[str, Any]) -> bool:
    values = [row.get(key) for key in ("labels", "seconds", "parameters", _ERROR)]
    return all(isinstance(v, int | float) and 0 < v < math.inf for v in values)
