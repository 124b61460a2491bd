"""Plain values and arrays as bytes: what goes through a worker's pipe and into a label record.

Layout: length of the head (uint32, little endian), head (JSON), then each array's bytes in C order.
Nothing in it can be executed when it is read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

_LENGTH = struct.Struct("<I")
_KINDS = "biuf"


def encode(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Bytes of JSON-able ``meta`` and numeric ``arrays``."""
    # ascontiguousarray makes a scalar one-dimensional; the shape is kept beside it.
    rows = [(name, np.asarray(a)) for name, a in arrays.items()]
    head = json.dumps({"meta": dict(meta), "arrays": [[n, a.dtype.str, a.shape] for n, a in rows]}).encode()
    parts = [_LENGTH.pack(len(head)), head, *(np.ascontiguousarray(a).tobytes() for _, a in rows)]
    return b"".join(parts)


def decode_meta(data: bytes | memoryview) -> dict[str, Any]:
    """Only the plain values; raises ValueError where the bytes are not of this layout."""
    return _head(data)[0]["meta"]


def decode(data: bytes | memoryview) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
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
    if len(data) < _LENGTH.size:
        raise ValueError("too short")
    start = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    head = json.loads(bytes(data[_LENGTH.size : start]))
    if not isinstance(head, dict) or "meta" not in head or "arrays" not in head:
        raise ValueError("no head")
    return head, start
