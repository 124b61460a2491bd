"""Speed and memory of the released students and their teachers, by `limbeck bench`.

    python benchmarks/bench.py [--quick] [--threads 1] [--only silicon,water]
    python benchmarks/bench.py --speeds && python students/table.py

Systems resemble the students' training data: crystals (copper as bulk), liquid water, a conformer of 3BPA.
Writes results/bench.json and the table of the README. ``--speeds`` (about 4 minutes) times one structure per
student with the native engine and two threads, for students/README.md: results/speeds.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from limbeck.core.frames import read_any, write_frames
from limbeck.runtime.released import list_students
from limbeck.sampling.liquids import Liquid, pack_liquid
from limbeck.sampling.starts import bulk_structure, smiles_conformers
from limbeck.students.specification import PRESETS

HERE = Path(__file__).parent
RESULTS, SPEEDS = HERE / "results" / "bench.json", HERE / "results" / "speeds.json"
BEGIN, END = "<!-- bench.py writes from here -->\n", "<!-- to here -->\n"
#: system of the released students -> starting structures
STARTS = {
    "silicon": lambda: [bulk_structure("Si")],
    "licl": lambda: read_any(HERE.parent / "examples" / "licl.cif"),
    "cu111": lambda: [bulk_structure("Cu")],
    "water": lambda: pack_liquid(Liquid(molecules="16 O", density_g_per_cm3=0.997)),
    "3bpa": lambda: smiles_conformers("c1ccc(cc1)COc1cccnc1N"),
}
WHERE = {
    "silicon": "the cubic crystal of ase.build.bulk",
    "licl": "examples/licl.cif",
    "cu111": "the cubic crystal of ase.build.bulk",
    "water": "a packed box of 16 molecules",
    "3bpa": "a conformer of 3BPA by RDKit",
}
#: a call of a teacher on 4,000 atoms takes half a minute
WHOLE = ["--row-limit", "45s"]
QUICK = ["--batch", "1,4", "--atoms", "16,100", "--row-limit", "5s"]
ONE = ["--batch", "", "--engines", "native", "--row-limit", "60s"]
#: atoms of the single structure; about 100 for other systems
ONE_ATOMS = {"3bpa": 27}
HEADS = (
    "model", "engine", "system", "atoms", "batch", "ms a call (quartile distance)", "structures/s", "atoms/s",
    "memory, MB", "speed-up over the teacher",
)  # fmt: skip


def measure(name: str, students: list[str], folder: Path, more: list[str]) -> dict[str, Any]:
    """Run `limbeck bench`; returns its report."""
    starts, out = folder / f"{name}.extxyz", folder / f"{name}.json"
    write_frames(starts, STARTS[name]())
    command = [sys.executable, "-m", "limbeck.cli", "bench", *students, "--structures", str(starts)]
    print(" ".join(["limbeck bench", *students, *more]), flush=True)
    subprocess.run([*command, "--json", str(out), *more], check=True)
    report = json.loads(out.read_text(encoding="utf-8"))
    report["systems"] = [text.replace(str(starts), WHERE[name]) for text in report["systems"]]
    return report


def table(reports: list[dict[str, Any]]) -> str:
    """Machine, settings and all rows as Markdown."""
    about, settings, versions = (reports[0][key] for key in ("machine", "settings", "versions"))
    named = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    lines = [
        f"{about['processor']}, {settings['threads']} of {about['cores']} cores, Python {about['python']}; "
        f"{named}; load when it began {about['load']}.",
        "",
        f"| {' | '.join(HEADS)} |",
        "|---" * len(HEADS) + "|",
    ]
    lines += [f"| {' | '.join(_cells(row))} |" for report in reports for row in report["rows"]]
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    head = [row["model"], row["engine"], row["system"], f"{row['atoms']:,}", str(row["batch"])]
    if row["skipped"] is not None:
        return [*head, f"not measured: {row['skipped']}", "", "", "", ""]
    ratio, memory = row["speedup_vs_teacher"], row["peak_memory_mb"]
    return [
        *head,
        f"{row['latency_ms_median']:.3g} ({row['latency_ms_iqr']:.2g})",
        f"{row['structures_per_s']:.3g}",
        f"{row['atoms_per_s']:,.0f}",
        "" if memory is None else f"{memory:,.0f}",
        "" if ratio is None else f"{ratio:.3g}x",
    ]


def write_readme(text: str) -> None:
    readme = HERE / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END, 1)
    readme.write_text(before + BEGIN + text + END + after, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="smoke test: prints, and writes only with --json"
    )
    parser.add_argument("--speeds", action="store_true", help="one structure each, for students/table.py")
    parser.add_argument("--threads", type=int, help="default 1, with --speeds 2")
    parser.add_argument(
        "--only", default=",".join(STARTS), help="systems, separated by commas; results of others are kept"
    )
    parser.add_argument("--json", type=Path, help="write results here; the README is then unchanged")
    chosen = parser.parse_args()
    names = [student.name for student in list_students()]
    threads = chosen.threads or (2 if chosen.speeds else 1)
    more = ["--threads", str(threads), *(ONE if chosen.speeds else QUICK if chosen.quick else WHOLE)]
    target = chosen.json or (SPEEDS if chosen.speeds else None if chosen.quick else RESULTS)
    reports = {}
    if target is not None and target.exists():
        reports = json.loads(target.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        for start in chosen.only.split(","):
            # students of the same system and size have the same speed: bench.json has one of each
            kinds = [start, f"{start}-hot"] if chosen.speeds else [start]
            students = [f"{k}-{preset}" for k in kinds for preset in PRESETS if f"{k}-{preset}" in names]
            if students:
                size = ["--atoms", str(ONE_ATOMS.get(start, 100))] if chosen.speeds else []
                reports[start] = measure(start, students, Path(folder), [*more, *size])
                if target is not None:  # after each system, so that an interrupted run keeps its results
                    target.write_text(
                        json.dumps(reports, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
                    )
    whole = table([reports[start] for start in STARTS if start in reports])
    if target == RESULTS:
        write_readme(whole)
    elif target == SPEEDS:
        print(f"written to {SPEEDS}; python students/table.py writes the tables")
    else:
        print(whole)


if __name__ == "__main__":
    main()
