"""Training and evaluation on shared cores: the rate that is kept, compared with the share of CPU time.

    python benchmarks/shared_cores.py [--threads 2] [--rounds 5] [--seconds 3] [--against SRC]

The script starts the other work: processes that never wait, as many as threads (half of the CPU time is
left) or twice as many (a third), all on the same cores. The share that is left is measured: Limbeck is
replaced by as many processes that never wait as it has threads, and their CPU time is the share. Each round
covers all loads; under each load, the share and all rows are measured in alternation. A ratio is the median
over rounds of the ratio within a round; the first round is a warm-up. CPU time per step grows if threads
wait in a busy loop.

--against: src folder of another Limbeck, with its core built, to compare with.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
from ase.build import bulk
from support.processes import Worker, machine, pin
from support.tables import table, write_readme
from train_throughput import CUTOFF, random_labels

RESULTS = Path(__file__).parent / "results" / "shared_cores.json"
BAR = 2 / 3  # of the share: a third of the rate at half of the CPU time
LIMIT_S = 600.0
LEAVES = {0: "all", 1: "half", 2: "a third"}  # processes of other work per thread


@dataclass(frozen=True)
class Row:
    """A model of a worker on a case."""

    name: str
    script: tuple[str, ...]
    model: str
    case: dict[str, Any]
    unit: str
    a_step: int  # units per step


def make_rows(folder: Path) -> list[Row]:
    """Training on random labels in batches of 256 atoms, the default; evaluation of crystals."""
    rows = []
    for cells, batch in ((1, 32), (2, 4)):
        start = bulk("Si", cubic=True) * (cells, cells, cells)
        file = folder / f"train{len(start)}.extxyz"
        ase.io.write(file, [random_labels(start, 0.1, seed) for seed in range(4 * batch)])
        case = {"name": file.stem, "file": str(file), "batch": batch, "cutoff": CUTOFF}
        for preset in ("ultra-tiny", "tiny"):
            name = f"train `{preset}`, Si{len(start)}"
            rows.append(Row(name, ("limbeck_worker.py",), f"native-soap:{preset}", case, "labels", batch))
    for cells in (2, 5):
        start = bulk("Si", cubic=True) * (cells, cells, cells)
        start.rattle(0.05, seed=0)
        file = folder / f"crystal{len(start)}.extxyz"
        ase.io.write(file, start)
        case = {"name": file.stem, "file": str(file)}
        name = f"calculator `tiny`, Si{len(start)}"
        rows.append(Row(name, ("ase_worker.py", "limbeck"), "silicon-tiny", case, "evaluations", 1))
    return rows


@contextmanager
def busy(count: int, threads: int) -> Iterator[list[int]]:
    """``count`` processes that never wait, on the workers' cores; gives their CPU seconds at the end."""
    command = [sys.executable, "-S", "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(count)]
    spent: list[int] = []
    try:
        for one in others:
            pin(one.pid, threads)
        yield spent
    finally:
        for one in others:
            one.kill()
        for one in others:
            _, one.returncode, used = os.wait4(one.pid, 0)
            spent.append(used.ru_utime + used.ru_stime)


def measure_share(threads: int, seconds: float) -> float:
    """Share of the CPU time that ``threads`` processes get if they never wait."""
    began = time.monotonic()
    with busy(threads, threads) as spent:
        time.sleep(seconds)
        wall = time.monotonic() - began
    return sum(spent) / wall / threads


def measure(chosen: argparse.Namespace, rows: list[Row]) -> list[dict[str, Any]]:
    sources = {"": None, **({"before": chosen.against} if chosen.against else {})}
    workers = {
        (source, row.script): start(row.script, chosen.threads, path)
        for source, path in sources.items()
        for row in rows
    }
    taken: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    try:
        for k in range(chosen.rounds + 1):
            for load in LEAVES:
                with busy(load * chosen.threads, chosen.threads):
                    share = measure_share(chosen.threads, chosen.seconds)
                    for row in rows:
                        for source in sources:
                            block = workers[source, row.script].ask(
                                LIMIT_S, do="time", model=row.model, case=row.case, seconds=chosen.seconds
                            )
                            if k:
                                at = (source, row.name, load)
                                taken.setdefault(at, []).append({**block, "share": share})
            print(f"round {k} of {chosen.rounds}", file=sys.stderr, flush=True)
    finally:
        for worker in set(workers.values()):
            worker.close()
    return [result(row, source, load, taken) for row in rows for source in sources for load in LEAVES]


def result(
    row: Row, source: str, load: int, taken: dict[tuple[str, str, int], list[dict[str, float]]]
) -> dict[str, Any]:
    """A row of the table, relative to the blocks of the same round without other work."""
    blocks, alone = taken[source, row.name, load], taken[source, row.name, 0]
    pairs = list(zip(blocks, alone, strict=True))
    kept = [free["step_s"] / block["step_s"] for block, free in pairs]
    share = [block["share"] / free["share"] for block, free in pairs]
    return {
        "row": row.name, "source": source, "leaves": LEAVES[load], "unit": row.unit,
        "rate_per_s": row.a_step / statistics.median(block["step_s"] for block in blocks),
        "cpu_ms": 1e3 * statistics.median(block["cpu_s"] for block in blocks) / row.a_step,
        "share": statistics.median(share), "kept": statistics.median(kept),
        "kept_over_share": statistics.median(k / s for k, s in zip(kept, share, strict=True)),
    }  # fmt: skip


def start(script: tuple[str, ...], threads: int, source: Path | None) -> Worker:
    """A worker of this Limbeck, or of the one at ``source``."""
    before = os.environ.get("PYTHONPATH")
    if source:
        os.environ["PYTHONPATH"] = str(source)
    try:
        return Worker(sys.executable, script[0], script[1:], threads)
    finally:
        os.environ.pop("PYTHONPATH", None)
        if before is not None:
            os.environ["PYTHONPATH"] = before


def markdown(report: dict[str, Any]) -> list[str]:
    about = report["machine"]
    lines = [
        f"{about['processor']}, {about['threads']} threads on {about['threads']} of {about['cores']} cores, "
        f"{report['settings']['rounds']} rounds; load when it began {about['load_at_start']}.",
        "",
    ]
    heads = ["", "other work leaves", "share measured", "a second", "rate kept", "rate kept over share"]
    cells = [
        [
            f"{row['row']}{', ' + row['source'] if row['source'] else ''}", row["leaves"],
            f"{row['share']:.0%}", f"{row['rate_per_s']:,.0f} {row['unit']}", f"{row['kept']:.0%}",
            f"{row['kept_over_share']:.2f}", f"{row['cpu_ms']:.2f}",
        ]
        for row in report["rows"]
    ]  # fmt: skip
    return lines + table([*heads, "CPU ms each"], cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="per block")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--against", type=Path, help="src folder of another Limbeck")
    parser.add_argument(
        "--json", type=Path, default=RESULTS, help="results file; others leave the README unchanged"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for row in make_rows(Path(folder)) if chosen.only in row.name]
        report: dict[str, Any] = {"machine": machine(chosen.threads), "rows": measure(chosen, rows)}
    report["settings"] = {"rounds": chosen.rounds, "seconds_a_block": chosen.seconds}
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = markdown(report)
    print("\n".join(lines))
    if chosen.json == RESULTS:
        write_readme("shared_cores.py", lines)
    for row in report["rows"]:
        if row["kept_over_share"] < BAR and not row["source"]:
            print(f"below {BAR:.2f}: {row['row']}, {row['leaves']} left: {row['kept_over_share']:.2f}")


if __name__ == "__main__":
    main()
