"""A teacher in N worker processes, seen as one Potential."""

from __future__ import annotations

import itertools
import queue
import selectors
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.core.labels import Labels, join_labels
from limbeck.core.machine import SHORT_WAIT, available_threads
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError, WorkerDied
from limbeck.labelling import pipe
from limbeck.labelling.worker import unpack_capabilities
from limbeck.teachers import custom
from limbeck.teachers.card import TeacherIdentity
from limbeck.teachers.interpreters import Interpreter, find_interpreter
from limbeck.teachers.registry import check_teacher, get_card
from limbeck.teachers.support import name_structure

# One structure at work and one in the worker's inbox, so that it does not wait while a label is stored.
_DEPTH = 2
_TAIL_LINES = 40


def open_teacher(
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    workers: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    python: Path | None = None,
    trust: bool = False,
) -> WorkerPotential:
    """Start ``workers`` processes that hold teacher ``name``; a context manager.

    Parameters
    ----------
    name: a teacher of the registry, or ``module:callable`` for any ASE calculator.
    options: keyword arguments of the teacher.
    threads: threads of each worker; None shares the cores that this process may use.
    python: interpreter of the environment that holds the teacher's package; None takes this
        environment, or where it is not in this one, the one of ``limbeck teachers install``.
    trust: the teacher's package may unpickle the model file that ``options`` name.

    Raises
    ------
    InputError: unknown teacher or option. MissingPackageError: not installed.
    LimbeckError: the teacher could not be loaded.
    """
    options = dict(options or {})
    check_teacher(name, options, trust=trust)
    card = None if custom.is_custom(name) else get_card(name)
    launch = _Launch(find_interpreter(card, python, name), working_folder=card is None)
    if workers < 1:
        raise InputError("too few workers", where=f"teacher {name}", got=workers, wanted="1 or more")
    threads = threads or max(1, available_threads() // workers)
    team: list[_Worker] = []
    try:
        for _ in range(workers):
            team.append(_Worker(name, threads, launch))
        # All are told before any is waited for, so that they load side by side.
        for worker in team:
            worker.send(
                {"kind": "open", "teacher": name, "options": options, "device": device, "trust": trust}
            )
        greetings = [worker.greet() for worker in team]
    except BaseException:
        for worker in team:
            worker.close()
        raise
    return WorkerPotential(name, team, {**greetings[0], "options": options}, threads, device)


class WorkerPotential(Potential):
    """A teacher that works in other processes; made by :func:`open_teacher`.

    Attributes
    ----------
    card: what the teacher is made for.
    identity: what keys its labels.
    n_parameters: weights of its network, None for ``module:callable``.
    threads, device: of each worker.

    Threads may evaluate single structures side by side, one in each worker; several structures at once
    (:meth:`stream` or a longer batch) take all workers and are for one thread alone.
    """

    thread_safe = True

    def __init__(
        self, name: str, team: list[_Worker], greeting: Mapping[str, Any], threads: int, device: str
    ) -> None:
        self.name, self.threads, self.device = name, threads, device
        self.capabilities = unpack_capabilities(greeting["capabilities"])
        self.identity = TeacherIdentity(**greeting["identity"])
        self.n_parameters: int | None = greeting["n_parameters"]
        self.card = (
            custom.make_card(name, self.capabilities)
            if custom.is_custom(name)
            else get_card(name).of(greeting["options"]).with_capabilities(self.capabilities)
        )
        self._team = team
        self._serials = itertools.count(1)
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()  # last in, first out: a worker that is warm
        for worker in team:
            self._idle.put(worker)
        self._closed = False

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._team]

    def close(self) -> None:
        self._closed = True
        for worker in self._team:
            worker.close()

    def evaluate(self, batch: StructureBatch) -> Labels:
        """Labels of all structures, in order; raises LimbeckError where the teacher fails on one."""
        if len(batch) == 1:
            return self._evaluate_one(batch)
        parts: list[Labels | None] = [None] * len(batch)
        for s, labels in self.stream(batch):
            if isinstance(labels, LimbeckError):
                raise labels
            parts[s] = labels
        return join_labels([p for p in parts if p is not None])

    def _evaluate_one(self, batch: StructureBatch) -> Labels:
        self._refuse_closed()
        worker = self._idle.get()
        try:
            serial = next(self._serials)
            worker.send({"kind": "evaluate", "id": serial}, pipe.pack_batch(batch))
            worker.unanswered += 1
            meta, arrays = worker.receive()
            while meta["id"] != serial:  # owed to a stream that was left early
                meta, arrays = worker.receive()
        finally:
            self._idle.put(worker)
        ((_, answer),) = _unpack(meta, arrays, batch, [0])
        if isinstance(answer, LimbeckError):
            raise answer
        return answer

    def _refuse_closed(self) -> None:
        if self._closed:
            raise LimbeckError("the teacher was closed", where=f"teacher {self.name}")

    def stream(
        self, batch: StructureBatch, stop: Callable[[], bool] | None = None
    ) -> Iterator[tuple[int, Labels | LimbeckError]]:
        """(index, labels of that structure) as they come, in any order.

        A worker is given several structures at once where the teacher takes less time for them together
        (``capabilities.batch_atoms``). A structure that the teacher fails on gives its error in place of
        labels. Once ``stop()`` is true no further structure is begun; those at work are still given.

        Raises
        ------
        LimbeckError: a worker process died.
        """
        todo = deque(range(len(batch)))
        at_work: dict[int, list[int]] = {}  # request id -> structures
        self._refuse_closed()
        with selectors.DefaultSelector() as selector:
            for worker in self._team:
                selector.register(worker.answers, selectors.EVENT_READ, worker)
            self._hand_out(batch, todo, at_work)
            # A worker may owe answers to a stream that was left early; it gets work after those.
            while at_work or todo:
                for key, _ in selector.select():
                    meta, arrays = key.data.receive()
                    if todo and stop is not None and stop():
                        todo.clear()
                    self._hand_out(batch, todo, at_work)
                    yield from _unpack(meta, arrays, batch, at_work.pop(meta["id"], []))

    def _hand_out(self, batch: StructureBatch, todo: deque[int], at_work: dict[int, list[int]]) -> None:
        while todo:
            worker = min(self._team, key=lambda w: w.unanswered)
            # The last structures are not queued behind another: a worker that gets free takes them.
            if worker.unanswered >= (_DEPTH if len(todo) > len(self._team) else 1):
                return
            group = self._take(batch, todo)
            serial = next(self._serials)
            at_work[serial] = group
            some = batch if len(batch) == len(group) else batch.select(group)
            worker.send({"kind": "evaluate", "id": serial}, pipe.pack_batch(some))
            worker.unanswered += 1

    def _take(self, batch: StructureBatch, todo: deque[int]) -> list[int]:
        """The next structure and those that the teacher evaluates together with it."""
        # Fewer than a worker's share at the end, so that none idles while another has several to do.
        share = -(-len(todo) // (_DEPTH * len(self._team)))
        group = [todo.popleft()]
        left = (self.capabilities.batch_atoms or 0) - _count(batch, group[0])
        while todo and len(group) < share and _count(batch, todo[0]) <= left:
            group.append(todo.popleft())
            left -= _count(batch, group[-1])
        return group


@dataclass(frozen=True)
class _Launch:
    """How a worker is started: in which Python, and whether the current folder's modules are for it."""

    interpreter: Interpreter
    working_folder: bool


class _Worker:
    """One process, its two pipes and the last lines it wrote to standard error."""

    def __init__(self, teacher: str, threads: int, launch: _Launch) -> None:
        self.teacher = teacher
        self.unanswered = 0
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.process = subprocess.Popen(
            launch.interpreter.command("limbeck.labelling.worker", working_folder=launch.working_folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**SHORT_WAIT, **launch.interpreter.environment(), **thread_counts(threads)},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests = self.process.stdin.fileno()
        self.answers = self.process.stdout.fileno()
        self._drain = threading.Thread(target=self._keep_tail, daemon=True)
        self._drain.start()

    def _keep_tail(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self.tail.append(line.decode(errors="replace").strip())

    def send(self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        try:
            pipe.send(self.requests, meta, arrays)
        except BrokenPipeError as error:
            raise self._death() from error

    def receive(self) -> pipe.Message:
        message = pipe.receive(self.answers)
        if message is None:
            raise self._death()
        self.unanswered -= 1
        return message

    def greet(self) -> dict[str, Any]:
        self.unanswered += 1
        meta, _ = self.receive()
        if meta["kind"] == "error":
            raise pipe.unpack_error(meta["error"], where=f"teacher {self.teacher}")
        return meta

    def close(self) -> None:
        """End the process: the end of its input does, and nothing of value is in it."""
        if self.process.stdin is None or self.process.stdin.closed:
            return
        self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._drain.join(timeout=5)

    def _death(self) -> WorkerDied:
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            # It closed its end of the pipe and lives on: of no use any more.
            self.process.kill()
            code = self.process.wait()
        self._drain.join(timeout=5)
        lines = " | ".join([line for line in self.tail if line][-3:])
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return WorkerDied(
            "a worker process of the teacher died",
            where=f"teacher {self.teacher}",
            got=cause + (f", its last words: {lines}" if lines else ""),
            remedy="SIGKILL often means that memory ran out: use fewer workers; labels so far are kept",
        )


def _count(batch: StructureBatch, s: int) -> int:
    return int(batch.offsets[s + 1] - batch.offsets[s])


def _unpack(
    meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], batch: StructureBatch, group: list[int]
) -> Iterator[tuple[int, Labels | LimbeckError]]:
    """A worker's answer on the structures of ``group``, one by one."""
    k = start = 0  # rows of the structures and of the atoms that it has labels of
    for place, s in enumerate(group):
        error = meta["errors"].get(str(place))
        if error is not None:
            yield s, pipe.unpack_error(error, where=name_structure(batch, s))
            continue
        stop = start + _count(batch, s)
        rows = {"energy": slice(k, k + 1), "stress": slice(k, k + 1)}
        # Copies, because the arrays are read-only views of the message.
        yield s, Labels(**{n: a[rows.get(n, slice(start, stop))].copy() for n, a in arrays.items()})
        k, start = k + 1, stop


def thread_counts(threads: int) -> dict[str, str]:
    """Environment variables that give a worker its threads, and its words at once."""
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {**dict.fromkeys(counts, str(threads)), "PYTHONUNBUFFERED": "1"}
