"""Latency of an exported file beside the native engine, the two by turns on the same structure."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ase import Atoms

from limbeck.core.structures import StructureBatch
from limbeck.export.runtimes import Runtime, make_inputs
from limbeck.export.structures import of_size
from limbeck.runtime.student import Student

SIZES = (16, 1000)  #: atoms
_ROUNDS, _LEAST, _SECONDS = 15, 3, 4.0


@dataclass(frozen=True)
class Latency:
    """Medians over ``rounds`` of one evaluation, energy, forces and stress, the neighbour list given.

    Attributes
    ----------
    atoms, edges: of the structure; edges are directed pairs.
    export_ms, native_ms: the file in its runtime, the student in the native engine.
    float32_ms: the same format with float32 weights, where weights are quantised.
    export_best_ms, float32_best_ms: the quickest of the rounds, which other work on the machine, unlike
        a median, cannot slow; what the two are compared by.
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


def time_export(
    runtime: Runtime, student: Student, structures: Sequence[Atoms], *, float32: str | None = None
) -> list[Latency]:
    """Times of the file loaded as ``model``, and as ``float32`` where that is given, at ``SIZES`` atoms."""
    elements = student.architecture.elements
    systems = [of_size(list(structures), size, elements) for size in SIZES]
    inputs = [make_inputs(StructureBatch.from_atoms([atoms]), student.cutoff) for atoms in systems]
    runtime.set_cases(inputs)
    return [
        _time_one(runtime, student, atoms, k, inputs[k]["edge_index"].shape[1], float32)
        for k, atoms in enumerate(systems)
    ]


def _time_one(
    runtime: Runtime, student: Student, atoms: Atoms, case: int, edges: int, float32: str | None
) -> Latency:
    session = student.session(threads=runtime.threads)

    def native() -> float:
        began = time.perf_counter()
        session.evaluate(atoms)
        return time.perf_counter() - began

    calls: dict[str, Callable[[], float]] = {"export": lambda: runtime.seconds(case), "native": native}
    if float32 is not None:
        calls["float32"] = lambda: runtime.seconds(case, float32)
    for call in calls.values():
        call()
        call()  # a runtime may compile on the second call, as TorchScript does
    taken: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    for done in range(_ROUNDS):
        if done >= _LEAST and time.perf_counter() - began > _SECONDS:
            break
        for name, call in calls.items():
            taken[name].append(call())
    best = {name: 1000 * min(values) for name, values in taken.items()}
    medians = {name: 1000 * statistics.median(values) for name, values in taken.items()}
    return Latency(
        atoms=len(atoms), edges=edges, threads=runtime.threads, rounds=len(taken["export"]),
        export_ms=medians["export"], native_ms=medians["native"], float32_ms=medians.get("float32"),
        export_best_ms=best["export"], float32_best_ms=best.get("float32"),
    )  # fmt: skip
