"""Write the table of README.md from the metrics beside it (--check only compares)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- table.py writes from here -->\n", "<!-- to here -->\n"
HEAD = (
    "| student | teacher | parameters | held-out force R² | by temperature | force RMSE, meV/Å "
    "| energy MAE, meV/atom | on-policy force RMSE, meV/Å | training, s |\n" + "|---" * 9 + "|\n"
)


def row(run: str, preset: str, metrics: dict) -> str:
    """One student's line."""
    student, held = metrics[preset], metrics[preset]["heldout"]
    temperatures = sorted(held["by_temperature"].items(), key=lambda item: float(item[0]))
    by_temperature = ", ".join(f"{float(t):.0f} K {m['force_r2']:.5f}" for t, m in temperatures)
    on_policy = student.get("on_policy", {}).get("all", {}).get("force_rmse_mev_per_a")
    name = f"{run}-{preset}"
    cells = [
        f"`{name}`" if (HERE / f"{name}.safetensors").exists() else f"{name} (not shipped)",
        metrics["run"]["teacher"]["name"],
        f"{student['run']['parameters']:,}",
        f"{held['all']['force_r2']:.5f}",
        by_temperature,
        f"{held['all']['force_rmse_mev_per_a']:.1f}",
        f"{held['all']['energy_mae_mev_per_atom']:.2f}",
        "" if on_policy is None else f"{on_policy:.0f}",
        f"{student['run']['training']['seconds']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |\n"


def table() -> str:
    """The whole table, released students only."""
    lines = []
    runs = {path.stem: json.loads(path.read_text()) for path in HERE.glob("*.json")}
    for name in sorted({run["run"]["name"] for run in runs.values()}, reverse=True):
        for preset in ("original", "tiny", "ultra-tiny"):
            # a run of one preset alone comes before the run of all
            metrics = runs.get(f"{name}-{preset}", runs[name])
            if preset in metrics:
                lines.append(row(name, preset, metrics))
    return HEAD + "".join(lines)


def main() -> int:
    readme = HERE / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    wanted = before + BEGIN + table() + END + after
    if "--check" in sys.argv[1:]:
        return int(text != wanted)
    readme.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
