"""The two errors Limbeck raises on purpose; each prints as one line.

A message says what is wrong, where, what was found, what was wanted and what to do.
"""

from __future__ import annotations


class LimbeckError(Exception):
    """Something failed while working (the command line exits with 1)."""

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        wanted: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.wanted, self.remedy = what, where, got, wanted, remedy
        text = what if where is None else f"{where}: {what}"
        parts = [text]
        if got is not None:
            parts.append(f"got {got}")
        if wanted is not None:
            parts.append(f"wanted {wanted}")
        if remedy is not None:
            parts.append(f"remedy: {remedy}")
        super().__init__("; ".join(parts).replace("\n", " "))


class WorkerDied(LimbeckError):
    """A teacher's process ended: what needs it cannot go on, and no frame is to blame."""


class InputError(LimbeckError, ValueError):
    """The user's input or usage is wrong (the command line exits with 2)."""

    exit_code = 2


class MissingPackageError(LimbeckError, ImportError):
    """An optional package is not installed (the command line exits with 2)."""

    exit_code = 2
