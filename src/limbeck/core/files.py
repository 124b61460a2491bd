"""Atomic writing of files: to a temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from limbeck.errors import LimbeckError


def write_whole(path: Path | str, data: bytes | str | Callable[[Path], None]) -> None:
    """Write ``data`` (or let ``data(temporary_path)`` write it) so that ``path`` is old or new.

    Raises
    ------
    LimbeckError: the folder cannot be written or the disk is full; the old file stays.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        if callable(data):
            data(temporary)
        else:
            temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise LimbeckError(
            "cannot write the file",
            where=path,
            got=error.strerror or str(error),
            wanted="a writable folder with free space",
            remedy="choose another --out or free some space; nothing was overwritten",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
