"""Exported files in their own runtime, in a fresh process: evaluated, and timed next to the native engine."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.core.child import ChildProcess
from limbeck.core.messages import Message
from limbeck.core.neighbours import find_pairs
from limbeck.core.structures import StructureBatch
from limbeck.core.timing import Limits, LocalSubject, Prepared, Subject, measure_in_turns, require_timings
from limbeck.errors import LimbeckError
from limbeck.export.runner import INPUT_NAMES, OUTPUT_NAMES
from limbeck.export.structures import of_size
from limbeck.runtime.student import Student
from limbeck.teachers.environments import OWN

Arrays = dict[str, np.ndarray]
_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SIZES = (16, 1000)  #: atoms of structures that are timed
_ENOUGH_S = 1.5  # of calls of each model


def make_inputs(batch: StructureBatch, cutoff: float) -> Arrays:
    """The inputs of an exported student: every pair closer than the cutoff (Å) in both directions."""
    pairs = find_pairs(batch, cutoff)
    there = np.stack([pairs.first, pairs.second]) + np.repeat(batch.offsets[:-1], np.diff(pairs.offsets))
    shift = pairs.vectors - (batch.positions[there[1]] - batch.positions[there[0]])
    edges, shifts = np.concatenate([there, there[::-1]], axis=1), np.concatenate([shift, -shift])
    values = (batch.numbers, batch.positions, edges, shifts, batch.structure_of_atom, batch.cell)
    return {k: np.ascontiguousarray(v) for k, v in zip(INPUT_NAMES, values, strict=True)}


class Runtime(AbstractContextManager["Runtime"]):
    """A process that loads exported files and evaluates them.

    No variable of the environment limits its threads: a runtime takes its default, or what ``load`` is given.
    Every method raises LimbeckError where the runtime refuses a file, fails or dies.
    """

    def __init__(self) -> None:
        environment = {name: value for name, value in OWN.environment().items() if name not in _LIMITS}
        # -P: the current folder is no place to import from
        command = [sys.executable, "-P", "-m", "limbeck.export.runner"]
        self._child = ChildProcess(command, environment, what="the runtime of the export died")

    def __exit__(self, *_: object) -> None:
        self._child.close()

    def load(self, path: Path, kind: str, name: str = "model", threads: int | None = None) -> dict[str, Any]:
        """Load a file; ``card`` it carries, ``versions`` of the runtime, ``threads``.

        Threads: None for the runtime's default. PyTorch has one number for all that is loaded, the last.
        """
        return self._ask(path, {"path": str(path), "kind": kind, "name": name, "threads": threads})[0]

    def evaluate(self, inputs: Arrays, name: str = "model", calls: int = 1) -> list[Arrays]:
        """The outputs of ``calls`` evaluations of the same inputs."""
        _, found = self._ask(name, {"name": name, "calls": calls, "keep": True}, inputs)
        return [{output: found[f"{k}/{output}"] for output in OUTPUT_NAMES} for k in range(calls)]

    def seconds(self, calls: int, name: str = "model", inputs: Arrays | None = None) -> list[float]:
        """Times of ``calls`` evaluations, taken inside the process; None: of the inputs given last."""
        return self._ask(name, {"name": name, "calls": calls, "keep": False}, inputs)[0]["seconds"]

    def _ask(self, where: object, request: dict[str, Any], arrays: Arrays | None = None) -> Message:
        self._child.where = where
        self._child.send(request, arrays)
        answer, found = self._child.receive()
        if "error" in answer:
            text = answer["error"].split("\n")[0]
            raise LimbeckError("its runtime refuses the export", where=where, got=text[:300])
        return answer, found


@dataclass(frozen=True)
class Latency:
    """Medians of one evaluation, energy, forces and stress, the neighbour list given.

    Attributes
    ----------
    atoms, edges: of the structure; edges are directed pairs.
    rounds: blocks of calls, the models in turn.
    export_ms, native_ms: the file in its runtime, the student in the native engine.
    float32_ms: the same format with float32 weights, where weights are quantised.
    export_best_ms, float32_best_ms: the quickest calls, which other work on the machine hardly slows.
    """

    atoms: int
    edges: int
    threads: int
    rounds: int
    export_ms: float
    native_ms: float
    float32_ms: float | None = None
    export_best_ms: float | None = None
    float32_best_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "export_over_native": self.export_ms / self.native_ms}


class _Exported(Subject):
    """A file in its own runtime, which measures its own time."""

    def __init__(self, runtime: Runtime, name: str, cutoff: float) -> None:
        self._runtime, self._name, self._cutoff = runtime, name, cutoff

    def prepare(self, batch: StructureBatch, limit_s: float) -> Prepared:
        # a runtime may compile on the second call, as TorchScript does
        first, second = self._runtime.seconds(2, self._name, make_inputs(batch, self._cutoff))
        return Prepared(first + second, second, None)

    def time(self, calls: int, limit_s: float) -> list[float]:
        return self._runtime.seconds(calls, self._name)


def time_export(
    runtime: Runtime, student: Student, base: Atoms, threads: int, against_float32: bool = False
) -> list[Latency]:
    """Times of the files loaded as ``model`` and ``float32``, at ``SIZES`` atoms made of ``base``.

    ``threads``: with which they were loaded; the native engine takes as many.
    """
    native = Student(student.record, threads=threads)
    opens: dict[str, Callable[[], Subject]] = {
        "export": lambda: _Exported(runtime, "model", student.cutoff),
        # an export is given its pairs, so the student's atoms stay where its list holds
        "native": lambda: LocalSubject(native, still=True),
    }
    if against_float32:
        opens["float32"] = lambda: _Exported(runtime, "float32", student.cutoff)
    limits = Limits(row_s=math.inf, enough_s=_ENOUGH_S)
    found = []
    for size in SIZES:
        atoms = of_size(base, size, student.architecture.elements)
        batch = StructureBatch.from_atoms([atoms])
        measured = require_timings(list(opens), measure_in_turns(list(opens.values()), batch, limits))
        timings = dict(zip(opens, measured, strict=True))
        median = {name: 1000 * timing.median_s for name, timing in timings.items()}
        best = {name: 1000 * float(timing.seconds.min()) for name, timing in timings.items()}
        edges = make_inputs(batch, student.cutoff)["edge_index"].shape[1]
        found.append(
            Latency(
                len(atoms), edges, threads, len(timings["export"].rounds), median["export"], median["native"],
                median.get("float32"), best["export"], best.get("float32"),
            )
        )  # fmt: skip
    return found
