"""One model in a process of its own: ``python -m limbeck.benchmark.worker``.

A fresh process for each row makes its memory the row's own, can be ended when it takes too long, and
holds a teacher in that teacher's environment. It measures its own time, so what the pipe costs is
nobody's. Requests: ``open``, then ``prepare`` with a batch, then ``time``.
"""

from __future__ import annotations

import sys
from typing import Any

from limbeck.benchmark.memory import PeakMemory
from limbeck.core.potential import Potential
from limbeck.core.timing import LocalSubject, Unmeasured
from limbeck.errors import LimbeckError
from limbeck.labelling import pipe
from limbeck.labelling.worker import open_inbox

NO_LIMIT_S = 1e9


def main() -> None:
    """Serve until standard input ends or the parent dies."""
    inbox, answers_out = open_inbox()
    subject: LocalSubject | None = None
    while True:
        request, arrays = inbox.get()
        try:
            if request["kind"] == "open":
                potential, parameters = load(request)
                subject = LocalSubject(potential, memory=PeakMemory(request["device"]))
                answer: dict[str, Any] = {"kind": "ready", "parameters": parameters}
            else:
                assert subject is not None
                answer = _serve(subject, request, arrays)
        except Exception as error:  # noqa: BLE001 - whatever a package raises is the row's reason
            answer = {"kind": "error", "reason": _describe(error)}
        pipe.send(answers_out, answer)


def load(request: dict[str, Any]) -> tuple[Potential, int | None]:
    """The Potential that a request names, and how many parameters it has."""
    threads = request["threads"]
    if request["engine"] == "teacher":
        from limbeck.teachers.registry import load_teacher

        loaded = load_teacher(
            request["teacher"], request["options"], request["device"], trust=request["trust"]
        )
        _limit_torch(threads)
        return loaded.potential, loaded.n_parameters
    from limbeck.runtime.student import Student

    student = Student.load(
        request["student"],
        engine=request["engine"],
        device=request["device"],
        precision="float32",
        threads=threads,
    )
    _limit_torch(threads)
    return student, student.n_parameters


def _limit_torch(threads: int) -> None:
    """Hold torch to its threads, where something has loaded it: some packages set their own number."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _serve(subject: LocalSubject, request: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    if request["kind"] == "prepare":
        found = subject.prepare(pipe.unpack_batch(arrays), request["limit_s"])
        return {"kind": "prepared", "spent_s": found.spent_s, "last_s": found.last_s,
                "peak_memory_mb": found.peak_memory_mb}  # fmt: skip
    return {"kind": "timed", "seconds": subject.time(request["calls"], NO_LIMIT_S)}


def _describe(error: Exception) -> str:
    if isinstance(error, LimbeckError | Unmeasured):
        return str(error)
    import traceback

    traceback.print_exc()
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


if __name__ == "__main__":
    main()
