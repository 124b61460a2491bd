"""Messages between a process and its children: plain values and arrays, framed, over their pipes.

A message is its length (uint64), the length of its head (uint32), the head (JSON) and each array's bytes in
C order, all little endian. Nothing in it can be executed when it is read; label records have the same form.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError, MissingPackageError, WorkerDied

_LENGTH = struct.Struct("<Q")
_HEAD_LENGTH = struct.Struct("<I")
_KINDS = "biuf"
_PARTS = ("where", "got", "wanted", "remedy")
_CLASSES = {c.__name__: c for c in (LimbeckError, InputError, MissingPackageError)}
_TAIL_LINES = 40
_GRACE_S = 5.0

Message = tuple[dict[str, Any], dict[str, np.ndarray]]


def encode(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Bytes of JSON-able ``meta`` and numeric ``arrays``."""
    # ascontiguousarray makes a scalar one-dimensional; the shape is kept beside it.
    rows = [(name, np.asarray(a)) for name, a in arrays.items()]
    head = json.dumps({"meta": dict(meta), "arrays": [[n, a.dtype.str, a.shape] for n, a in rows]}).encode()
    parts = [_HEAD_LENGTH.pack(len(head)), head, *(np.ascontiguousarray(a).tobytes() for _, a in rows)]
    return b"".join(parts)


def decode_meta(data: bytes | memoryview) -> dict[str, Any]:
    """Only the plain values; raises ValueError where the bytes are not of this layout."""
    return _head(data)[0]["meta"]


def decode(data: bytes | memoryview) -> Message:
    """Values and arrays (read-only views); raises ValueError where the bytes are not of this layout."""
    head, position = _head(data)
    arrays = {}
    for name, text, shape in head["arrays"]:
        dtype = np.dtype(text)
        if dtype.kind not in _KINDS:
            raise ValueError(f"array {name!r} has the forbidden dtype {text}")
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(data, dtype, count, position).reshape(shape)
        position += count * dtype.itemsize
    return head["meta"], arrays


def _head(data: bytes | memoryview) -> tuple[dict[str, Any], int]:
    if len(data) < _HEAD_LENGTH.size:
        raise ValueError("too short")
    start = _HEAD_LENGTH.size + _HEAD_LENGTH.unpack_from(data)[0]
    head = json.loads(bytes(data[_HEAD_LENGTH.size : start]))
    if not isinstance(head, dict) or "meta" not in head or "arrays" not in head:
        raise ValueError("no head")
    return head, start


def send(descriptor: int, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Write one message whole; raises BrokenPipeError where nobody reads."""
    data = encode(meta, arrays or {})
    view = memoryview(_LENGTH.pack(len(data)) + data)
    while view:
        view = view[os.write(descriptor, view) :]


def receive(descriptor: int, wait: Callable[[], None] | None = None) -> Message | None:
    """Read one message, or None at the end of the stream; ``wait`` is called before each read."""
    head = _read(descriptor, _LENGTH.size, wait)
    data = None if head is None else _read(descriptor, _LENGTH.unpack(head)[0], wait)
    return None if data is None else decode(data)


def _read(descriptor: int, size: int, wait: Callable[[], None] | None) -> bytes | None:
    parts, left = [], size
    while left:
        if wait is not None:
            wait()
        part = os.read(descriptor, min(left, 1 << 20))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


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


# The child's side


def open_inbox() -> tuple[queue.SimpleQueue[Message], int]:
    """Requests as they come, and where answers go; whatever is printed goes to standard error from now on."""
    # Ctrl-C reaches the whole process group; the parent decides what becomes of the work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests_in, answers_out = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests_in, inbox), daemon=True).start()
    return inbox, answers_out


def _listen(descriptor: int, inbox: queue.SimpleQueue[Message]) -> None:
    """Fill the inbox at all times, so that the parent never blocks while it writes.

    The end of the stream ends the process, in the middle of an evaluation too: nobody waits for it.
    A child that the parent forked may hold the pipe open, so the parent's id is watched as well.
    """
    parent = os.getppid()

    def wait() -> None:
        while not select.select([descriptor], [], [], 1.0)[0]:
            if os.getppid() != parent:
                os._exit(0)

    while (message := receive(descriptor, wait)) is not None:
        inbox.put(message)
    os._exit(0)


# The parent's side


class ChildProcess:
    """A process that answers messages: its pipes, and the last lines it wrote to standard error.

    Its death raises WorkerDied, which names ``where``.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], where: str) -> None:
        self.where = where
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
        try:
            send(self.requests, meta, arrays)
        except BrokenPipeError as error:
            raise self._death() from error

    def receive(self) -> Message:
        if (message := receive(self.answers)) is None:
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
        return WorkerDied(
            "a worker process died",
            where=self.where,
            got=cause + (f", its last words: {lines}" if lines else ""),
            remedy="SIGKILL often means that memory ran out: use fewer workers; labels so far are kept",
        )


def thread_counts(threads: int) -> dict[str, str]:
    """Environment variables that give a child its threads, and its words at once."""
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {**dict.fromkeys(counts, str(threads)), "PYTHONUNBUFFERED": "1"}
