"""Labelling through workers compared with the teacher's own ASE calculator in a plain loop.

    python benchmarks/labelling.py [--rounds 9] [--seconds 2] [--only chgnet-si8,scaling]

The two alternate on the same frames with the same number of threads: a plain loop in its own process, then
``label()`` into a new store through one worker, and so on. A ratio is the median over rounds of the ratio
within a round; the first round is a warm-up. CPU seconds are reported as well, because they also hold on a
busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.build import bulk, molecule
from support.processes import Worker, machine
from support.tables import table, write_readme

from limbeck.labelling import label, open_teacher
from limbeck.records.label_store import LabelStore

RESULTS = Path(__file__).parent / "results" / "labelling.json"
LIMIT_S = 600.0
MOST_FRAMES = 400
BAR, BAR_SCALING = 0.95, 0.90


@dataclass(frozen=True)
class Case:
    """A teacher and a structure; ``bar`` is the required ratio."""

    name: str
    teacher: str
    title: str
    bar: float | None = BAR


CASES = (
    Case("chgnet-si2", "chgnet", "Si2"),
    Case("chgnet-si8", "chgnet", "Si8"),
    Case("chgnet-si64", "chgnet", "Si64"),
    Case("sevennet-si8", "sevennet-0", "Si8"),
    Case("sevennet-ethanol", "sevennet-0", "ethanol, 9 atoms"),
    Case("so3lr-ethanol", "so3lr", "ethanol, 9 atoms"),
    Case("so3lr-3bpa", "so3lr", "3BPA, 27 atoms"),
    Case("xtb-ethanol", "gfn2-xtb", "ethanol, 9 atoms"),
    Case("xtb-3bpa", "gfn2-xtb", "3BPA, 27 atoms"),
    Case("emt-cu8", "ase.calculators.emt:EMT", "Cu8 (for information)", None),
)
SCALING = Case("scaling", "chgnet", "Si64", BAR_SCALING)


def structure(case: Case) -> Atoms:
    if "3BPA" in case.title:
        from limbeck.sampling.starts import smiles_conformers

        return smiles_conformers("Nc1ncccc1OCc1ccccc1", seed=0)[0]
    if "ethanol" in case.title:
        return molecule("CH3CH2OH")
    if "Cu8" in case.title:
        return bulk("Cu", cubic=True) * (1, 1, 2)
    return {"Si2": bulk("Si"), "Si8": bulk("Si", cubic=True), "Si64": bulk("Si", cubic=True) * 2}[case.title]


def write_frames(case: Case, folder: Path) -> Path:
    path = folder / f"{case.name}.extxyz"
    if not path.exists():
        frames = []
        for seed in range(MOST_FRAMES):
            frame = structure(case) if not frames else frames[0].copy()
            frame.rattle(0.03, seed=seed)
            frames.append(frame)
        ase.io.write(path, frames)
    return path


def cpu_of(process: int) -> float:
    """CPU seconds of another process so far (Linux; NaN elsewhere)."""
    path = Path(f"/proc/{process}/stat")
    if not path.exists():
        return float("nan")
    fields = path.read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def labelled(teacher: Any, frames: list[Atoms], folder: Path) -> dict[str, float]:
    """Seconds of one ``label()`` into a new store, and CPU seconds of the workers and of this process."""
    with tempfile.TemporaryDirectory(dir=folder) as store, LabelStore(store) as labels:
        workers = sum(cpu_of(pid) for pid in teacher.process_ids)
        own, began = time.process_time(), time.perf_counter()
        report = label(frames, teacher, labels)
        seconds = time.perf_counter() - began
        if report.labelled != len(frames):
            raise SystemExit(f"error: {report.labelled} labels of {len(frames)} frames")
        return {
            "seconds": seconds,
            "cpu_workers_s": sum(cpu_of(pid) for pid in teacher.process_ids) - workers,
            "cpu_own_s": time.process_time() - own,
        }


def count_for(seconds_each: float, seconds: float) -> int:
    return max(12, min(MOST_FRAMES, round(seconds / seconds_each)))


def run_case(case: Case, folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """One worker with one thread compared with a plain loop with one thread."""
    file = write_frames(case, folder)
    frames = ase.io.read(file, ":")
    load = round(os.getloadavg()[0], 2)
    plain = Worker(sys.executable, "plain_loop_worker.py", threads=1)
    # not pinned, as the teacher's worker is not
    os.sched_setaffinity(plain._process.pid, os.sched_getaffinity(0))
    taken = []
    try:
        with open_teacher(case.teacher, threads=1) as teacher:
            ask = {"teacher": case.teacher, "file": str(file)}
            plain.ask(LIMIT_S, count=3, **ask)
            count = count_for(plain.ask(LIMIT_S, count=6, **ask)["seconds"] / 6, seconds)
            labelled(teacher, frames[:3], folder)
            for _ in range(rounds + 1):
                alone = plain.ask(LIMIT_S, count=count, **ask)
                taken.append((alone, labelled(teacher, frames[:count], folder)))
            batch_atoms = teacher.capabilities.batch_atoms
    finally:
        plain.close()
    kept = taken[1:]
    median = statistics.median
    return {
        "case": case.name,
        "teacher": case.teacher,
        "structure": case.title,
        "frames": count,
        "rounds": rounds,
        "batch_atoms": batch_atoms,
        "load": load,
        "plain_per_s": count / median(a["seconds"] for a, _ in kept),
        "label_per_s": count / median(b["seconds"] for _, b in kept),
        "ratio": median(a["seconds"] / b["seconds"] for a, b in kept),
        "ratios": [a["seconds"] / b["seconds"] for a, b in kept],
        "cpu_ms_plain": 1e3 * median(a["cpu_s"] for a, _ in kept) / count,
        "cpu_ms_worker": 1e3 * median(b["cpu_workers_s"] for _, b in kept) / count,
        "cpu_ms_own": 1e3 * median(b["cpu_own_s"] for _, b in kept) / count,
        "bar": case.bar,
    }


def run_scaling(case: Case, folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Two workers with one thread each compared with one, and two simultaneous plain loops with one."""
    file = write_frames(case, folder)
    frames = ase.io.read(file, ":")
    load = round(os.getloadavg()[0], 2)
    plain = [Worker(sys.executable, "plain_loop_worker.py", threads=1) for _ in range(2)]
    for worker in plain:
        os.sched_setaffinity(worker._process.pid, os.sched_getaffinity(0))
    ask = {"teacher": case.teacher, "file": str(file)}
    taken = []
    try:
        with (
            open_teacher(case.teacher, threads=1) as one,
            open_teacher(case.teacher, threads=1, workers=2) as two,
            ThreadPoolExecutor(2) as pool,
        ):
            for worker in plain:
                worker.ask(LIMIT_S, count=3, **ask)
            count = count_for(plain[0].ask(LIMIT_S, count=6, **ask)["seconds"] / 6, seconds)
            for teacher in (one, two):
                labelled(teacher, frames[:4], folder)
            for _ in range(rounds + 1):
                single = plain[0].ask(LIMIT_S, count=count, **ask)["seconds"]
                with_one = labelled(teacher=one, frames=frames[:count], folder=folder)["seconds"]
                with_two = labelled(teacher=two, frames=frames[:count], folder=folder)["seconds"]
                began = time.perf_counter()
                list(pool.map(lambda w: w.ask(LIMIT_S, count=count, **ask), plain))
                double = (time.perf_counter() - began) / 2
                taken.append((single, with_one, with_two, double))
    finally:
        for worker in plain:
            worker.close()
    kept = taken[1:]
    median = statistics.median
    return {
        "case": case.name,
        "teacher": case.teacher,
        "structure": case.title,
        "frames": count,
        "rounds": rounds,
        "load": load,
        "one_worker_per_s": count / median(k[1] for k in kept),
        "two_workers_per_s": count / median(k[2] for k in kept),
        "speedup": median(k[1] / k[2] for k in kept),
        "speedups": [k[1] / k[2] for k in kept],
        "machine_speedup": median(k[0] / k[3] for k in kept),
        "efficiency": median(k[1] / k[2] for k in kept) / 2,
        "bar": case.bar,
    }


def versions() -> dict[str, str]:
    found = {}
    for name in ("limbeck", "torch", "ase", "chgnet", "sevenn", "so3krates-torch", "tblite"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def markdown(report: dict[str, Any]) -> list[str]:
    about = report["machine"]
    named = ", ".join(f"{n} {v}" for n, v in report["versions"].items())
    lines = [f"{about['processor']}, {about['cores']} cores, 1 thread each; {named}.", ""]
    rows = [
        [
            r["teacher"], r["structure"], f"{r['plain_per_s']:.1f}", f"{r['label_per_s']:.1f}",
            f"{r['ratio']:.2f}x", _met(r["ratio"], r["bar"]),
            f"{r['cpu_ms_plain']:.1f}", f"{r['cpu_ms_worker']:.1f} + {r['cpu_ms_own']:.1f}",
            f"{r['load']:.1f}",
        ]
        for r in report["cases"]
    ]  # fmt: skip
    heads = [
        "teacher", "structure", "plain loop /s", "label() /s", "ratio", "bar 0.95",
        "CPU ms, plain", "CPU ms, worker + Limbeck", "load",
    ]  # fmt: skip
    lines += table(heads, rows)
    for r in report["scaling"]:
        lines += [
            "",
            f"Two workers of one thread, {r['teacher']}, {r['structure']}: {r['speedup']:.2f} times one "
            f"(bar {2 * r['bar']:.1f}: {_met(r['efficiency'], r['bar'])}); two plain loops at once reach "
            f"{r['machine_speedup']:.2f} times one on this machine; load {r['load']:.1f} at the start.",
        ]
    return lines


def _met(value: float, bar: float | None) -> str:
    return "" if bar is None else ("yes" if value >= bar else "no")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="per block")
    parser.add_argument("--only", help="cases to measure again: chgnet-si8,scaling")
    parser.add_argument("--json", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    known = [case.name for case in CASES] + [SCALING.name]
    wanted = chosen.only.split(",") if chosen.only else known
    if set(wanted) - set(known):
        sys.exit(f"error: --only: got {chosen.only!r}, wanted some of {','.join(known)}")
    kept: dict[str, Any] = {}
    if chosen.only and chosen.json.exists():
        before = json.loads(chosen.json.read_text(encoding="utf-8"))
        kept = {row["case"]: row for row in (*before["cases"], *before["scaling"])}
    about = machine(threads=1)
    with tempfile.TemporaryDirectory() as folder:
        for case in (*CASES, SCALING):
            if case.name in wanted:
                run = run_scaling if case is SCALING else run_case
                kept[case.name] = run(case, Path(folder), chosen.rounds, chosen.seconds)
                print(json.dumps(kept[case.name]), file=sys.stderr, flush=True)
                # after each case, so that an interrupted run keeps its results
                write(report_of(kept, about), chosen.json)


def report_of(kept: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    return {
        "what": "evaluations a second: energy, forces and (where periodic) stress, frames that differ",
        "machine": about,
        "versions": {"python": platform.python_version(), **versions()},
        "command": " ".join(["python", *sys.argv]),
        "cases": [kept[case.name] for case in CASES if case.name in kept],
        "scaling": [kept[SCALING.name]] if SCALING.name in kept else [],
    }


def write(report: dict[str, Any], path: Path) -> None:
    """Write the results and, for the default path, the table of the README."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if path == RESULTS:
        write_readme("labelling.py", markdown(report))


if __name__ == "__main__":
    main()
