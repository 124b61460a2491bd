"""A model in a worker process, as a Subject: pinned to its cores, and ended when it takes too long."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from limbeck.core.structures import StructureBatch
from limbeck.core.timing import Prepared, Subject, Unmeasured
from limbeck.labelling import pipe
from limbeck.labelling.remote import thread_counts
from limbeck.teachers.environments import Interpreter

_SLACK_S = 1.0  # for the pipe, and for moving atoms between calls
_GRACE_S = 5.0


class ProcessSubject(Subject):
    """``limbeck.benchmark.worker`` in a Python; loading begins at once, and :meth:`wait` waits for it.

    Parameters
    ----------
    interpreter: the Python that has what the model needs.
    opening: the worker's ``open`` request, with ``threads``.
    working_folder: modules in the current folder can be imported, as ``module:callable`` wants.
    """

    def __init__(
        self, interpreter: Interpreter, opening: Mapping[str, Any], *, working_folder: bool = False
    ) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                interpreter.command("limbeck.benchmark.worker", working_folder=working_folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**interpreter.environment(), **thread_counts(opening["threads"])},
            )
        except OSError as error:
            self._errors.close()
            raise Unmeasured(f"{interpreter.path} does not start: {error.strerror}") from error
        pin(self._process.pid, opening["threads"])
        self._send({"kind": "open", **opening})

    def wait(self, limit_s: float) -> None:
        self.parameters = self._receive(limit_s, f"loading took longer than {limit_s:.0f} s")["parameters"]

    def prepare(self, batch: StructureBatch, limit_s: float) -> Prepared:
        self._send({"kind": "prepare", "limit_s": limit_s}, pipe.pack_batch(batch))
        said = self._receive(limit_s, f"the first call takes longer than {limit_s:.3g} s", too_slow=True)
        return Prepared(said["spent_s"], said["last_s"], said["peak_memory_mb"])

    def time(self, calls: int, limit_s: float) -> list[float]:
        self._send({"kind": "time", "calls": calls})
        return self._receive(limit_s, "", too_slow=True)["seconds"]

    def _send(self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        assert self._process.stdin is not None
        try:
            pipe.send(self._process.stdin.fileno(), meta, arrays)
        except BrokenPipeError as error:
            raise Unmeasured(self._last_words()) from error

    def _receive(self, limit_s: float, late: str, *, too_slow: bool = False) -> dict[str, Any]:
        """The next answer; Unmeasured with ``late`` where it does not come in time, and the process ends."""
        assert self._process.stdout is not None
        until = time.monotonic() + limit_s + _SLACK_S
        descriptor = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)

            def wait() -> None:
                if not selector.select(max(0.0, until - time.monotonic())):
                    self._process.kill()
                    raise Unmeasured(late, too_slow=too_slow)

            message = pipe.receive(descriptor, wait)
        if message is None:
            raise Unmeasured(self._last_words())
        meta, _ = message
        if meta["kind"] == "error":
            raise Unmeasured(meta["reason"])
        return meta

    def _last_words(self) -> str:
        """How the process ended: the signal, else the last line on standard error."""
        try:
            code = self._process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            return f"its process ended with {name}" + ("; memory may have run out" if -code == 9 else "")
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"its process ended with exit code {code}"

    def close(self) -> None:
        if self._errors.closed:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def pin(process: int, threads: int) -> None:
    """Keep a process on as many cores as it has threads (Linux); the last ones, which the system uses least.

    Called right after the start: threads made later inherit it.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process, sorted(os.sched_getaffinity(0))[-threads:])
