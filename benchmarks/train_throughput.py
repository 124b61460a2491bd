"""Training speed against graph-pes's PaiNN: steps on energies and forces, in alternation.

    python benchmarks/train_throughput.py [--peer-python PYTHON] [--compiled] [--rounds 15]

Two processes, each in its own environment, take turns on the same structures: a block of Limbeck, a
block of graph-pes, and so on, so that whatever else the machine does strikes both alike. A ratio is
the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
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

HERE = Path(__file__).parent
PEER_ENVIRONMENT = HERE / ".envs" / "graph-pes"
CUTOFF = 5.0  # Å
BENZYLOXYPYRIDINAMINE = "Nc1ncccc1OCc1ccccc1"  # 3BPA, 27 atoms
REFERENCE = "graph-pes PaiNN 64x2"
BEGIN, END = "<!-- train_throughput.py writes from here -->", "<!-- to here -->"


@dataclass(frozen=True)
class Row:
    """One line of the table; ``like`` names the peer's row of the same width and depth."""

    name: str
    worker: str
    model: str
    like: str | None = None


def rows(compiled: bool) -> list[Row]:
    """Limbeck and peer in turn; the peer has the radial functions of the preset it stands beside."""
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


class Worker:
    """A process that takes training steps when asked and waits otherwise."""

    def __init__(self, python: Path | str, script: str, threads: int) -> None:
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        environment = {**os.environ, **counts}
        if Path(python) != Path(sys.executable):
            # this environment's packages are not the peer's
            environment.pop("PYTHONPATH", None)
        self.script = script
        self.process = subprocess.Popen(
            [str(python), "-W", "ignore", str(HERE / "workers" / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"error: {self.script} ended with exit code {self.process.wait()}; its words are above"
            )
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


def make_cases(folder: Path) -> list[dict[str, Any]]:
    """Structures written for both workers, with random labels: a step costs the same with any."""
    from limbeck.sampling.starts import smiles_conformers

    silicon = bulk("Si", cubic=True) * (2, 2, 2)
    molecule = smiles_conformers(BENZYLOXYPYRIDINAMINE, seed=0)[0]
    cases = []
    for name, start, batch, stdev in (
        ("Si, 64 atoms", silicon, 4, 0.1),
        ("3BPA, 27 atoms", molecule, 8, 0.05),
    ):
        frames = [_labelled(start, stdev, seed) for seed in range(4 * batch)]
        path = folder / f"{len(start)}.extxyz"
        ase.io.write(path, frames)
        cases.append({"name": name, "file": str(path), "batch": batch, "cutoff": CUTOFF, "atoms": len(start)})
    return cases


def _labelled(start: Atoms, stdev: float, seed: int) -> Atoms:
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
    """Blocks in alternation; the first round of each row warms up and is not counted."""
    facts = {}
    for row in table:
        print(f"{case['name']}: opening {row.name}", file=sys.stderr, flush=True)
        facts[row.name] = workers[row.worker].ask(do="open", model=row.model, case=case)
    blocks: dict[str, list[dict[str, Any]]] = {row.name: [] for row in table}
    for k in range(rounds + 1):
        for row in table:
            block = workers[row.worker].ask(do="time", model=row.model, case=case, seconds=seconds)
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


def machine(threads: int) -> dict[str, Any]:
    """What a timing needs said of the machine."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model
        )
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_at_start": load,
    }


def print_case(measured: dict[str, Any]) -> None:
    print(f"\n{measured['case']}, batches of {measured['structures_a_batch']}")
    columns = ("parameters", "atoms·steps/s", "ms/step", "vs 64x2", "vs same")
    print(f"{'model':45s}" + "".join(f"{column:>14s}" for column in columns))
    for row in measured["rows"]:
        print(
            f"{row['model']:45s}{row['parameters']:14,d}{row['atom_steps_per_s']:14,.0f}{row['step_ms']:14.2f}"
            f"{_ratio(row, 'ratio_to_reference'):>14s}{_ratio(row, 'ratio_to_same_width'):>14s}"
        )


def _ratio(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.2f}x" if key in row else ""


def write_readme(report: dict[str, Any], readme: Path) -> None:
    """Put the tables of ``report`` between the marks in the README, so that its numbers are the file's."""
    about, versions = report["machine"], report["versions"]
    said = [
        f"{about['processor']}, {about['cores']} cores, {about['threads']} threads, "
        f"{report['settings']['rounds']} rounds; torch {versions['limbeck']['torch']}, "
        f"Limbeck {versions['limbeck']['limbeck']}, graph-pes {versions['graph-pes']['graph-pes']}; "
        f"load when it began {about['load_at_start']}."
    ]
    heads = ("model", "parameters", "atoms·steps/s", "ms a step", "against 64x2", "against the same width")
    for case in report["cases"]:
        said.append(f"\n{case['case']}, batches of {case['structures_a_batch']}:\n")
        said += [f"| {' | '.join([*heads, 'compilation, s'])} |", "|---" * (len(heads) + 1) + "|"]
        for row in case["rows"]:
            cells = [
                row["model"],
                f"{row['parameters']:,}",
                f"{row['atom_steps_per_s']:,.0f}",
                f"{row['step_ms']:.2f}",
                _ratio(row, "ratio_to_reference"),
                _ratio(row, "ratio_to_same_width"),
                f"{row['compile_s']:.0f}" if "compile_s" in row else "",
            ]
            said.append(f"| {' | '.join(cells)} |")
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text("\n".join([before + BEGIN, *said, END + after]), encoding="utf-8")


def find_peer(given: str | None) -> str:
    """The peer's Python: as given, or an environment beside this script, made where it is missing."""
    if given or os.environ.get("LIMBECK_PEER_PYTHON"):
        return given or os.environ["LIMBECK_PEER_PYTHON"]
    python = PEER_ENVIRONMENT / "bin" / "python"
    stamp = PEER_ENVIRONMENT / ".installed"
    if not stamp.exists():
        print(f"setting up graph-pes in {PEER_ENVIRONMENT} (some minutes, once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(PEER_ENVIRONMENT)], check=True)
        pins = HERE / "requirements-graph-pes.txt"
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
            str(pins),
        ]
        subprocess.run(install, check=True)
        stamp.touch()
    return str(python)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", help="Python that has graph-pes (or LIMBECK_PEER_PYTHON)")
    parser.add_argument("--compiled", action="store_true", help="also the compiled torch reference (minutes)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each block")
    parser.add_argument("--threads", type=int, default=2)
    results = HERE / "results" / "train_throughput.json"
    parser.add_argument("--json", type=Path, default=results, help="elsewhere, the README stays as it is")
    chosen = parser.parse_args()
    peer = find_peer(chosen.peer_python)
    about = machine(chosen.threads)
    table = rows(chosen.compiled)
    began = time.monotonic()
    workers = {
        "limbeck": Worker(sys.executable, "limbeck_worker.py", chosen.threads),
        "limbeck-torch": Worker(sys.executable, "limbeck_worker.py", chosen.threads),
        "graph-pes": Worker(peer, "graph_pes_worker.py", chosen.threads),
    }
    try:
        report: dict[str, Any] = {
            "what": "training steps on energies and forces: prediction, loss, gradient, optimiser",
            "machine": about,
            "versions": {
                name: workers[name].ask(do="describe")["versions"] for name in ("limbeck", "graph-pes")
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
                print_case(report["cases"][-1])
    finally:
        for worker in workers.values():
            worker.close()
    report["wall_s"] = round(time.monotonic() - began, 1)
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if chosen.json == results:
        write_readme(report, HERE / "README.md")
    print(
        f"\n{about['processor']}, {about['cores']} cores, {chosen.threads} threads; written to {chosen.json}"
    )


if __name__ == "__main__":
    main()
