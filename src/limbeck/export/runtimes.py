"""Exported files in their own runtime, in a fresh process."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.core.child import ChildProcess
from limbeck.core.messages import Message
from limbeck.core.neighbours import neighbour_list
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError
from limbeck.export.runner import INPUT_NAMES, OUTPUT_NAMES
from limbeck.teachers.environments import OWN

Arrays = dict[str, np.ndarray]
_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def make_inputs(batch: StructureBatch, cutoff: float) -> Arrays:
    """The inputs of an exported student: every pair closer than the cutoff (Å) in both directions."""
    edges, shifts = [np.zeros((2, 0), np.int64)], [np.zeros((0, 3))]
    for s in range(len(batch)):
        atoms = slice(batch.offsets[s], batch.offsets[s + 1])
        points, cell = batch.positions[atoms], batch.cell[s]
        first, second, images = neighbour_list(points, cell, batch.pbc[s], cutoff, where=f"structure {s}")
        shift = images @ cell
        there = np.stack([first, second]).astype(np.int64) + batch.offsets[s]
        edges += [there, there[::-1]]
        shifts += [shift, -shift]
    values = (
        batch.numbers, batch.positions, np.concatenate(edges, axis=1), np.concatenate(shifts),
        batch.structure_of_atom, batch.cell,
    )  # fmt: skip
    return {k: np.ascontiguousarray(v) for k, v in zip(INPUT_NAMES, values, strict=True)}


class Runtime(AbstractContextManager["Runtime"]):
    """A process that loads exported files and evaluates them.

    No variable of the environment limits its threads: a runtime takes its default, or what ``load`` says.

    Raises
    ------
    LimbeckError: from every method, where the runtime refuses a file, fails or dies.
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
