"""Worker processes that answer requests within a time limit; a failure becomes the row's reason."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.core.machine import describe_machine

BENCHMARKS = Path(__file__).parents[1]


class Unmeasured(Exception):
    """A row that cannot be measured on this machine; the message is the reason."""


def machine(threads: int) -> dict[str, Any]:
    """The machine as the results files describe it."""
    about = describe_machine()
    return {**about, "threads": threads, "load_at_start": about.pop("load")}


def thread_environment(python: Path | str, threads: int) -> dict[str, str]:
    """Environment variables of a worker: number of threads, and no PYTHONPATH for another Python."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    if Path(python) != Path(sys.executable):
        environment.pop("PYTHONPATH", None)
    return environment


def pin(process: int, threads: int) -> None:
    """Pin a process to as many cores as it has threads (Linux): the last ones, which the system uses least.

    Call it right after the start: threads created later inherit the setting.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process, sorted(os.sched_getaffinity(0))[-threads:])


class Worker:
    """A process running ``workers/SCRIPT`` that waits between requests, so that workers can alternate."""

    def __init__(
        self, python: Path | str, script: str, arguments: Sequence[str] = (), threads: int = 1
    ) -> None:
        self._name = " ".join([script, *arguments])
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [str(python), "-W", "ignore", str(BENCHMARKS / "workers" / script), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=thread_environment(python, threads),
            )
        except OSError as error:
            raise Unmeasured(f"{python} does not start: {error.strerror}") from error
        pin(self._process.pid, threads)
        self._rest = b""

    def ask(self, limit_s: float, **request: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises
        ------
        Unmeasured: the process ended, or was killed after ``limit_s``.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(request) + "\n").encode())
            self._process.stdin.flush()
        except OSError as error:
            raise Unmeasured(self._failure()) from error
        return json.loads(self._read_line(time.monotonic() + limit_s, limit_s))

    def _read_line(self, until: float, limit_s: float) -> bytes:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, until - time.monotonic())):
                    self._process.kill()
                    raise Unmeasured(f"took longer than {limit_s:.0f} s")
                read = os.read(self._process.stdout.fileno(), 65536)
                if not read:
                    raise Unmeasured(self._failure())
                self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _failure(self) -> str:
        """The last line on standard error, usually the exception."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"{self._name} ended with exit code {code}"

    def close(self) -> None:
        """End the process; safe after it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()
