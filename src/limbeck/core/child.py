"""A child process that answers messages: started, asked within a limit of time, and ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from limbeck.core.messages import Message, receive, send
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError, MissingPackageError, WorkerDied

_PARTS = ("where", "got", "wanted", "remedy")
_CLASSES = {c.__name__: c for c in (LimbeckError, InputError, MissingPackageError)}
_TAIL_LINES = 40
_GRACE_S = 5.0


class ChildProcess:
    """A process that answers messages: its pipes, and the last lines it wrote to standard error.

    Parameters
    ----------
    what, where, remedy: of the WorkerDied that its death raises.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], where: object = None,
        *, what: str = "a worker process died", remedy: str | None = None,
    ) -> None:  # fmt: skip
        self.what, self.where, self.remedy = what, where, remedy
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin.fileno(), self.process.stdout.fileno()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._drain = threading.Thread(target=self._keep_tail, daemon=True)
        self._drain.start()

    def _keep_tail(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self._tail.append(line.decode(errors="replace").strip())

    def send(self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Raises WorkerDied where the process has ended."""
        try:
            send(self.requests, meta, arrays)
        except BrokenPipeError as error:
            raise self._death() from error

    def receive(self, limit_s: float | None = None) -> Message:
        """The next answer.

        Raises
        ------
        WorkerDied: the process has ended. TimeoutError: it did not answer in time, and was ended.
        """
        until = None if limit_s is None else time.monotonic() + limit_s

        def wait() -> None:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self.answers], [], [], left)[0]:
                self.process.kill()
                raise TimeoutError

        if (message := receive(self.answers, wait)) is None:
            raise self._death()
        return message

    def close(self) -> None:
        """End the process: the end of its input does, and nothing of value is in it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
            self._wait()
            self.process.stdout.close()

    def _wait(self) -> int:
        try:
            code = self.process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            # It may have closed its end of the pipe and live on: of no use any more.
            self.process.kill()
            code = self.process.wait()
        self._drain.join(timeout=_GRACE_S)
        return code

    def _death(self) -> WorkerDied:
        code = self._wait()
        lines = " | ".join([line for line in self._tail if line][-3:])
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        got = cause + (f", its last words: {lines}" if lines else "")
        return WorkerDied(self.what, where=self.where, got=got, remedy=self.remedy)


def thread_counts(threads: int) -> dict[str, str]:
    """Environment variables that give a child its threads, and its words at once."""
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {**dict.fromkeys(counts, str(threads)), "PYTHONUNBUFFERED": "1"}


def pin(process: int, threads: int) -> None:
    """Keep a process on as many cores as it has threads (Linux); the last ones, which the system uses least.

    Called right after the start: threads made later inherit it.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process, sorted(os.sched_getaffinity(0))[-threads:])


def pack_batch(batch: StructureBatch) -> dict[str, np.ndarray]:
    return {name: getattr(batch, name) for name in StructureBatch.__dataclass_fields__}


def unpack_batch(arrays: Mapping[str, np.ndarray]) -> StructureBatch:
    # Copies, because calculators may write into the arrays they are given.
    return StructureBatch(**{name: arrays[name].copy() for name in StructureBatch.__dataclass_fields__})


def pack_error(error: LimbeckError) -> dict[str, Any]:
    """A LimbeckError's class and parts; every part as text."""
    parts = {p: None if getattr(error, p) is None else str(getattr(error, p)) for p in _PARTS}
    name = type(error).__name__
    return {"class": name if name in _CLASSES else "LimbeckError", "what": error.what, **parts}


def unpack_error(packed: Mapping[str, Any], where: str | None = None) -> LimbeckError:
    """The error again; ``where`` fills a place that the worker did not know."""
    parts = {p: packed[p] for p in _PARTS}
    return _CLASSES[packed["class"]](packed["what"], **{**parts, "where": parts["where"] or where})
