"""Messages between a process and its children: plain values and arrays, framed, over their pipes.

A message is its length (uint64), the length of its head (uint32), the head (JSON) and each array's bytes in
C order, all little endian. Nothing in it can be executed when it is read. NumPy is all that is imported.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_LENGTH = struct.Struct("<Q")
_HEAD_LENGTH = struct.Struct("<I")
_KINDS = "biuf"

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


def open_inbox() -> tuple[queue.SimpleQueue[Message], int]:
    """In a child: requests as they come, and where answers go.

    Whatever is printed goes to standard error from now on.
    """
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
