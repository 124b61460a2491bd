"""What the doctor found, and how it looks: versions of packages, what a short command prints.

Nothing is imported to learn its version.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

#: ``ok``; ``missing`` (something else does without it); ``warning`` (works, but not as it could);
#: ``broken`` (Limbeck cannot work)
Status = Literal["ok", "missing", "warning", "broken"]
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Finding:
    """One line of ``limbeck doctor``.

    Attributes
    ----------
    group: engine, machine, torch, teachers, exporters, optional or disk.
    detail: what was found, or what it is missing for. remedy: one command or act, where one helps.
    facts: the same as values, for programs.
    """

    group: str
    name: str
    status: Status
    detail: str
    remedy: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in the order of the report."""

    versions: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> list[Finding]:
        """Findings without whose remedy Limbeck does not work."""
        return [finding for finding in self.findings if finding.status == "broken"]

    def to_dict(self) -> dict[str, Any]:
        """``ok``, versions and findings as plain values."""
        return {"ok": not self.broken, **asdict(self)}


def package_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def module_file(name: str) -> Path | None:
    """The file of a top-level module, found without importing it; None where there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin)


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """(exit code, output, errors) of a short command; 1 and the reason where it does not start."""
    try:
        done = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_TIMEOUT_S, check=False, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, "", str(error)
    return done.returncode, done.stdout, done.stderr
