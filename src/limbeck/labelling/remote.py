"""A teacher in several worker processes, as one Potential."""

from __future__ import annotations

import itertools
import queue
import selectors
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.core import child, messages
from limbeck.core.labels import Labels, join_labels
from limbeck.core.machine import SHORT_WAIT, available_threads
from limbeck.core.potential import Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.records.label_record import TeacherIdentity
from limbeck.teachers import custom
from limbeck.teachers.environments import find_interpreter
from limbeck.teachers.registry import check_teacher, get_card, name_structure

_DEPTH = 2  # requests of a worker: one being computed and one waiting, so that it is never idle
_REMEDY = "SIGKILL often means that memory ran out: use fewer workers; stored labels are kept"


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
    """Start worker processes with a teacher; a context manager.

    Parameters
    ----------
    name: a teacher of the registry, or ``module:callable`` for any ASE calculator.
    options: keyword arguments of the teacher.
    threads: threads of each worker; None divides the available cores among them.
    python: interpreter of the environment with the teacher's package; None takes this environment, or where
        the package is missing the one of ``limbeck teachers install``.
    trust: the teacher's package may unpickle the model file that ``options`` name.

    Raises
    ------
    InputError: unknown teacher or option. MissingPackageError: not installed.
    LimbeckError: the teacher could not be loaded.
    """
    options = dict(options or {})
    check_teacher(name, options, trust=trust)
    card = None if custom.is_custom(name) else get_card(name)
    interpreter = find_interpreter(card, python, name)
    where = f"teacher {name}"
    if workers < 1:
        raise InputError("invalid number of workers", where=where, got=workers, wanted="1 or more")
    threads = threads or max(1, available_threads() // workers)
    # only module:callable may import from the current folder
    command = interpreter.command("limbeck.labelling.worker", working_folder=card is None)
    environment = {**SHORT_WAIT, **interpreter.environment(), **child.thread_counts(threads)}
    team: list[_Worker] = []
    try:
        for _ in range(workers):
            team.append(_Worker(command, environment, where, remedy=_REMEDY))
        # before any answer is awaited, so that all load at the same time
        for worker in team:
            worker.send({"name": name, "options": options, "device": device, "trust": trust})
        greetings = [worker.receive()[0] for worker in team]
        for greeting in greetings:
            if "error" in greeting:
                raise child.unpack_error(greeting["error"], where=where)
    except BaseException:
        for worker in team:
            worker.close()
        raise
    return WorkerPotential(name, team, {**greetings[0], "options": options}, threads, device)


class WorkerPotential(Potential):
    """A teacher in worker processes, made by :func:`open_teacher`.

    ``card`` is the teacher's domain, ``identity`` enters the keys of its labels; ``threads`` and ``device``
    are those of each worker. Several threads may evaluate single structures at the same time, one in each
    worker; :meth:`stream` and longer batches use all workers and need a thread of their own.
    """

    thread_safe = True

    def __init__(
        self, name: str, team: list[_Worker], greeting: Mapping[str, Any], threads: int, device: str
    ) -> None:
        self.name, self.threads, self.device = name, threads, device
        self._closed = False
        claims = greeting["capabilities"]
        elements = None if claims["elements"] is None else frozenset(claims["elements"])
        self.capabilities = Capabilities(**{**claims, "elements": elements})
        self.identity = TeacherIdentity(**greeting["identity"])
        self.n_parameters: int | None = greeting["n_parameters"]
        card = custom.make_card(name) if custom.is_custom(name) else get_card(name).of(greeting["options"])
        self.card = replace(card, **vars(self.capabilities))
        self._team, self._serials = team, itertools.count(1)
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()  # the last used first: its caches are warm
        for worker in team:
            self._idle.put(worker)

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
        self._refuse_closed()
        found = {}
        for s, labels in self._one(batch) if len(batch) == 1 else self.stream(batch):
            if isinstance(labels, LimbeckError):
                raise labels
            found[s] = labels
        return join_labels([found[s] for s in range(len(batch))])

    def _refuse_closed(self) -> None:
        if self._closed:
            raise LimbeckError("the teacher was closed", where=f"teacher {self.name}")

    def _one(self, batch: StructureBatch) -> list[tuple[int, Labels | LimbeckError]]:
        worker = self._idle.get()
        try:
            serial = next(self._serials)
            worker.ask(serial, batch)
            meta, arrays = worker.answer()
            while meta["id"] != serial:  # answers to a stream that was left early
                meta, arrays = worker.answer()
        finally:
            self._idle.put(worker)
        return list(_unpack(meta, arrays, batch, [0]))

    def stream(
        self, batch: StructureBatch, stop: Callable[[], bool] | None = None
    ) -> Iterator[tuple[int, Labels | LimbeckError]]:
        """(index, labels of that structure) in the order of the answers; LimbeckError where a worker dies.

        A worker gets several structures at once where the teacher is faster on them together
        (``capabilities.batch_atoms``). A structure that the teacher fails on yields its error. Once
        ``stop()`` is true no structure is started; those being computed are still yielded.
        """
        self._refuse_closed()
        todo = deque(range(len(batch)) if stop is None or not stop() else ())
        at_work: dict[int, list[int]] = {}  # request id -> structures
        with selectors.DefaultSelector() as selector:
            for worker in self._team:
                selector.register(worker.answers, selectors.EVENT_READ, worker)
            self._hand_out(batch, todo, at_work)
            # a worker may have answers to a stream that was left early; these come first
            while at_work or todo:
                for key, _ in selector.select():
                    meta, arrays = key.data.answer()
                    if todo and stop is not None and stop():
                        todo.clear()
                    self._hand_out(batch, todo, at_work)
                    yield from _unpack(meta, arrays, batch, at_work.pop(meta["id"], []))

    def _hand_out(self, batch: StructureBatch, todo: deque[int], at_work: dict[int, list[int]]) -> None:
        while todo:
            worker = min(self._team, key=lambda w: w.unanswered)
            # the last structures wait for a free worker, not in the queue of a busy one
            if worker.unanswered >= (_DEPTH if len(todo) > len(self._team) else 1):
                return
            serial, group = next(self._serials), self._take(batch, todo)
            at_work[serial] = group
            worker.ask(serial, batch if len(batch) == len(group) else batch.select(group))

    def _take(self, batch: StructureBatch, todo: deque[int]) -> list[int]:
        """The next structure and those that the teacher evaluates together with it."""
        # smaller batches at the end, so that no worker idles while another has several structures left
        share = -(-len(todo) // (_DEPTH * len(self._team)))
        group = [todo.popleft()]
        left = (self.capabilities.batch_atoms or 0) - _count(batch, group[0])
        while todo and len(group) < share and _count(batch, todo[0]) <= left:
            group.append(todo.popleft())
            left -= _count(batch, group[-1])
        return group


class _Worker(child.ChildProcess):
    """A process with the teacher, and the number of its requests without an answer."""

    unanswered = 0

    def ask(self, serial: int, batch: StructureBatch) -> None:
        self.send({"id": serial}, child.pack_batch(batch))
        self.unanswered += 1

    def answer(self) -> messages.Message:
        message = self.receive()
        self.unanswered -= 1
        return message


def _count(batch: StructureBatch, s: int) -> int:
    return int(batch.offsets[s + 1] - batch.offsets[s])


def _unpack(
    meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], batch: StructureBatch, group: list[int]
) -> Iterator[tuple[int, Labels | LimbeckError]]:
    """A worker's answer on the structures of ``group``, one by one."""
    k = start = 0  # of the next structure and of its first atom in the arrays
    for place, s in enumerate(group):
        error = meta["errors"].get(str(place))
        if error is not None:
            yield s, child.unpack_error(error, where=name_structure(batch, s))
            continue
        stop = start + _count(batch, s)
        rows = {"energy": slice(k, k + 1), "stress": slice(k, k + 1)}
        # copies, because the arrays are read-only views of the message
        yield s, Labels(**{n: a[rows.get(n, slice(start, stop))].copy() for n, a in arrays.items()})
        k, start = k + 1, stop
