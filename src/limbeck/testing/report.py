"""Results of a contract check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckResult:
    """One comparison: it passes where ``error <= tolerance`` (NaN fails).

    Attributes
    ----------
    name: the property checked. system: the structure it was checked on.
    error, tolerance: in ``unit``. detail: the largest term, or the error raised.
    """

    name: str
    system: str
    error: float
    tolerance: float
    unit: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        return bool(self.error <= self.tolerance)

    def __str__(self) -> str:
        sign = "<=" if self.passed else ">"
        detail = f" ({self.detail})" if self.detail else ""
        return (
            f"{self.name} [{self.system}]: {self.error:.3g} {sign} {self.tolerance:.3g} {self.unit}{detail}"
        )


@dataclass(frozen=True)
class CheckReport:
    """All comparisons, and those skipped with the reason."""

    potential: str
    seed: int
    results: tuple[CheckResult, ...]
    skipped: tuple[str, ...]

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.results if not result.passed)

    @property
    def passed(self) -> bool:
        return bool(self.results) and not self.failures

    def __str__(self) -> str:
        count = f"{len(self.failures)} of {len(self.results)} checks failed"
        lines = [f"{self.potential}: {count}, seed {self.seed}"]
        lines += [f"  FAIL {result}" for result in self.failures]
        lines += [f"  not checked: {reason}" for reason in self.skipped]
        return "\n".join(lines)


class CheckFailure(AssertionError):
    """A Potential breaks its contract; the message lists every failed check, ``report`` has all."""

    def __init__(self, report: CheckReport) -> None:
        super().__init__(str(report))
        self.report = report
