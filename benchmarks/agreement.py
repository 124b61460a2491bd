"""Compares the speed that `limbeck distill` prints with the speed of MD.

    python benchmarks/agreement.py RUN [--repeats 3] [--threads N] [--json F]

On the first test frame of a run, with equal threads: the timing at the end of distill (teacher and students
alternating in this process), `limbeck bench` (each in its own process), and a loop of 100 steps over
`limbeck.Calculator`. Prints atoms/s, speed-ups and ratios, medians over the repeats; exits with 1 if a ratio
exceeds 1.5. On a busy machine the wall time of the loop is longer; the CPU time of the calling thread shows
what it would be alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from limbeck import Calculator, Student
from limbeck.benchmark.models import TeacherChoice
from limbeck.benchmark.run import run_benchmark
from limbeck.config import load_config
from limbeck.core.frames import read_any, write_frames
from limbeck.core.machine import describe_machine
from limbeck.core.timing import speedup, time_in_turns
from limbeck.labelling.remote import WorkerPotential, open_teacher

BAR = 1.5
STEPS, LOOPS = 100, 20
STEP_A = 0.005  # of each coordinate and step; silicon at 1500 K, 1 fs: 0.007


def by_distill(teacher: WorkerPotential, students: list[Student], atoms: Atoms) -> list[dict[str, float]]:
    """Rates and speed-ups of the students as measured at the end of a run."""
    slow, *timings = time_in_turns([teacher, *students], atoms)
    return [
        {"atoms_per_s": len(atoms) / one.median_s, "speedup": speedup(slow.rounds, one.rounds)}
        for one in timings
    ]


def by_bench(
    choice: TeacherChoice, files: list[Path], frame: Path, atoms: int, threads: int
) -> list[dict[str, float]]:
    """The same, measured by `limbeck bench`."""
    report = run_benchmark(
        files,
        teacher=choice,
        batches=[],
        sizes=[atoms],
        engines=["native"],
        threads=threads,
        structures=frame,
    )
    rows = {row.model: row for row in report.rows}
    found = []
    for path in files:
        row = rows[path.stem]
        if row.skipped:
            sys.exit(f"error: bench: {row.model}: {row.skipped}")
        assert row.atoms == atoms
        found.append({"atoms_per_s": row.atoms_per_s, "speedup": row.speedup_vs_teacher})
    return found


def by_loop(path: Path, atoms: Atoms, threads: int) -> tuple[float, float]:
    """Atoms/s of a loop over the calculator, by wall time and by CPU time."""
    rng = np.random.default_rng(0)
    frame = atoms.copy()
    frame.calc = Calculator(path, threads=threads)
    taken = []
    for _ in range(LOOPS):
        frame.positions = atoms.positions
        for step in range(STEPS + 2):
            if step == 2:  # after a warm-up
                began = np.array([time.perf_counter(), time.thread_time()])
            frame.positions += rng.normal(scale=STEP_A, size=frame.positions.shape)
            frame.get_forces()
        taken.append(np.array([time.perf_counter(), time.thread_time()]) - began)
    wall, own = STEPS * len(frame) / np.median(taken, axis=0)
    return float(wall), float(own)


def _loops(files: list[Path], atoms: Atoms, threads: int) -> list[list[dict[str, float]]]:
    found = [by_loop(path, atoms, threads) for path in files]
    return [[{"atoms_per_s": rates[k]} for rates in found] for k in range(2)]


def measure(run: Path, repeats: int, threads: int | None) -> dict[str, Any]:
    """Rates of all students of a run by each method, medians over the repeats."""
    config = load_config(run / "config.yaml")
    atoms = read_any(run / "test.extxyz")[0]
    atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    files = sorted(run.glob("*.safetensors"))
    spec = config.required_teacher()
    taken: list[list[list[dict[str, float]]]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        open_teacher(
            spec.name, options=spec.options, python=spec.python, trust=spec.trust, threads=threads,
            workers=config.labelling.workers if threads is None else 1,
        ) as teacher,
    ):  # fmt: skip
        threads = teacher.threads
        frame = Path(folder) / "frame.extxyz"
        write_frames(frame, [atoms])
        choice = TeacherChoice(spec.name, spec.options, spec.python, spec.trust)
        students = [Student.load(path, threads=threads) for path in files]
        for _ in range(repeats):
            taken.append([
                by_distill(teacher, students, atoms),
                by_bench(choice, files, frame, len(atoms), threads),
                *_loops(files, atoms, threads),
            ])  # fmt: skip
    kept = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    rows = []
    for k, path in enumerate(files):
        rates = {
            way: [once[w][k]["atoms_per_s"] for once in taken]
            for w, way in enumerate(("distill", "bench", "calculator", "calculator, processor's time"))
        }
        row: dict[str, Any] = {"student": path.stem, "atoms": len(atoms), "threads": threads}
        row["metrics.json"] = kept[path.stem]["run"]["atoms_per_s"]
        row |= {way: statistics.median(values) for way, values in rates.items()}
        for other in ("bench", "calculator", "calculator, processor's time"):
            pairs = zip(rates["distill"], rates[other], strict=True)
            row[f"distill/{other}"] = statistics.median(a / b for a, b in pairs)
        for w, way in enumerate(("distill", "bench")):
            row[f"speedup, {way}"] = statistics.median(once[w][k]["speedup"] for once in taken)
        rows.append(row)
    return {"machine": describe_machine(), "repeats": repeats, "rows": rows}


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", help="run folder; without one, nothing is measured")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: those of the run's teacher")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.run is None:  # make bench
        print("no run folder given: python benchmarks/agreement.py runs/demo")
        return 0
    found = measure(chosen.run, chosen.repeats, chosen.threads)
    for row in found["rows"]:
        print(", ".join(f"{key} {_short(value)}" for key, value in row.items()))
    print(f"load {found['machine']['load']} at the end")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    ratios = [row[f"distill/{other}"] for row in found["rows"] for other in ("bench", "calculator")]
    worst = max(max(ratio, 1 / ratio) for ratio in ratios)
    print(f"largest ratio {worst:.2f}, bar {BAR}: {'kept' if worst <= BAR else 'missed'}")
    return int(worst > BAR)


if __name__ == "__main__":
    sys.exit(main())
