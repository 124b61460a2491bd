"""The table that a run ends with, and the same figures as metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COLUMNS = (
    ("model", "model", "{}"),
    ("parameters", "parameters", "{:,}"),
    ("compression", "compression", "{:.0f}x"),
    ("file_kb", "file, kB", "{:.0f}"),
    ("force_rmse_mev_per_a", "F RMSE, meV/Å", "{:.1f}"),
    ("force_r2", "F R²", "{:.4f}"),
    ("energy_mae_mev_per_atom", "E MAE, meV/atom", "{:.2f}"),
    ("on_policy_force_rmse_mev_per_a", "on-policy F RMSE", "{:.1f}"),
    ("drift_mev_per_atom_per_ps", "drift, meV/atom/ps", "{:.3f}"),
    ("threads", "threads", "{}"),
    ("atoms_per_s", "atoms/s", "{:,.0f}"),
    ("speedup", "speed-up", "{:.0f}x"),
    ("break_even_steps", "break-even, steps", "{:,}"),
)


ITERATION_COLUMNS = (
    ("iteration", "iteration", "{}"),
    ("model", "model", "{}"),
    ("labels", "labels", "{:,}"),
    ("force_rmse_mev_per_a", "F RMSE, meV/Å", "{:.1f}"),
    ("on_policy_force_rmse_mev_per_a", "on-policy F RMSE", "{:.1f}"),
    ("on_policy_force_r2", "on-policy F R²", "{:.4f}"),
    ("stable", "stable runs", "{}"),
    ("shortest_ps", "shortest, ps", "{:.2f}"),
    ("mean_ps", "mean, ps", "{:.2f}"),
)


def format_iterations(iterations: Sequence[dict[str, Any]]) -> str:
    """The failure-driven loop as a table, one row per iteration and student; as metrics.json has it."""
    rows = []
    for seen in iterations:
        for model, student in seen["students"].items():
            own = student["on_policy"] or {}
            rows.append(
                {
                    "iteration": str(seen["number"]),
                    "model": model,
                    "labels": seen["labels"],
                    "force_rmse_mev_per_a": student["test"].get("force_rmse_mev_per_a"),
                    "on_policy_force_rmse_mev_per_a": own.get("force_rmse_mev_per_a"),
                    "on_policy_force_r2": own.get("force_r2"),
                    "stable": f"{student['stable']} of {student['runs']}",
                    "shortest_ps": student["shortest_ps"],
                    "mean_ps": student["mean_ps"],
                }
            )
    return format_table(rows, ITERATION_COLUMNS)


def format_table(rows: list[dict[str, Any]], shown: Sequence[tuple[str, str, str]] = COLUMNS) -> str:
    """Plain text, one row a model; a dash where a figure does not exist, no column without figures."""
    columns = [column for column in shown if any(row.get(column[0]) is not None for row in rows)]

    def cell(row: dict[str, Any], key: str, form: str) -> str:
        value = row.get(key)
        return "-" if value is None else form.format(value)

    lines = [[title for _, title, _ in columns]]
    lines += [[cell(row, key, form) for key, _, form in columns] for row in rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    text = [
        "  ".join(
            v.ljust(w) if k == 0 else v.rjust(w) for k, (v, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])
