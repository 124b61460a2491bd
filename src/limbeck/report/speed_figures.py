"""Training curves, and speed against accuracy, size and batch."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from limbeck.report.figures import GREY, Figure, axis, layout, line, log_axis, ordered, packed
from limbeck.report.reading import Run
from limbeck.report.recommendation import PresetRow, teacher_rate

_DASHES = {"native": "solid", "torch": "dash", "teacher": "dot"}
_SYMBOLS = {"native": "circle", "torch": "square", "teacher": "triangle-up"}


def learning_figures(run: Run) -> list[Figure]:
    """Errors on validation structures while each student trained."""
    figures = []
    for key, name, title, unit in (
        ("validation_force_rmse_mev_per_a", "learning-forces", "Forces while training", "force RMSE (meV/Å)"),
        (
            "validation_energy_mae_mev_per_atom",
            "learning-energies",
            "Energies while training",
            "energy MAE (meV/atom)",
        ),
    ):
        traces, times, heights = [], [], []
        for preset, color in ordered(run.presets).items():
            rows = [r for r in run.logs.get(preset, []) if r.get(key) and r["spent_s"] > 0]
            if rows:
                x = np.array([r["spent_s"] for r in rows])
                y = np.array([float(r[key]) for r in rows])
                times.append(x)
                heights.append(y)
                traces.append(
                    line(x, y, preset, color, mode="lines+markers", marker={"size": 4},
                         customdata=[r.get("epoch") for r in rows],
                         hovertemplate="%{x:.0f} s, epoch %{customdata}: %{y:.3g}")
                )  # fmt: skip
        if traces:
            longest = float(np.concatenate(times).max())
            scale, word = (60.0, "min") if longest > 180 else (1.0, "s")
            for trace, x in zip(traces, times, strict=True):
                trace["x"] = packed(x / scale)
                trace["hovertemplate"] = trace["hovertemplate"].replace(" s,", f" {word},")
            caption = "Validation structures, which chose the best weights; time on the training machine."
            figures.append(
                Figure(
                    name, title, caption, traces,
                    layout(
                        log_axis(f"training time ({word})", [t / scale for t in times]),
                        log_axis(unit, heights),
                    ),
                )
            )  # fmt: skip
    return figures


def pareto_figure(rows: Sequence[PresetRow], teacher: dict[str, Any], target: float | None) -> Figure | None:
    """Force error against speed; the teacher stands at zero error, where it is by definition."""
    colors = ordered([row.name for row in rows])
    points: list[tuple[str, float, float, str, str]] = [
        (row.name, row.atoms_per_s, row.force_rmse, colors[row.name], "circle")
        for row in rows
        if row.atoms_per_s and row.force_rmse is not None
    ]
    if not points:
        return None
    speed_of = next((row.speed_of for row in rows if row.speed_of), "each student")
    if slow := teacher_rate(rows, teacher):
        points.append((str(teacher.get("name") or "teacher"), slow, 0.0, GREY, "triangle-up"))
    traces = [
        {
            "type": "scatter", "mode": "markers", "x": [x], "y": [y], "name": name, "cliponaxis": False,
            "marker": {"size": 13, "color": color, "symbol": symbol},
            "hovertemplate": f"{escape(name)}: %{x:,.0f} atoms/s, %{y:.1f} meV/Å<extra></extra>",
        }
        for name, x, y, color, symbol in points
    ]  # fmt: skip
    rates = np.log10([point[1] for point in points])
    margin = max(0.25, 0.16 * float(np.ptp(rates)))
    highest = max(point[2] for point in points)
    more: dict[str, Any] = {}
    if target is not None:
        highest = max(highest, target)
        more["shapes"] = [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": target, "y1": target,
             "line": {"color": GREY, "width": 1, "dash": "dash"}}
        ]  # fmt: skip
        more["annotations"] = [
            {"xref": "paper", "x": 0.01, "xanchor": "left", "y": target, "yanchor": "bottom",
             "showarrow": False, "text": f"target {target:g} meV/Å"}
        ]  # fmt: skip
    return Figure(
        "pareto",
        "Accuracy against speed",
        "Lower and further right is better. The teacher has no error against itself. "
        f"Speed of {speed_of}.",
        traces,
        layout(
            log_axis("atoms/s", [10 ** (rates - margin), 10 ** (rates + margin)]),
            axis("force RMSE (meV/Å)", range=[-0.12 * highest, 1.2 * highest]),
            **more,
        ),
    )  # fmt: skip


def bench_figures(bench: dict[str, Any] | None) -> list[Figure]:
    """Rates by size of one structure, and by batch of small ones."""
    rows = [r for r in (bench or {}).get("rows", []) if r.get("atoms_per_s")]
    sizes = {r["atoms"] for r in rows if r["batch"] > 1}
    small = f"{min(sizes)}" if sizes else "small"
    teachers = ", ".join(dict.fromkeys(r["model"] for r in rows if r["engine"] == "teacher"))
    who = "Native engine unless another is named." + (f" The teacher is {teachers}." if teachers else "")
    wanted = (
        ("bench-size", "One structure", [r for r in rows if r["batch"] == 1], "atoms", "atoms_per_s",
         "atoms", "atoms/s", f"Energies and forces in one call, neighbour list included. {who}"),
        ("bench-batch", "Batches", [r for r in rows if r["atoms"] in sizes], "batch", "structures_per_s",
         f"structures of {small} atoms in a call", "structures/s",
         f"Structures of {small} atoms, several in a call. {who}"),
        ("bench-memory", "Memory", [r for r in rows if r["batch"] == 1 and r.get("peak_memory_mb")], "atoms",
         "peak_memory_mb", "atoms", "peak memory (MB)", f"Growth of the process while evaluating. {who}"),
    )  # fmt: skip
    figures = []
    for name, title, chosen, across, up, x_title, y_title, caption in wanted:
        traces = _lines(chosen, across, up)
        if traces:
            x, y = zip(*[(r[across], r[up]) for r in chosen], strict=True)
            ticks = sorted(set(x))
            x_axis = axis(
                x_title, type="log", tickmode="array", tickvals=ticks, ticktext=[f"{t:,}" for t in ticks]
            )
            figures.append(
                Figure(name, title, caption, traces, layout(x_axis, log_axis(y_title, [y], automargin=True)))
            )
    return figures


def _lines(rows: Sequence[dict[str, Any]], across: str, up: str) -> list[dict[str, Any]]:
    students = list(dict.fromkeys(r["model"] for r in rows if r["engine"] != "teacher"))
    colors = ordered(students)
    traces = []
    for model, engine in dict.fromkeys((r["model"], r["engine"]) for r in rows):
        own = sorted((r[across], r[up]) for r in rows if (r["model"], r["engine"]) == (model, engine))
        x, y = (np.array(v, float) for v in zip(*own, strict=True))
        name = {"teacher": "teacher", "native": model}.get(engine, f"{model}, {engine}")
        traces.append(
            line(
                x, y, name, colors.get(model, GREY), mode="lines+markers",
                line={"dash": _DASHES.get(engine, "solid"), "width": 1.8},
                marker={"symbol": _SYMBOLS.get(engine, "circle"), "size": 7},
            )
        )  # fmt: skip
    return traces
