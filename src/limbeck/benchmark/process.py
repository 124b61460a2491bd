"""A model in a process of its own, as a Subject: pinned to its cores, and ended when it takes too long.

A fresh process for each row makes its memory the row's own, can be ended when it takes too long, and
holds a teacher in that teacher's environment. It measures its own time, so what the pipe costs is
nobody's. Requests: how to open a model, a batch to prepare, a number of calls to time.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from limbeck.benchmark.memory import PeakMemory
from limbeck.core.child import ChildProcess, pack_batch, pin, thread_counts, unpack_batch
from limbeck.core.messages import open_inbox, send
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.core.timing import LocalSubject, Prepared, Subject, Unmeasured
from limbeck.errors import LimbeckError, WorkerDied
from limbeck.teachers.environments import Interpreter

_SLACK_S = 1.0  # for the pipe, and for moving atoms between calls
_NO_LIMIT_S = 1e9


class ProcessSubject(Subject):
    """This module in a Python; loading begins at once, and :meth:`wait` waits for it.

    Parameters
    ----------
    interpreter: the Python that has what the model needs.
    opening: arguments of :func:`load`, and the ``device`` whose memory counts.
    working_folder: modules in the current folder can be imported, as ``module:callable`` wants.
    """

    def __init__(
        self, interpreter: Interpreter, opening: Mapping[str, Any], *, working_folder: bool = False
    ) -> None:
        command = interpreter.command("limbeck.benchmark.process", working_folder=working_folder)
        environment = {**interpreter.environment(), **thread_counts(opening["threads"])}
        try:
            self._child = ChildProcess(command, environment)
        except OSError as error:
            raise Unmeasured(f"{interpreter.path} does not start: {error.strerror}") from error
        pin(self._child.process.pid, opening["threads"])
        self._send(opening)

    def wait(self, limit_s: float) -> None:
        self.parameters = self._receive(limit_s, f"loading took longer than {limit_s:.0f} s")["parameters"]

    def prepare(self, batch: StructureBatch, limit_s: float) -> Prepared:
        self._send({"limit_s": limit_s}, pack_batch(batch))
        late = f"the first call takes longer than {limit_s:.3g} s"
        return Prepared(**self._receive(limit_s, late, too_slow=True))

    def time(self, calls: int, limit_s: float) -> list[float]:
        self._send({"calls": calls})
        return self._receive(limit_s, "", too_slow=True)["seconds"]

    def close(self) -> None:
        self._child.close()

    def _send(self, request: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        try:
            self._child.send(request, arrays)
        except WorkerDied as error:
            raise _ended(error) from error

    def _receive(self, limit_s: float, late: str, *, too_slow: bool = False) -> dict[str, Any]:
        """The next answer; Unmeasured with ``late`` where it does not come in time, and the process ends."""
        try:
            answer, _ = self._child.receive(limit_s + _SLACK_S)
        except TimeoutError as error:
            raise Unmeasured(late, too_slow=too_slow) from error
        except WorkerDied as error:
            raise _ended(error) from error
        if "reason" in answer:
            raise Unmeasured(answer["reason"])
        return answer


def _ended(error: WorkerDied) -> Unmeasured:
    more = "; memory may have run out" if "SIGKILL" in str(error.got) else ""
    return Unmeasured(f"its process ended with {error.got}{more}")


def serve() -> None:
    """Answer requests until standard input ends or the parent dies."""
    inbox, answers_out = open_inbox()
    subject: LocalSubject | None = None
    while True:
        request, arrays = inbox.get()
        try:
            if subject is None:
                potential, parameters = load(**request)
                subject = LocalSubject(potential, memory=PeakMemory(request["device"]))
                answer: dict[str, Any] = {"parameters": parameters}
            elif arrays:
                answer = vars(subject.prepare(unpack_batch(arrays), request["limit_s"]))
            else:
                answer = {"seconds": subject.time(request["calls"], _NO_LIMIT_S)}
        except (LimbeckError, Unmeasured) as error:
            answer = {"reason": str(error)}
        except Exception as error:  # noqa: BLE001 - whatever a package raises is the row's reason
            traceback.print_exc()
            answer = {"reason": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        send(answers_out, answer)


def load(
    *, threads: int, device: str, teacher: Mapping[str, Any] | None = None,
    student: str | None = None, engine: str | None = None,
) -> tuple[Potential, int | None]:  # fmt: skip
    """A teacher (arguments of ``load_teacher``) or a student's file by an engine, and how many parameters."""
    if teacher is not None:
        from limbeck.teachers.registry import load_teacher

        loaded = load_teacher(**teacher, device=device)
        potential, parameters = loaded.potential, loaded.n_parameters
    else:
        from limbeck.runtime.student import Student

        potential = Student.load(student, engine=engine, device=device, precision="float32", threads=threads)  # type: ignore[arg-type]
        parameters = potential.n_parameters
    # where something has loaded torch: some packages set their own number
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
    return potential, parameters


if __name__ == "__main__":
    serve()
