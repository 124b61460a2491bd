"""Which findings only follow from others: the cause is told, what depends on it says nothing."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.dataset.lint.finding import Finding

_STRESS = ("stress-order", "stress-sign", "stress-unchecked", "stress-unit")
_SINGLE = (
    "frames-energy", "energy-outliers", "frames-forces", "frames-sign", "force-outliers", "frames-unit",
    "forces-axes",
)  # fmt: skip
_TOGETHER = ("energies-unrelated", "energy-forces-unit", "forces-sign")
#: an error of the first kind makes the checks behind the others meaningless
FOLLOWS: dict[str, tuple[str, ...]] = {
    "positions-unit": (*_STRESS, *_SINGLE, *_TOGETHER, "forces-unrelated", "close-atoms", "lone-atoms"),
    "forces-zero": (*_STRESS, "frames-energy", *_TOGETHER),
    "energy-constant": (*_STRESS, "frames-energy", *_TOGETHER),
    "energy-reference": ("frames-energy", *_TOGETHER),
    "forces-unrelated": (*_STRESS, *_SINGLE, *_TOGETHER, "net-torque"),
    "energies-unrelated": (*_STRESS, "frames-energy", "energy-forces-unit", "forces-sign"),
    "energy-forces-unit": (*_STRESS, "frames-energy", "energy-outliers", "force-outliers"),
    "forces-sign": (*_STRESS, "frames-energy"),
    "forces-axes": ("frames-unit", "frames-forces"),
    "frames-unit": ("frames-energy", "force-outliers"),
    "pbc-missing": ("net-torque", "lone-atoms"),
}
_EVEN_WARNINGS = ("pbc-missing",)


def causes_only(findings: Sequence[Finding]) -> list[Finding]:
    """Without those that follow from another one."""
    silent = {
        code
        for finding in findings
        if finding.severity == "error" or finding.code in _EVEN_WARNINGS
        for code in FOLLOWS.get(finding.code, ())
    }
    kept = [finding for finding in findings if finding.code not in silent]
    units = [f.message for f in kept if f.code == "energy-forces-unit" and "looks like" in f.message]
    return [finding for finding in kept if not units or _stands_beside(finding, units)]


def _stands_beside(finding: Finding, units: Sequence[str]) -> bool:
    """Forces are large because of the unit that was named; and bonds are surer of that unit than total
    energies, which hold core electrons in some codes only."""
    if finding.code == "energy-unit":
        named = finding.message.rpartition(" in ")[2]
        return any(f"energies in {named} " in text for text in units)
    return finding.code != "forces-large"
