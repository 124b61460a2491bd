"""Exported files in their own runtime, in a fresh process that never imports Limbeck."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from limbeck.core.neighbours import neighbour_list
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError
from limbeck.export import runner

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
    return {k: np.ascontiguousarray(v) for k, v in zip(runner.INPUT_NAMES, values, strict=True)}


class Runtime:
    """A process that loads exported files and evaluates them.

    No variable of the environment limits its threads: a runtime takes its default, or what ``load`` says.

    Raises
    ------
    LimbeckError: from every method, where the runtime refuses a file, fails or dies.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="limbeck-export-")
        self._errors = open(Path(self._folder.name) / "stderr", "w+", encoding="utf-8")  # noqa: SIM115
        # -P: the folder of the program is no place to import from
        self._process = subprocess.Popen(
            [sys.executable, "-P", runner.__file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env={name: value for name, value in os.environ.items() if name not in _LIMITS},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._errors.close()
        self._folder.cleanup()

    def load(self, path: Path, kind: str, name: str = "model", threads: int | None = None) -> dict[str, Any]:
        """Load a file; ``card`` it carries, ``versions`` of the runtime, ``threads``.

        Threads: None for the runtime's default. PyTorch has one number for all that is loaded, the last.
        """
        return self._ask(path, do="load", path=str(path), kind=kind, name=name, threads=threads)

    def set_cases(self, cases: Sequence[Arrays]) -> None:
        """Inputs that later calls evaluate."""
        path = Path(self._folder.name) / "cases.npz"
        held: dict[str, Any] = {
            f"{k}/{name}": value for k, case in enumerate(cases) for name, value in case.items()
        }
        np.savez(path, count=np.array(len(cases)), **held)
        self._ask("inputs", do="cases", path=str(path))

    def evaluate(self, name: str = "model", order: Sequence[int] | None = None) -> list[Arrays]:
        """The outputs for each case, or for those of ``order`` one after the other."""
        path = Path(self._folder.name) / "outputs.npz"
        cases = None if order is None else list(order)
        count = self._ask(name, do="evaluate", path=str(path), name=name, order=cases)["count"]
        with np.load(path) as held:
            return [{o: held[f"{k}/{o}"] for o in runner.OUTPUT_NAMES} for k in range(count)]

    def seconds(self, case: int, calls: int, name: str = "model") -> list[float]:
        """Times of so many evaluations of one case, taken inside the process."""
        return self._ask(name, do="time", case=case, calls=calls, name=name)["seconds"]

    def _ask(self, where: object, **request: Any) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise TypeError("the process has pipes")
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died(where) from None
        for line in self._process.stdout:
            if line.startswith(runner.MARK):
                found = json.loads(line[len(runner.MARK) :])
                if "error" in found:
                    text = found["error"].split("\n")[0]
                    raise LimbeckError("its runtime refuses the export", where=where, got=text[:300])
                return found
        raise self._died(where)

    def _died(self, where: object) -> LimbeckError:
        code = self._process.wait()
        self._errors.seek(0)
        last = ([line for line in self._errors.read().split("\n") if line.strip()] or ["nothing said"])[-1]
        return LimbeckError("the runtime of the export died", where=where, got=f"exit {code}: {last[:300]}")
