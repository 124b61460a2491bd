"""Write the tables of README.md here and the short one of the project's README (--check only compares).

Errors come from the metrics.json beside it, speeds from `python benchmarks/bench.py --speeds`
(benchmarks/results/speeds.json), exports from what `limbeck finalize` measured
(benchmarks/results/finalize-NAME.json).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FINALIZED = HERE.parent / "benchmarks" / "results"
END = "<!-- to here -->\n"
BEGIN = "<!-- table.py writes from here -->\n"
ROUNDS_BEGIN = "<!-- table.py writes rounds from here -->\n"
SPEEDS_BEGIN = "<!-- table.py writes speeds from here -->\n"
EXPORTS_BEGIN = "<!-- table.py writes exports from here -->\n"
HEAD = (
    "| student | teacher | parameters | test force R² | by temperature | force RMSE, meV/Å "
    "| energy MAE, meV/atom | on-policy force RMSE, meV/Å | training, s |\n" + "|---" * 9 + "|\n"
)


def row(run: str, preset: str, metrics: dict) -> str:
    """One student's line."""
    student, held = metrics[preset], metrics[preset]["test"]
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


SPEEDS_HEAD = (
    "| student | structure | atoms | threads | ms a step | atoms/s | teacher | its ms a step "
    "| times as fast |\n" + "|---" * 9 + "|\n"
)


def speeds() -> dict[str, dict]:
    """Student -> its row of the benchmark and, under ``teacher``, its teacher's."""
    path = FINALIZED / "speeds.json"
    found: dict[str, dict] = {}
    for report in json.loads(path.read_text()).values() if path.exists() else ():
        (teacher,) = (row for row in report["rows"] if row["engine"] == "teacher")
        for row in report["rows"]:
            if row["engine"] == "native" and row["skipped"] is None:
                found[row["model"]] = {**row, "teacher": teacher}
    return found


def speeds_table() -> str:
    """Steps of dynamics of one structure, released students and teachers in turns."""
    lines = []
    for name, row in speeds().items():
        teacher = row["teacher"]
        cells = [
            f"`{name}`", row["system"], f"{row['atoms']:,}", str(row["threads"]),
            f"{row['latency_ms_median']:.3g}", f"{row['atoms_per_s']:,.0f}", teacher["model"],
            "" if teacher["skipped"] else f"{teacher['latency_ms_median']:,.0f}", times(row),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |\n")
    return SPEEDS_HEAD + "".join(lines)


def times(row: dict | None) -> str:
    """The speed-up to two digits: more would be noise."""
    ratio = row and row["speedup_vs_teacher"]
    return f"{float(f'{ratio:.2g}'):,.0f}" if ratio else "not measured"


EXPORTS_HEAD = (
    "| student | size, KB | float16, KB | format | largest force difference, meV/Å "
    "| structures | latency over native, 16 atoms | larger |\n" + "|---" * 8 + "|\n"
)


def export_rows(name: str, student: dict) -> str:
    """A finalised student's lines, one a format."""
    kept = [q for q in student["quantisation"] if q["verdict"] == "kept"]
    half = [q for q in kept if q["quantisation"] == "float16"]
    first = [
        f"`{name}-{student['preset']}`",
        f"{student['bytes'] / 1e3:.0f}",
        f"{half[0]['bytes'] / 1e3:.0f}" if half else "refused",
    ]
    lines = []
    for export in student["exports"]:
        if export["format"] == "aot-inductor":  # measured, and no longer written
            continue
        small, large = export["latency"][0], export["latency"][-1]
        cells = [
            export["format"],
            f"{export['parity']['force_mev_per_a']:.3f}",
            str(export["parity"]["n_structures"]),
            f"{small['export_over_native']:.1f} ({small['export_ms']:.1f} ms)",
            f"{large['export_over_native']:.1f} ({large['export_ms']:.0f} ms, {large['atoms']} atoms)",
        ]
        lines.append("| " + " | ".join([*first, *cells]) + " |\n")
        first = [""] * len(first)
    return "".join(lines)


def exports_table() -> str:
    """What `limbeck finalize` measured of the released students."""
    lines = []
    for path in sorted(FINALIZED.glob("finalize-*.json"), reverse=True):
        name = path.stem.removeprefix("finalize-")
        for student in json.loads(path.read_text())["students"]:
            if (HERE / f"{name}-{student['preset']}.safetensors").exists():
                lines.append(export_rows(name, student))
    return EXPORTS_HEAD + "".join(lines)


ROUNDS_HEAD = (
    "| run | round | student | labels | runs that lasted | mean, ps | test force RMSE, meV/Å "
    "| on-policy force RMSE, meV/Å | on-policy force R² |\n" + "|---" * 9 + "|\n"
)


def rounds_table() -> str:
    """What each round of a failure-driven run saw."""
    lines = []
    for path in sorted(HERE.glob("*.json")):
        for seen in json.loads(path.read_text())["run"].get("rounds", []):
            for preset, student in seen["students"].items():
                on_policy = student["on_policy"]
                cells = [
                    path.stem, str(seen["number"]), preset, f"{seen['labels']:,}",
                    f"{student['survived']} of {student['runs']}", f"{student['mean_ps']:.1f}",
                    f"{student['test']['force_rmse_mev_per_a']:.1f}",
                    f"{on_policy['force_rmse_mev_per_a']:.0f}", f"{on_policy['force_r2']:.3f}",
                ]  # fmt: skip
                lines.append("| " + " | ".join(cells) + " |\n")
    return ROUNDS_HEAD + "".join(lines)


SYSTEMS = {
    "silicon": "silicon, crystal, 300 to 1500 K",
    "silicon-hot": "the same; trained on its melt at 2000 K as well",
    "licl": "LiCl, crystal and melt, 300 to 1500 K",
    "cu111": "copper surface with a vacancy, 300 to 900 K",
    "water": "liquid water, 280 to 400 K",
    "3bpa": "3BPA, a drug-like molecule of 27 atoms, 300 to 1000 K",
}
SHORT_BEGIN = "<!-- students/table.py writes from here -->\n"
SHORT_HEAD = (
    "| students | system | teacher | force RMSE, meV/Å | force R² | energy MAE, meV/atom "
    "| times as fast as the teacher |\n" + "|---" * 7 + "|\n"
)


def short_table() -> str:
    """A line a system: `tiny` and `ultra-tiny`."""
    lines, measured = [], speeds()
    for name, system in SYSTEMS.items():
        metrics = json.loads((HERE / f"{name}.json").read_text())
        both = [metrics[preset] for preset in ("tiny", "ultra-tiny")]
        held = [student["test"]["all"] for student in both]
        cells = [
            f"`{name}-tiny`, `{name}-ultra-tiny`",
            system,
            metrics["run"]["teacher"]["name"],
            ", ".join(f"{h['force_rmse_mev_per_a']:.1f}" for h in held),
            ", ".join(f"{h['force_r2']:.4f}" for h in held),
            ", ".join(f"{h['energy_mae_mev_per_atom']:.2f}" for h in held),
            ", ".join(times(measured.get(f"{name}-{preset}")) for preset in ("tiny", "ultra-tiny")),
        ]
        lines.append("| " + " | ".join(cells) + " |\n")
    return SHORT_HEAD + "".join(lines)


def between(text: str, begin: str, table: str) -> str:
    before, rest = text.split(begin)
    _, after = rest.split(END, 1)
    return before + begin + table + END + after


def main() -> int:
    here, project = HERE / "README.md", HERE.parent / "README.md"
    wanted = between(here.read_text(), BEGIN, table())
    wanted = between(wanted, SPEEDS_BEGIN, speeds_table())
    wanted = between(between(wanted, ROUNDS_BEGIN, rounds_table()), EXPORTS_BEGIN, exports_table())
    pages = {here: wanted, project: between(project.read_text(), SHORT_BEGIN, short_table())}
    if "--check" in sys.argv[1:]:
        return int(any(page.read_text() != text for page, text in pages.items()))
    for page, text in pages.items():
        page.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
