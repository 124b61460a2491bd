"""Training curves, learning curves, and speed against accuracy, size and batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from limbeck.progress import format_seconds
from limbeck.records.figure import GREY, PALETTE, Axis, Figure, Trace, log_axis, ordered
from limbeck.records.metrics import is_number
from limbeck.report.reading import Run
from limbeck.report.recommendation import PresetRow, teacher_rate

_DASHES = {"native": "solid", "torch": "dash", "teacher": "dot"}
_SYMBOLS = {"native": "circle", "torch": "square", "teacher": "triangle-up"}
_TRAINING = (
    ("validation_force_rmse_mev_per_a", "learning-forces", "Forces while training", "force RMSE (meV/Å)"),
    ("validation_energy_mae_mev_per_atom", "learning-energies", "Energies while training",
     "energy MAE (meV/atom)"),
)  # fmt: skip
#: of each learning curve: the resource, heading, axis, and what must be as it is for the student itself
CURVES = (
    ("labels", "Fewer labels", "training labels", ("seconds", "preset")),
    ("seconds", "Less training time", "training time, s", ("labels", "preset")),
    ("parameters", "Other widths", "parameters", ("labels", "seconds")),
)
_ERROR = "force_rmse_mev_per_a"


def learning_figures(run: Run) -> list[Figure]:
    """Errors on validation structures while each student trained."""
    figures = []
    longest = max((row["spent_s"] for rows in run.logs.values() for row in rows), default=0.0)
    scale, word = (60.0, "min") if longest > 180 else (1.0, "s")
    for key, name, title, unit in _TRAINING:
        traces = []
        for preset, color in ordered(run.presets).items():
            rows = [row for row in run.logs.get(preset, []) if row.get(key) and row["spent_s"] > 0]
            if rows:
                x = np.array([row["spent_s"] for row in rows]) / scale
                traces.append(
                    Trace(x, np.array([row[key] for row in rows]), preset, color, "both", size=4,
                          custom=[row.get("epoch") for row in rows],
                          hover=f"%{{x:.3g}} {word}, epoch %{{customdata}}: %{{y:.3g}}")
                )  # fmt: skip
        if traces:
            caption = "Validation structures, which chose the best weights; time on the training machine."
            x_axis = log_axis(f"training time ({word})", [trace.x for trace in traces])
            y_axis = log_axis(unit, [trace.y for trace in traces])
            figures.append(Figure(name, title, caption, traces, x_axis, y_axis))
    return figures


def trained_points(curve: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Points of a learning curve that were trained, the student's own first; none without that one."""
    keys = ("labels", "seconds", "parameters", _ERROR)
    rows = curve["points"]
    done = [
        row for row in rows
        if row["skipped"] is None and all(is_number(row.get(key)) and row[key] > 0 for key in keys)
    ]  # fmt: skip
    return done if done and done[0] is rows[0] else []


def curve_points(done: Sequence[Mapping[str, Any]], same: Sequence[str]) -> list[Mapping[str, Any]]:
    """Points that are as the first, the student's own, in all of ``same``."""
    return [row for row in done if all(row[one] == done[0][one] for one in same)]


def curve_figures(curve: Mapping[str, Any]) -> list[Figure]:
    """Force error over labels, training time and parameters, each where two points or more were trained."""
    done, drawn = trained_points(curve), []
    errors = [row[_ERROR] for row in done]
    for k, (key, title, unit, same) in enumerate(CURVES):
        chosen = curve_points(done, same)
        chosen.sort(key=lambda row: (row[key], row[_ERROR]))
        if len(chosen) < 2:
            continue
        own, time = done[0], format_seconds(done[0]["seconds"])
        caption = {
            "labels": f"{own['preset']}, trained {time}.",
            "seconds": f"{own['preset']}, {own['labels']:,} labels.",
            "parameters": f"{own['labels']:,} labels, each trained {time}.",
        }[key]
        x, y = (np.array([row[one] for row in chosen], float) for one in (key, _ERROR))
        trace = Trace(
            x, y, unit, PALETTE[k], "both", size=8, legend=False,
            text=[row["preset"] for row in chosen] if key == "parameters" else None,
            hover=f"%{{x:,.6g}} {unit.split(',')[0]}: %{{y:.1f}} meV/Å",
        )  # fmt: skip
        # room for names above the highest point
        y_axis = log_axis("force RMSE (meV/Å)", [[*errors, 1.4 * max(errors)]])
        name = f"curve-{curve['preset']}-{key}"
        drawn.append(Figure(name, title, caption, [trace], log_axis(unit, [x]), y_axis, height=280))
    return drawn


def pareto_figure(rows: Sequence[PresetRow], run: Run, target: float | None) -> Figure | None:
    """Force error against speed; the teacher stands at zero error, where it is by definition."""
    points = [
        (row.name, row.atoms_per_s, row.force_rmse, color, "circle")
        for row, color in zip(rows, ordered([row.name for row in rows]).values(), strict=True)
        if row.atoms_per_s and row.force_rmse is not None
    ]
    if not points:
        return None
    teacher = run.metrics.teacher
    if slow := teacher_rate(rows, teacher):
        points.append((teacher.name or "teacher", slow, 0.0, GREY, "triangle-up"))
    traces = [
        Trace([x], [y], name, color, "points", size=13, symbol=symbol,
              hover=f"{escape(name)}: %{{x:,.0f}} atoms/s, %{{y:.1f}} meV/Å")
        for name, x, y, color, symbol in points
    ]  # fmt: skip
    rates = np.log10([rate for _, rate, *_ in points])
    margin = max(0.25, 0.16 * float(np.ptp(rates)))
    x_axis = log_axis("atoms/s", [10 ** (rates - margin), 10 ** (rates + margin)])
    highest = max([error for _, _, error, *_ in points] + [target or 0.0])
    if target is not None:
        name = f"target {target:g} meV/Å"
        traces.append(Trace(x_axis.limits, [target, target], name, width=1, dash="dash", hover=""))
    speed_of = next((row.speed_of for row in rows if row.speed_of), "each student")
    return Figure(
        "pareto",
        "Accuracy against speed",
        f"Lower and further right is better. The teacher has no error against itself. Speed of {speed_of}.",
        traces,
        x_axis,
        Axis("force RMSE (meV/Å)", limits=(-0.12 * highest, 1.2 * highest)),
    )


def bench_figures(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Rates by size of one structure and by batch of small ones, and memory."""
    rows = [row for row in rows if row.get("atoms_per_s")]
    sizes = {row["atoms"] for row in rows if row["batch"] > 1}
    small = f"{min(sizes)}" if sizes else "small"
    teachers = ", ".join(dict.fromkeys(row["model"] for row in rows if row["engine"] == "teacher"))
    who = "Native engine unless another is named." + (f" The teacher is {teachers}." if teachers else "")
    single = [row for row in rows if row["batch"] == 1]
    wanted = (
        ("bench-size", "One structure", single, "atoms", "atoms_per_s", "atoms", "atoms/s",
         "Energies and forces in one call, neighbour list included."),
        ("bench-batch", "Batches", [row for row in rows if row["atoms"] in sizes], "batch",
         "structures_per_s", f"structures of {small} atoms in a call", "structures/s",
         f"Structures of {small} atoms, several in a call."),
        ("bench-memory", "Memory", [row for row in single if row.get("peak_memory_mb")], "atoms",
         "peak_memory_mb", "atoms", "peak memory (MB)", "Growth of the process while evaluating."),
    )  # fmt: skip
    figures = []
    for name, title, chosen, across, up, x_title, y_title, caption in wanted:
        if chosen:
            x_axis = Axis(x_title, log=True, ticks=sorted({row[across] for row in chosen}))
            y_axis = log_axis(y_title, [[row[up] for row in chosen]], automargin=True)
            traces = _lines(chosen, across, up)
            figures.append(Figure(name, title, f"{caption} {who}", traces, x_axis, y_axis))
    return figures


def _lines(rows: Sequence[Mapping[str, Any]], across: str, up: str) -> list[Trace]:
    """A line a model and engine."""
    colors = ordered(list(dict.fromkeys(row["model"] for row in rows if row["engine"] != "teacher")))
    traces = []
    for model, engine in dict.fromkeys((row["model"], row["engine"]) for row in rows):
        own = sorted(
            (row[across], row[up]) for row in rows if (row["model"], row["engine"]) == (model, engine)
        )
        x, y = (np.array(values, float) for values in zip(*own, strict=True))
        name = {"teacher": "teacher", "native": model}.get(engine, f"{model}, {engine}")
        traces.append(
            Trace(x, y, name, colors.get(model, GREY), "both", _DASHES.get(engine, "solid"), 1.8, 7,
                  _SYMBOLS.get(engine, "circle"))
        )  # fmt: skip
    return traces
