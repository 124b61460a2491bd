"""Speed and memory of students compared with other potentials, measured in alternation.

    python benchmarks/inference.py [--quick] [--only peers,peak] [--rounds 15] [--seconds 0.5]

Each row is a process in its own environment. The rows of a group alternate in blocks of evaluations, so
that other load on the machine affects all of them equally. A ratio is the median over rounds of the ratio
within a round. An evaluation is energy, forces and, for periodic structures, stress, including the
neighbour list, after all atoms have moved a little. For a peer that cannot be installed or run, the row
shows the reason.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
from support.bars import all_bars, evaluate_bars
from support.cases import CUTOFF, SILICON, pairs_per_atom, student, write_case
from support.environments import VARIABLES, find_python, nep_file
from support.flops import FILTER, Filter, flops_per_atom, phases
from support.groups import PRESETS, Group, Row, Taken, all_groups, measure
from support.processes import Unmeasured, Worker, machine, pin, thread_environment
from support.tables import markdown, write_readme

from limbeck.runtime.session import DEFAULT_SKIN_A
from limbeck.students.specification import preset_architecture

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "inference.json"
#: kind -> environment; other kinds run in this one
ENVIRONMENTS = {"graph-pes": "graph-pes", "nep": "calorine", "lammps": "lammps"}
SCRIPTS = {"lammps": "lammps_worker.py", "peak": "peak_worker.py"}
MEMORY_REPEATS = 3
MEMORY_LIMIT_S = 600


class Bench:
    """State of a run: a folder for students and structures, the peers' Pythons, the settings."""

    def __init__(self, folder: Path, chosen: argparse.Namespace) -> None:
        self.folder, self.chosen = folder, chosen
        self.pairs = pairs_per_atom("Si 1000")
        self.flops = {
            preset: {
                way: flops_per_atom(preset_architecture(preset, (14,)), self.pairs, way).to_dict()
                for way in (chosen.filters, "product")
            }
            for preset in PRESETS
        }
        listed = pairs_per_atom("Si 1000", CUTOFF + DEFAULT_SKIN_A)
        self.phases = {
            preset: {
                name: asdict(phase)
                for name, phase in phases(preset_architecture(preset, (14,)), self.pairs, listed).items()
            }
            for preset in PRESETS
        }

    def start(self, row: Row) -> Worker:
        """A process for the rows of this kind and number of threads."""
        python = sys.executable
        if row.kind in ENVIRONMENTS:
            name = ENVIRONMENTS[row.kind]
            python = find_python(name, getattr(self.chosen, f"{name}_python".replace("-", "_")))
        if row.kind in SCRIPTS:
            return Worker(python, SCRIPTS[row.kind], threads=row.threads)
        return Worker(python, "ase_worker.py", [row.kind], threads=row.threads)

    def make(self, row: Row) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Model, case and facts that are known without the worker."""
        case = write_case(row.case, self.folder)
        if row.kind == "nep":
            return str(nep_file()), case, {}
        if row.kind != "limbeck":
            return row.model, case, {}
        name, _, variant = row.model.partition(":")
        if row.case == "Si 1000" and row.threads == 1:
            case = {**case, "phases": True}
        model, weights = student(name, self.folder)
        known: dict[str, Any] = {"weights": weights}
        if row.case == "Si 1000":
            counted = self.flops[name.partition("-")[2]]
            known["flops_per_atom"] = counted[self.chosen.filters]["total"]
            known["flops_per_atom_needed"] = counted["product"]["total"]
        return f"{model}:{variant}" if variant else model, case, known

    def run(self, group: Group) -> tuple[dict[str, Taken], dict[str, Any]]:
        chosen = self.chosen
        return measure(
            group, self.start, self.make, rounds=chosen.rounds, seconds=chosen.seconds, cap_s=chosen.cap
        )

    def memory(self, atoms: int) -> Taken:
        """Growth of resident memory per atom, from several processes."""
        row = Row(f"memory of tiny, Si {atoms}", "limbeck", "silicon-tiny", f"Si {atoms}")
        taken, grown = Taken(row), []
        model, _ = student(row.model, self.folder)
        repeats = "x".join(str(n) for n in SILICON[atoms])
        command = [sys.executable, "-W", "ignore", str(HERE / "workers" / "memory_worker.py"), model, repeats]
        for k in range(MEMORY_REPEATS):
            try:
                ran = _run_pinned(command)
            except Unmeasured as error:
                taken.reason = str(error)
                return taken
            grown.append(json.loads(ran)["growth_bytes"] / atoms)
            print(f"memory: process {k + 1} of {MEMORY_REPEATS}", file=sys.stderr, flush=True)
        taken.facts = {"bytes_per_atom": grown}
        return taken


def _run_pinned(command: list[str]) -> str:
    """Run a process on one core; returns the last line that it prints."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=thread_environment(sys.executable, 1),
    ) as process:
        pin(process.pid, 1)
        try:
            out, errors = process.communicate(timeout=MEMORY_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise Unmeasured(f"took longer than {MEMORY_LIMIT_S} s") from error
    if process.returncode:
        lines = errors.strip().splitlines()
        raise Unmeasured(lines[-1][:300] if lines else f"ended with exit code {process.returncode}")
    return out.strip().splitlines()[-1]


def machine_with_topology() -> dict[str, Any]:
    """The machine, and the number of hardware threads per core."""
    about = machine(threads=1)
    del about["threads"]  # each row has its own
    siblings = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    shared = siblings.read_text(encoding="ascii").strip() if siblings.exists() else ""
    about["threads_per_core"] = len(shared.replace("-", ",").split(",")) if shared else "unknown"
    return about


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, variable in VARIABLES.items():
        parser.add_argument(f"--{name}-python", help=f"Python that has {name} (or {variable})")
    parser.add_argument("--quick", action="store_true", help="smoke test: the timings mean nothing")
    parser.add_argument("--only", help="groups, separated by commas: peers,peak,memory")
    parser.add_argument("--rounds", type=int, help="at most (default 15; quick: 2)")
    parser.add_argument("--seconds", type=float, help="per block (default 0.5; quick: 0.05)")
    parser.add_argument("--cap", type=float, help="seconds per row in total (default 60; quick: 5)")
    parser.add_argument("--filters", choices=get_args(Filter), default=FILTER, help="how FLOPs are counted")
    parser.add_argument("--merge", action="store_true", help="with --only: update a complete run")
    parser.add_argument(
        "--json", type=Path, help="results file; the README is then unchanged, as with --quick and --only"
    )
    chosen = parser.parse_args()
    defaults = {"rounds": 2, "seconds": 0.05, "cap": 5.0} if chosen.quick else {}
    for name, value in {"rounds": 15, "seconds": 0.5, "cap": 60.0, **defaults}.items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    return chosen


def merged(before: dict[str, Any], now: dict[str, Any], order: list[str]) -> dict[str, Any]:
    """The results of a complete run, updated with the groups measured now."""
    groups = {group["group"]: group for group in (*before["groups"], *now["groups"])}
    bars = {bar["measure"]: bar for bar in (*before["bars"], *now["bars"])}
    wanted = [bar.measure for bar in all_bars("Si 512", before["memory"]["atoms"])]
    return {
        **before,
        **{key: now[key] for key in ("memory", "flops_per_atom", "phases") if key in now},
        "groups": [groups[name] for name in order if name in groups],
        "bars": [bars[measure] for measure in wanted if measure in bars],
    }


def main() -> None:
    chosen = arguments()
    groups = all_groups(chosen.quick)
    names = [group.name for group in groups] + ["memory"]
    wanted = chosen.only.split(",") if chosen.only else names
    if set(wanted) - set(names):
        sys.exit(f"error: --only: got {chosen.only!r}, wanted some of {','.join(names)}")
    about, began = machine_with_topology(), time.monotonic()
    measured: dict[str, dict[str, Taken]] = {}
    tables = []
    large = 10_000 if chosen.quick else 100_000
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), chosen)
        for group in groups:
            if group.name in wanted:
                measured[group.name], facts = bench.run(group)
                rows = [taken.to_dict() for taken in measured[group.name].values()]
                tables.append({"group": group.name, "title": group.title, **facts, "rows": rows})
        if "memory" in wanted:
            measured["memory"] = {"memory": bench.memory(large)}
    report: dict[str, Any] = {
        "what": "energy, forces and (where periodic) stress of one structure, neighbour list included",
        "machine": about,
        "settings": {
            "rounds": chosen.rounds, "seconds_a_block": chosen.seconds, "quick": chosen.quick,
            "displacement_a": 1e-3, "pairs_per_atom": bench.pairs, "filters": chosen.filters,
        },
        "bars": evaluate_bars(all_bars("Si 64" if chosen.quick else "Si 512", large), measured),
        "flops_per_atom": bench.flops,
        "phases": bench.phases,
        "groups": tables,
        "wall_s": round(time.monotonic() - began, 1),
    }  # fmt: skip
    if "memory" in measured:
        grown = measured["memory"]["memory"].facts.get("bytes_per_atom", [])
        report["memory"] = {
            "atoms": large,
            "bytes_per_atom": grown,
            "median": float(np.median(grown or [np.nan])),
        }
    if chosen.merge:
        report = merged(json.loads(RESULTS.read_text(encoding="utf-8")), report, names)
    print("\n".join(markdown(report)))
    whole = not chosen.only or chosen.merge
    target = chosen.json or (RESULTS if whole and not chosen.quick else None)
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nwritten to {target}")
    if target == RESULTS:
        write_readme("inference.py", markdown(report))


if __name__ == "__main__":
    main()
