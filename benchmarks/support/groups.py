"""Groups of rows that are measured in alternation."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from support.cases import CLUSTER, MOLECULE, n_atoms
from support.processes import Unmeasured, Worker

#: Opening a model: imports, weights, the first evaluation.
_OPEN_LIMIT_S = 300.0


@dataclass(frozen=True)
class Row:
    """One model on one case with a number of threads; ``kind`` names its worker."""

    name: str
    kind: str
    model: str
    case: str
    threads: int = 1


@dataclass
class Taken:
    """Measurements of a row.

    Attributes
    ----------
    seconds: per evaluation, one value per round; empty if there is a ``reason``.
    """

    row: Row
    facts: dict[str, Any] = field(default_factory=dict)
    blocks: list[float] = field(default_factory=list)
    evaluations: int = 0
    reason: str | None = None

    @property
    def seconds(self) -> np.ndarray:
        return np.array(self.blocks)

    @property
    def per_atom(self) -> np.ndarray:
        return self.seconds / n_atoms(self.row.case)

    def to_dict(self) -> dict[str, Any]:
        entry = {
            "model": self.row.name, "case": self.row.case, "threads": self.row.threads, **self.facts
        }  # fmt: skip
        if self.reason:
            return {**entry, "reason": self.reason}
        if "pairs" in self.facts:
            return {**entry, "ns_a_pair": 1e9 * float(np.median(self.seconds)) / self.facts["pairs"]}
        if self.row.kind == "peak":
            return {**entry, "gflop_per_s": self.facts["flops"] / float(np.median(self.seconds)) / 1e9}
        return {
            **entry,
            "atoms": n_atoms(self.row.case),
            "latency_ms_median": 1e3 * float(np.median(self.seconds)),
            "latency_ms_quartiles": (1e3 * np.quantile(self.seconds, [0.25, 0.75])).tolist(),
            "atoms_per_s": 1 / float(np.median(self.per_atom)),
            "evaluations_timed": self.evaluations,
        }


@dataclass(frozen=True)
class Group:
    """Rows that alternate; ratios are formed within a round."""

    name: str
    title: str
    rows: tuple[Row, ...]


def _limbeck(preset: str, case: str, threads: int = 1, system: str = "silicon", suffix: str = "") -> Row:
    remark = {":jump": ", list made anew each call"}.get(suffix, "")
    remark += f", {threads} threads" if threads > 1 else ""
    return Row(f"{preset}{remark}, {case}", "limbeck", f"{system}-{preset}{suffix}", case, threads)


PRESETS = ("original", "tiny", "ultra-tiny")
MULTIPLY_ADD = "float32 multiply-add, threads"


def all_groups(quick: bool) -> list[Group]:
    """The groups of a run; a quick run has smaller structures where a call takes seconds."""
    thousand, many = "Si 1000", "Si 10000" if quick else "Si 100000"
    for_teachers = "Si 64" if quick else "Si 512"
    sizes = ["Si 16", "Si 96", "Si 1000"] + ([] if quick else ["Si 10000"])
    return [
        Group(
            "peers",
            "Potentials of one core, Si 1,000 atoms, 1 thread",
            (
                _limbeck("tiny", thousand),
                Row("NEP4 Si", "nep", "nep", thousand),
                _limbeck("ultra-tiny", thousand),
                Row("Tersoff", "lammps", "tersoff", thousand),
                Row("SNAP Si_Zuo", "lammps", "snap", thousand),
                _limbeck("tiny", thousand, suffix=":jump"),
            ),
        ),
        Group(
            "graph-pes",
            "graph-pes, Si 1,000 atoms, 1 thread",
            (_limbeck("tiny", thousand), Row("graph-pes PaiNN 64x2", "graph-pes", "64x2x12", thousand)),
        ),
        Group(
            "teachers",
            f"Teachers, {for_teachers} atoms, 2 threads",
            (
                _limbeck("tiny", for_teachers, 2),
                Row("CHGNet", "chgnet", "0.3.0", for_teachers, 2),
                Row("SevenNet-0", "sevennet", "7net-0", for_teachers, 2),
            ),
        ),
        Group(
            "peak",
            "The machine's arithmetic, Si 1,000 atoms, 1 thread",
            tuple(
                row
                for preset in PRESETS
                for row in (
                    Row(f"float32 multiply-add, beside {preset}", "peak", "peak", thousand),
                    _limbeck(preset, thousand),
                )
            ),
        ),
        Group(
            "filters",
            "Radial filters of one layer of `tiny`, forward and back: product or table",
            tuple(
                Row(f"{way}, {isa}", "peak", f"{way}:{isa}", thousand)
                for isa in ("avx512", "avx2")
                for way in ("product", "table 512", "table 2048")
            ),
        ),
        Group(
            "threads",
            "Two threads, Si 1,000 atoms",
            (
                *(Row(f"{MULTIPLY_ADD}, {n}", "peak", "peak", thousand, n) for n in (1, 2)),
                *(_limbeck(preset, thousand, threads) for preset in PRESETS for threads in (1, 2)),
            ),
        ),
        Group(
            "sizes",
            "Presets by size, Si, 1 thread",
            tuple(_limbeck(preset, size) for size in sizes for preset in PRESETS),
        ),
        Group(
            "molecule",
            "One molecule of 16 atoms (benzamide), 1 thread",
            tuple(_limbeck(p, case, system="3bpa") for p in PRESETS[1:] for case in (MOLECULE, CLUSTER)),
        ),
        Group("large", "Large crystals, 1 thread", (_limbeck("tiny", thousand), _limbeck("tiny", many))),
    ]


def measure(
    group: Group,
    start: Callable[[Row], Worker],
    make: Callable[[Row], tuple[str, dict[str, Any], dict[str, Any]]],
    *,
    rounds: int,
    seconds: float,
    cap_s: float,
) -> tuple[dict[str, Taken], dict[str, Any]]:
    """Blocks in alternation; the first round is a warm-up and does not count.

    ``start`` opens a row's process, ``make`` gives its model, case and known facts. Rounds stop after
    ``cap_s`` per row. A row that fails is skipped from then on, with the reason.
    """
    taken = {row.name: Taken(row) for row in group.rows}
    workers: dict[tuple[str, int], Worker] = {}
    asked: dict[str, dict[str, Any]] = {}
    versions: dict[str, Any] = {}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    try:
        for row in group.rows:
            with _reasons(taken[row.name]):
                key = (row.kind, row.threads)
                model, case, known = make(row)
                if key not in workers:
                    workers[key] = start(row)
                    versions[row.kind] = workers[key].ask(_OPEN_LIMIT_S, do="describe")["versions"]
                asked[row.name] = {"model": model, "case": case}
                facts = workers[key].ask(_OPEN_LIMIT_S, do="open", **asked[row.name])
                taken[row.name].facts = {**known, **facts}
        began, done = time.monotonic(), 0
        for k in range(rounds + 1):
            for row in group.rows:
                one = taken[row.name]
                if one.reason is None:
                    with _reasons(one):
                        worker = workers[row.kind, row.threads]
                        block = worker.ask(10 * cap_s, do="time", seconds=seconds, **asked[row.name])
                        if k:
                            one.blocks.append(block["step_s"] / one.facts.get("evaluations_a_step", 1))
                            one.evaluations += block["steps"] * one.facts.get("evaluations_a_step", 1)
            done = k
            print(f"{group.name}: round {k} of {rounds}", file=sys.stderr, flush=True)
            if k and time.monotonic() - began > cap_s * len(group.rows):
                break
    finally:
        for worker in workers.values():
            worker.close()
    about = {"rounds": done, "load_at_start": load and round(load, 2), "versions": versions}
    return taken, about


class _reasons:
    """Turns an Unmeasured into the row's reason and continues."""

    def __init__(self, taken: Taken) -> None:
        self._taken = taken

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Unmeasured):
            return False
        self._taken.reason, self._taken.blocks = str(error), []
        print(f"not measured: {self._taken.row.name}: {error}", file=sys.stderr, flush=True)
        return True
