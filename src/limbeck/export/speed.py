"""Latency of an exported file beside the native engine, the two alternating on the same structure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ase import Atoms

from limbeck.core.structures import StructureBatch
from limbeck.core.timing import Limits, LocalSubject, Prepared, Subject, measure_in_turns, require_timings
from limbeck.export.runtimes import Runtime, make_inputs
from limbeck.export.structures import of_size
from limbeck.runtime.student import Student

SIZES = (16, 1000)  #: atoms
_ENOUGH_S = 1.5  # of calls of each model


@dataclass(frozen=True)
class Latency:
    """Medians of one evaluation, energy, forces and stress, the neighbour list given.

    Attributes
    ----------
    atoms, edges: of the structure; edges are directed pairs.
    rounds: blocks of calls, the models in turn.
    export_ms, native_ms: the file in its runtime, the student in the native engine.
    float32_ms: the same format with float32 weights, where weights are quantised.
    export_best_ms, float32_best_ms: the quickest of the calls, which other work on the machine, unlike
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
    runtime: Runtime, student: Student, structures: Sequence[Atoms], *, threads: int,
    float32: str | None = None,
) -> list[Latency]:  # fmt: skip
    """Times of the file loaded as ``model``, and as ``float32`` where that is given, at ``SIZES`` atoms.

    ``threads``: with which they were loaded; the native engine takes as many.
    """
    native = Student(student.record, threads=threads)
    opens: dict[str, Callable[[], Subject]] = {
        "export": lambda: _Exported(runtime, "model", student.cutoff),
        # an export is given its pairs, so the student's atoms stay where its list holds
        "native": lambda: LocalSubject(native, still=True),
    }
    if float32 is not None:
        opens["float32"] = lambda: _Exported(runtime, float32, student.cutoff)
    limits = Limits(row_s=math.inf, enough_s=_ENOUGH_S)
    found = []
    for size in SIZES:
        atoms = of_size(structures[0], size, student.architecture.elements)
        batch = StructureBatch.from_atoms([atoms])
        measured = require_timings(list(opens), measure_in_turns(list(opens.values()), batch, limits))
        timings = dict(zip(opens, measured, strict=True))
        median = {name: 1000 * timing.median_s for name, timing in timings.items()}
        best = {name: 1000 * float(timing.seconds.min()) for name, timing in timings.items()}
        found.append(
            Latency(
                atoms=len(atoms), edges=make_inputs(batch, student.cutoff)["edge_index"].shape[1],
                threads=threads, rounds=len(timings["export"].rounds),
                export_ms=median["export"], native_ms=median["native"], float32_ms=median.get("float32"),
                export_best_ms=best["export"], float32_best_ms=best.get("float32"),
            )
        )  # fmt: skip
    return found
