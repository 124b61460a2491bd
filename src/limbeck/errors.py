"""Limbeck's errors, each one line: the fault, where, what was got and wanted, and the remedy."""

from __future__ import annotations


class LimbeckError(Exception):
    """A failure at work (the command line exits with 1)."""

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
        labels = {"got ": got, "wanted ": wanted, "remedy: ": remedy}
        parts = [f"{label}{value}" for label, value in labels.items() if value is not None]
        text = what if where is None else f"{where}: {what}"
        super().__init__("; ".join([text, *parts]).replace("\n", " "))


class WorkerDied(LimbeckError):
    """A teacher's process ended; the frame being evaluated is not the cause."""


class InputError(LimbeckError, ValueError):
    """Invalid input or usage (the command line exits with 2)."""

    exit_code = 2


class MissingPackageError(LimbeckError, ImportError):
    """An optional package is not installed (the command line exits with 2)."""

    exit_code = 2
