"""Append-only shard files: records with a checksum each, found again whatever happened to the file.

A record is magic (8 bytes), payload length (uint64, little endian), checksum (16 bytes of BLAKE2b over
length and payload), payload. A region without a valid record is damaged; reading goes on at the next
magic that starts a valid record, so damage costs only the records it touches.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from limbeck.errors import LimbeckError

MAGIC = b"LBKREC01"
_HEADER = struct.Struct("<8sQ16s")


@dataclass(frozen=True)
class Span:
    """Bytes ``start:stop`` of a shard."""

    start: int
    stop: int


def frame(payload: bytes) -> bytes:
    """A record that holds ``payload``."""
    return _HEADER.pack(MAGIC, len(payload), _checksum(payload)) + payload


def payload_of(record: bytes | memoryview) -> memoryview:
    return memoryview(record)[_HEADER.size :]


def checksum_of(record: bytes | memoryview) -> bytes:
    return _HEADER.unpack_from(record)[2]


def scan(blob: bytes) -> tuple[list[Span], list[Span]]:
    """Valid records and damaged regions of a shard, in order; together they cover it."""
    good: list[Span] = []
    damaged: list[Span] = []
    position, broken_from = 0, None
    while position < len(blob):
        stop = _record_stop(blob, position)
        if stop is None:
            broken_from = position if broken_from is None else broken_from
            found = blob.find(MAGIC, position + 1)
            position = len(blob) if found < 0 else found
            continue
        if broken_from is not None:
            damaged.append(Span(broken_from, position))
            broken_from = None
        good.append(Span(position, stop))
        position = stop
    if broken_from is not None:
        damaged.append(Span(broken_from, len(blob)))
    return good, damaged


def append_whole(path: Path, data: bytes) -> int:
    """Append ``data``; returns where it starts. On failure the file is as it was.

    What is written survives the death of this process; :func:`sync_file` makes it survive a power cut.

    Raises
    ------
    LimbeckError: no permission, or the disk is full.
    """
    try:
        new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        start = os.fstat(descriptor).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError as error:
            # Half a record would be set aside at the next opening; better that it is not there.
            os.ftruncate(descriptor, start)
            raise cannot_write(path, error) from error
        if new:
            sync_folder(path.parent)
        return start
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Wait until what was written to a shard is on the disk; raises LimbeckError where it cannot be."""
    try:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise cannot_write(path, error) from error


def sync_folder(folder: Path) -> None:
    """Make a new file's name survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> LimbeckError:
    return LimbeckError(
        "cannot write labels",
        where=path,
        got=error.strerror or str(error),
        wanted="a writable folder with free space",
        remedy="free some space or choose another folder and run again; stored labels are kept",
    )


def _record_stop(blob: bytes, start: int) -> int | None:
    if len(blob) - start < _HEADER.size:
        return None
    magic, length, checksum = _HEADER.unpack_from(blob, start)
    stop = start + _HEADER.size + length
    if magic != MAGIC or stop > len(blob):
        return None
    payload = memoryview(blob)[start + _HEADER.size : stop]
    return stop if _checksum(payload) == checksum else None


def _checksum(payload: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(struct.pack("<Q", len(payload)), digest_size=16)
    digest.update(payload)
    return digest.digest()
