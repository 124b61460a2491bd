"""One thing looked at, and the record of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

#: ``ok``; ``missing`` (something else does without it); ``warning`` (works, but not as it could);
#: ``broken`` (Limbeck cannot work)
Status = Literal["ok", "missing", "warning", "broken"]


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
        return {
            "ok": not self.broken,
            "versions": dict(self.versions),
            "findings": [asdict(finding) for finding in self.findings],
        }
