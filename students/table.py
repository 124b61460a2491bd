"""Write the tables of README.md here and the short one of the project's README (--check only compares).

Errors come from the metrics.json files in this folder, speeds from `python benchmarks/bench.py --speeds`
(benchmarks/results/speeds.json), exports from the results of `limbeck finalize`
(benchmarks/results/finalize-NAME.json).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "benchmarks" / "results"
END = "<!-- to here -->\n"
PRESETS = ("original", "tiny", "ultra-tiny")
SHIPPED = ("tiny", "ultra-tiny")


def table(columns: list[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    head = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def is_shipped(name: str) -> bool:
    return (HERE / f"{name}.safetensors").exists()


def accuracy_table() -> str:
    """Errors of each student, and of runs of ``original``, which is not shipped."""
    runs = {path.stem: load(path) for path in HERE.glob("*.json")}
    rows = []
    for run in sorted({metrics["run"]["name"] for metrics in runs.values()}, reverse=True):
        for preset in PRESETS:
            name = f"{run}-{preset}"
            # a run of one preset alone takes precedence over the run of all presets
            metrics = runs.get(name, runs[run])
            if preset not in metrics:
                continue
            student, test = metrics[preset], metrics[preset]["test"]
            on_policy = student.get("on_policy", {}).get("all", {}).get("force_rmse_mev_per_a")
            temperatures = sorted(test["by_temperature"].items(), key=lambda item: float(item[0]))
            rows.append([
                f"`{name}`" if is_shipped(name) else f"{name} (not shipped)",
                metrics["run"]["teacher"]["name"],
                f"{student['run']['parameters']:,}",
                f"{test['all']['force_r2']:.5f}",
                ", ".join(f"{float(t):.0f} K {m['force_r2']:.5f}" for t, m in temperatures),
                f"{test['all']['force_rmse_mev_per_a']:.1f}",
                f"{test['all']['energy_mae_mev_per_atom']:.2f}",
                "" if on_policy is None else f"{on_policy:.0f}",
                f"{student['run']['training']['seconds']:.0f}",
            ])  # fmt: skip
    columns = [
        "student", "teacher", "parameters", "test force R²", "force R² by temperature", "force RMSE, meV/Å",
        "energy MAE, meV/atom", "on-policy force RMSE, meV/Å", "training, s",
    ]  # fmt: skip
    return table(columns, rows)


def speeds() -> dict[str, dict[str, Any]]:
    """Student -> its row of the benchmark, with its teacher's row under ``teacher``."""
    found: dict[str, dict[str, Any]] = {}
    for report in load(RESULTS / "speeds.json").values():
        (teacher,) = (row for row in report["rows"] if row["engine"] == "teacher")
        for row in report["rows"]:
            if row["engine"] == "native" and row["skipped"] is None:
                found[row["model"]] = {**row, "teacher": teacher}
    return found


def speedup(row: dict[str, Any] | None) -> str:
    """The speed-up to two digits: more would be noise."""
    ratio = row and row["speedup_vs_teacher"]
    return f"{float(f'{ratio:.2g}'):,.0f}" if ratio else "not measured"


def speeds_table() -> str:
    """Time of an MD step of one structure."""
    columns = [
        "student", "structure", "atoms", "threads", "ms per step", "atoms/s", "teacher",
        "teacher, ms per step", "speed-up",
    ]  # fmt: skip
    return table(columns, ([
        f"`{name}`", row["system"], f"{row['atoms']:,}", str(row["threads"]),
        f"{row['latency_ms_median']:.3g}", f"{row['atoms_per_s']:,.0f}", row["teacher"]["model"],
        "" if row["teacher"]["skipped"] else f"{row['teacher']['latency_ms_median']:,.0f}", speedup(row),
    ] for name, row in speeds().items()))  # fmt: skip


def exports_table() -> str:
    """What `limbeck finalize` measured for the released students."""
    rows = []
    for path in sorted(RESULTS.glob("finalize-*.json"), reverse=True):
        for student in load(path)["students"]:
            name = f"{path.stem.removeprefix('finalize-')}-{student['preset']}"
            if not is_shipped(name):
                continue
            half = [
                q for q in student["quantisation"]
                if q["verdict"] == "kept" and q["quantisation"] == "float16"
            ]  # fmt: skip
            first = [
                f"`{name}`", f"{student['bytes'] / 1e3:.0f}",
                f"{half[0]['bytes'] / 1e3:.0f}" if half else "refused",
            ]  # fmt: skip
            for export in student["exports"]:
                if export["format"] == "aot-inductor":  # measured, and no longer supported
                    continue
                small, large = export["latency"][0], export["latency"][-1]
                rows.append([
                    *first, export["format"], f"{export['parity']['force_mev_per_a']:.3f}",
                    str(export["parity"]["n_structures"]),
                    f"{small['export_over_native']:.1f} ({small['export_ms']:.1f} ms)",
                    f"{large['export_over_native']:.1f} "
                    f"({large['export_ms']:.0f} ms, {large['atoms']} atoms)",
                ])  # fmt: skip
                first = [""] * len(first)
    columns = [
        "student", "size, KB", "float16, KB", "format", "largest force difference, meV/Å", "structures",
        "latency / native engine, 16 atoms", "latency / native engine, large cell",
    ]  # fmt: skip
    return table(columns, rows)


def active_learning_table() -> str:
    """What each active learning iteration found."""
    columns = [
        "run", "iteration", "student", "labels", "stable runs", "mean length, ps",
        "test force RMSE, meV/Å", "on-policy force RMSE, meV/Å", "on-policy force R²",
    ]  # fmt: skip
    return table(columns, ([
        path.stem, str(iteration["number"]), preset, f"{iteration['labels']:,}",
        f"{student['stable']} of {student['runs']}", f"{student['mean_ps']:.1f}",
        f"{student['test']['force_rmse_mev_per_a']:.1f}",
        f"{student['on_policy']['force_rmse_mev_per_a']:.0f}", f"{student['on_policy']['force_r2']:.3f}",
    ]
        for path in sorted(HERE.glob("*.json"))
        for iteration in load(path)["run"].get("active_learning", [])
        for preset, student in iteration["students"].items()
    ))  # fmt: skip


SYSTEMS = {
    "silicon": "silicon, crystal, 300 to 1500 K",
    "silicon-hot": "the same; trained on its melt at 2000 K as well",
    "licl": "LiCl, crystal and melt, 300 to 1500 K",
    "cu111": "copper surface with a vacancy, 300 to 900 K",
    "water": "liquid water, 280 to 400 K",
    "3bpa": "3BPA, a drug-like molecule of 27 atoms, 300 to 1000 K",
}


def short_table() -> str:
    """One line per system, for the project's README."""
    rows, measured = [], speeds()
    for name, system in SYSTEMS.items():
        metrics = load(HERE / f"{name}.json")
        tests = [metrics[preset]["test"]["all"] for preset in SHIPPED]
        rows.append([
            ", ".join(f"`{name}-{preset}`" for preset in SHIPPED), system, metrics["run"]["teacher"]["name"],
            ", ".join(f"{test['force_rmse_mev_per_a']:.1f}" for test in tests),
            ", ".join(f"{test['force_r2']:.4f}" for test in tests),
            ", ".join(f"{test['energy_mae_mev_per_atom']:.2f}" for test in tests),
            ", ".join(speedup(measured.get(f"{name}-{preset}")) for preset in SHIPPED),
        ])  # fmt: skip
    columns = [
        "students", "system", "teacher", "force RMSE, meV/Å", "force R²", "energy MAE, meV/atom",
        "times as fast as the teacher",
    ]  # fmt: skip
    return table(columns, rows)


#: first line of each generated part -> its table
PAGES = {
    HERE / "README.md": {
        "<!-- table.py writes from here -->\n": accuracy_table,
        "<!-- table.py writes speeds from here -->\n": speeds_table,
        "<!-- table.py writes exports from here -->\n": exports_table,
        "<!-- table.py writes active learning from here -->\n": active_learning_table,
    },
    HERE.parent / "README.md": {"<!-- students/table.py writes from here -->\n": short_table},
}


def render(page: Path) -> str:
    """The page with its generated parts replaced."""
    text = page.read_text()
    for begin, write in PAGES[page].items():
        before, rest = text.split(begin)
        text = before + begin + write() + END + rest.split(END, 1)[1]
    return text


def main() -> int:
    pages = {page: render(page) for page in PAGES}
    if "--check" in sys.argv[1:]:
        return int(any(page.read_text() != text for page, text in pages.items()))
    for page, text in pages.items():
        page.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
