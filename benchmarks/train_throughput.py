"""Training speed compared with graph-pes's PaiNN: steps on energies and forces, in alternation.

    python benchmarks/train_throughput.py [--peer-python PYTHON] [--compiled] [--rounds 15]

Two processes, each in its own environment, alternate on the same structures: a block of Limbeck, a block
of graph-pes, and so on, so that other load on the machine affects both equally. A ratio is the median over
rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from support.environments import find_python
from support.processes import Worker, machine
from support.tables import table as markdown_table
from support.tables import write_readme

HERE = Path(__file__).parent
CUTOFF = 5.0  # Å
BENZYLOXYPYRIDINAMINE = "Nc1ncccc1OCc1ccccc1"  # 3BPA, 27 atoms
REFERENCE = "graph-pes PaiNN 64x2"
LIMIT_S = 900.0


@dataclass(frozen=True)
class Row:
    """One line of the table; ``like`` is the peer's row of the same width and depth."""

    name: str
    worker: str
    model: str
    like: str | None = None


def rows(compiled: bool) -> list[Row]:
    """Limbeck and peer alternating; the peer has as many radial functions as the preset."""
    table = [
        Row("Limbeck tiny", "limbeck", "native:tiny", REFERENCE),
        Row(REFERENCE, "graph-pes", "64x2x12:prebatched"),
        Row("Limbeck tiny, SOAP", "limbeck", "native-soap:tiny", REFERENCE),
        Row("Limbeck ultra-tiny", "limbeck", "native:ultra-tiny", "graph-pes PaiNN 32x2"),
        Row("graph-pes PaiNN 32x2", "graph-pes", "32x2x10:prebatched"),
        Row("Limbeck original", "limbeck", "native:original", "graph-pes PaiNN 128x3"),
        Row("graph-pes PaiNN 128x3", "graph-pes", "128x3x20:prebatched"),
        Row("Limbeck tiny, torch engine", "limbeck-torch", "torch:tiny", REFERENCE),
        Row("graph-pes PaiNN 64x2, batches made each step", "graph-pes", "64x2x12:collated"),
    ]
    if compiled:
        table.append(
            Row("Limbeck tiny, torch traced and compiled", "limbeck-torch", "compiled:tiny", REFERENCE)
        )
    return table


def make_cases(folder: Path) -> list[dict[str, Any]]:
    """Structures for both workers, with random labels: the cost of a step does not depend on the labels."""
    from limbeck.sampling.starts import smiles_conformers

    silicon = bulk("Si", cubic=True) * (2, 2, 2)
    molecule = smiles_conformers(BENZYLOXYPYRIDINAMINE, seed=0)[0]
    cases = []
    for name, start, batch, stdev in (
        ("Si, 64 atoms", silicon, 4, 0.1),
        ("3BPA, 27 atoms", molecule, 8, 0.05),
    ):
        frames = [random_labels(start, stdev, seed) for seed in range(4 * batch)]
        path = folder / f"{len(start)}.extxyz"
        ase.io.write(path, frames)
        cases.append({"name": name, "file": str(path), "batch": batch, "cutoff": CUTOFF, "atoms": len(start)})
    return cases


def random_labels(start: Atoms, stdev: float, seed: int) -> Atoms:
    atoms = Atoms(start.numbers, start.positions, cell=start.cell, pbc=start.pbc)
    atoms.rattle(stdev, seed=seed)
    rng = np.random.default_rng(seed)
    forces = rng.normal(size=(len(atoms), 3))
    atoms.arrays["label_forces"] = forces - forces.mean(axis=0)
    atoms.info["label_energy"] = float(rng.normal())
    return atoms


def measure(
    case: dict[str, Any], table: list[Row], workers: dict[str, Worker], rounds: int, seconds: float
) -> dict[str, Any]:
    """Blocks in alternation; the first round is a warm-up and does not count."""
    facts = {}
    for row in table:
        print(f"{case['name']}: opening {row.name}", file=sys.stderr, flush=True)
        facts[row.name] = workers[row.worker].ask(LIMIT_S, do="open", model=row.model, case=case)
    blocks: dict[str, list[dict[str, Any]]] = {row.name: [] for row in table}
    for k in range(rounds + 1):
        for row in table:
            block = workers[row.worker].ask(LIMIT_S, do="time", model=row.model, case=case, seconds=seconds)
            if k:
                blocks[row.name].append(block)
        print(f"{case['name']}: round {k} of {rounds}", file=sys.stderr, flush=True)
    atoms = case["atoms"] * case["batch"]
    rates = {name: np.array([atoms / block["step_s"] for block in taken]) for name, taken in blocks.items()}
    results = []
    for row in table:
        rate = rates[row.name]
        result = {
            "model": row.name,
            **facts[row.name],
            "atom_steps_per_s": float(np.median(rate)),
            "atom_steps_per_s_quartiles": np.quantile(rate, [0.25, 0.75]).tolist(),
            "step_ms": 1e3 * atoms / float(np.median(rate)),
            "steps_timed": sum(block["steps"] for block in blocks[row.name]),
        }
        for key, other in (("ratio_to_reference", REFERENCE), ("ratio_to_same_width", row.like)):
            if other in rates:
                result[key] = statistics.median(rate / rates[other])
        results.append(result)
    return {
        "case": case["name"],
        "atoms": case["atoms"],
        "structures_a_batch": case["batch"],
        "rows": results,
    }


def _ratio(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.2f}x" if key in row else ""


def markdown(report: dict[str, Any]) -> list[str]:
    """The report as Markdown tables."""
    about, versions = report["machine"], report["versions"]
    lines = [
        f"{about['processor']}, {about['cores']} cores, {about['threads']} threads, "
        f"{report['settings']['rounds']} rounds; torch {versions['limbeck']['torch']}, "
        f"Limbeck {versions['limbeck']['limbeck']}, graph-pes {versions['graph-pes']['graph-pes']}; "
        f"load when it began {about['load_at_start']}."
    ]
    heads = [
        "model", "parameters", "atoms·steps/s", "ms a step", "against 64x2", "against the same width",
        "compilation, s",
    ]  # fmt: skip
    for case in report["cases"]:
        lines.append(f"\n{case['case']}, batches of {case['structures_a_batch']}:\n")
        lines += markdown_table(heads, [
            [
                row["model"], f"{row['parameters']:,}", f"{row['atom_steps_per_s']:,.0f}",
                f"{row['step_ms']:.2f}", _ratio(row, "ratio_to_reference"),
                _ratio(row, "ratio_to_same_width"), f"{row['compile_s']:.0f}" if "compile_s" in row else "",
            ]
            for row in case["rows"]
        ])  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", help="Python that has graph-pes (or LIMBECK_PEER_PYTHON)")
    parser.add_argument("--compiled", action="store_true", help="include the compiled torch (minutes)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="per block")
    parser.add_argument("--threads", type=int, default=2)
    results = HERE / "results" / "train_throughput.json"
    parser.add_argument(
        "--json", type=Path, default=results, help="results file; others leave the README unchanged"
    )
    chosen = parser.parse_args()
    peer = find_python("graph-pes", chosen.peer_python)
    about = machine(chosen.threads)
    table = rows(chosen.compiled)
    began = time.monotonic()
    workers = {
        "limbeck": Worker(sys.executable, "limbeck_worker.py", threads=chosen.threads),
        "limbeck-torch": Worker(sys.executable, "limbeck_worker.py", threads=chosen.threads),
        "graph-pes": Worker(peer, "graph_pes_worker.py", threads=chosen.threads),
    }
    try:
        report: dict[str, Any] = {
            "what": "training steps on energies and forces: prediction, loss, gradient, optimiser",
            "machine": about,
            "versions": {
                name: workers[name].ask(LIMIT_S, do="describe")["versions"]
                for name in ("limbeck", "graph-pes")
            },
            "settings": {
                "cutoff_a": CUTOFF,
                "rounds": chosen.rounds,
                "seconds_a_block": chosen.seconds,
                "precision": "float32",
                "reference": REFERENCE,
            },
            "cases": [],
        }
        with tempfile.TemporaryDirectory() as folder:
            for case in make_cases(Path(folder)):
                report["cases"].append(measure(case, table, workers, chosen.rounds, chosen.seconds))
                print(json.dumps(report["cases"][-1]), file=sys.stderr, flush=True)
    finally:
        for worker in workers.values():
            worker.close()
    report["wall_s"] = round(time.monotonic() - began, 1)
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if chosen.json == results:
        write_readme("train_throughput.py", markdown(report))
    print("\n".join([*markdown(report), f"\nwritten to {chosen.json}"]))


if __name__ == "__main__":
    main()
