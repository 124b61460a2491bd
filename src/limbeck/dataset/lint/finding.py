"""What lint found: findings with frames and remedies, and how they are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, Literal

from limbeck.errors import InputError

Severity = Literal["error", "warning", "note"]
_ORDER = {"error": 0, "warning": 1, "note": 2}
_MOST_FRAMES = 5  # named in a line; all of them are in the JSON


CODES = (
    "cell-small", "close-atoms", "duplicates", "duplicates-differ", "duplicates-equivalent",
    "elements-misplaced", "elements-missing", "elements-strange", "energies-unrelated", "energy-constant",
    "energy-forces-unit", "energy-outliers", "energy-reference", "energy-unit", "few-structures",
    "force-outliers", "forces-axes", "forces-constrained", "forces-large", "forces-sign", "forces-unrelated",
    "forces-zero", "formula-strange", "frames-energy", "frames-forces", "frames-sign", "frames-unit",
    "isolated-atoms-differ", "labels-repeated", "leak", "leak-family", "lone-atoms", "net-force",
    "net-torque", "no-structures", "not-finite", "pbc-differs", "pbc-missing", "positions-unit", "rounded",
    "stress-order", "stress-sign", "stress-unchecked", "stress-unit", "stress-zero",
)  #: every code there is  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or looks wrong, with labelled data.

    Attributes
    ----------
    code: what ``lint.ignore`` names, such as ``forces-sign``.
    severity: an error stops training, a warning is said, a note only listed.
    message: what was found, with figures.
    frames: places among the structures as read, in order; empty where the whole set is meant.
    remedy: what to do.
    """

    code: str
    severity: Severity
    message: str
    frames: tuple[int, ...] = ()
    remedy: str = ""


@dataclass(frozen=True)
class Source:
    """A file or label store and the number of structures read from it."""

    name: str
    count: int


@dataclass(frozen=True)
class LintReport:
    """Findings on the structures of ``sources``, errors first."""

    findings: tuple[Finding, ...]
    sources: tuple[Source, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "warning")

    @property
    def count(self) -> int:
        return sum(source.count for source in self.sources)

    def frame_name(self, frame: int) -> str:
        """``file:12``, or the number alone where there is one source."""
        rest = frame
        for source in self.sources:
            if rest < source.count:
                return str(rest) if len(self.sources) == 1 else f"{source.name}:{rest}"
            rest -= source.count
        raise IndexError(frame)

    def line(self, finding: Finding) -> str:
        """``error forces-sign: ...; frames 3, 7 and 12 more; remedy: ...``"""
        text = f"{finding.severity} {finding.code}: {finding.message}"
        if finding.frames:
            named = ", ".join(self.frame_name(f) for f in finding.frames[:_MOST_FRAMES])
            more = len(finding.frames) - _MOST_FRAMES
            text += f"; {'frame' if len(finding.frames) == 1 else 'frames'} {named}"
            text += f" and {more} more" if more > 0 else ""
        return text + (f"; remedy: {finding.remedy}" if finding.remedy else "")

    def lines(self) -> list[str]:
        """One line a finding."""
        return [self.line(finding) for finding in self.findings]

    def summary(self) -> str:
        errors, warnings = len(self.errors), len(self.warnings)
        return (
            f"{errors} {'error' if errors == 1 else 'errors'}, "
            f"{warnings} {'warning' if warnings == 1 else 'warnings'} in {self.count} structures"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; frames of several sources as ``file:number``."""
        findings = [
            asdict(f) | {"frames": [self.frame_name(k) if len(self.sources) > 1 else k for k in f.frames]}
            for f in self.findings
        ]
        return {
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "structures": self.count,
            "sources": [asdict(source) for source in self.sources],
            "findings": findings,
        }


def check_codes(codes: Sequence[str]) -> None:
    """InputError where a code is none of ``CODES``."""
    for code in codes:
        if code not in CODES:
            near = get_close_matches(code, CODES, 1)
            raise InputError(
                "no such finding",
                got=repr(code),
                wanted="a code that limbeck lint lists",
                remedy=f"did you mean {near[0]!r}?" if near else None,
            )


def by_severity(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors, warnings, notes; within each in the order found."""
    return tuple(sorted(findings, key=lambda finding: _ORDER[finding.severity]))
