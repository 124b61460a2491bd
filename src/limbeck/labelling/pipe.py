"""Framed messages over file descriptors between Limbeck and its workers."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError, MissingPackageError
from limbeck.labelling.codec import decode, encode

_LENGTH = struct.Struct("<Q")
_PARTS = ("what", "where", "got", "wanted", "remedy")
_CLASSES = {c.__name__: c for c in (LimbeckError, InputError, MissingPackageError)}

Message = tuple[dict[str, Any], dict[str, np.ndarray]]


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
    return {
        "numbers": batch.numbers,
        "positions": batch.positions,
        "cell": batch.cell,
        "pbc": batch.pbc,
        "offsets": batch.offsets,
        "charge": batch.charge,
        "spin": batch.spin,
    }


def unpack_batch(arrays: Mapping[str, np.ndarray]) -> StructureBatch:
    # Copies, because calculators may write into the arrays they are given.
    return StructureBatch(**{name: arrays[name].copy() for name in StructureBatch.__dataclass_fields__})


def pack_error(error: LimbeckError) -> dict[str, Any]:
    """A LimbeckError's class and parts; every part as text."""
    parts = {p: None if getattr(error, p) is None else str(getattr(error, p)) for p in _PARTS}
    name = type(error).__name__
    return {"class": name if name in _CLASSES else "LimbeckError", **parts}


def unpack_error(packed: Mapping[str, Any], where: str | None = None) -> LimbeckError:
    """The error again; ``where`` fills a place that the worker did not know."""
    parts = {p: packed[p] for p in _PARTS if p != "what"}
    parts["where"] = parts["where"] or where
    return _CLASSES[packed["class"]](packed["what"], **parts)
