"""All checks of labelled data, in the order in which their findings are listed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from limbeck.core.labels import LabelledSet, concatenate_labelled
from limbeck.core.scans import scan_mask
from limbeck.dataset.lint import geometry, physics, values
from limbeck.dataset.lint.records import (
    NOTHING_EXPECTED,
    Expected,
    Finding,
    LintReport,
    Material,
    Source,
    finding,
)
from limbeck.dataset.read import isolated_atoms, split_isolated_atoms
from limbeck.errors import InputError

Check = Callable[[Material], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    values.check_elements,
    values.check_formulas,
    values.check_count,
    values.check_zero,
    values.check_repeated,
    geometry.check_lengths,
    geometry.check_cells,
    geometry.check_distances,
    values.check_duplicates,
    values.check_leak,
    physics.check_total_energies,
)
#: without close-contact scans, whose forces are larger by orders of magnitude
TOGETHER: tuple[Check, ...] = (
    physics.check_forces,
    physics.check_energies,
    physics.check_stress,
    geometry.check_balance,
)
_SEVERITY = ("error", "warning", "note")
_STRESS = ("stress-order", "stress-sign", "stress-unchecked", "stress-unit")
_WORK = ("energies-unrelated", "energy-forces-unit", "forces-sign", *_STRESS)
_FRAMES = ("frames-sign", "forces-unrelated", "energy-reference", "energy-outliers")
#: code -> findings that are consequences of it
FOLLOWS: dict[str, tuple[str, ...]] = {
    "positions-unit": (*_WORK, *_FRAMES, "close-atoms", "lone-atoms"),
    "forces-zero": _WORK,
    "energy-constant": _WORK,
    "energies-unrelated": _STRESS,
    "energy-forces-unit": (*_STRESS, "forces-large", "energy-reference", "energy-outliers"),
    "forces-sign": _STRESS,
    "forces-unrelated": ("net-torque",),
    "pbc-missing": ("net-torque", "lone-atoms"),
}


def lint(
    sets: Sequence[tuple[str, LabelledSet]], expected: Expected = NOTHING_EXPECTED, ignore: Sequence[str] = ()
) -> LintReport:
    """Run the checks.

    Parameters
    ----------
    sets: name and labels of each source, with structures that
        :func:`~limbeck.core.checks.check_structures` accepts. Isolated atoms are left out.
    ignore: codes of findings to drop.
    """
    sources = tuple(Source(name, len(labelled)) for name, labelled in sets)
    whole = concatenate_labelled([labelled for _, labelled in sets])
    kept, found = values.check_finite(whole, expected.max_force_ev_per_a)
    try:
        split_isolated_atoms(whole.select(kept))
    except InputError as error:
        found.append(finding("isolated-atoms-differ", "error", f"{error.what}: {error.got}"))
    kept = kept[~isolated_atoms(whole.structures)[kept]]
    if len(kept):
        material = Material(whole.select(kept), kept, expected)
        for check in CHECKS:
            found += check(material)
        usual = kept[~scan_mask(whole.config_type[kept])]
        if 0 < len(usual) < len(kept):
            material = Material(whole.select(usual), usual, expected)
        for check in TOGETHER:
            found += check(material)
    elif not any(f.code == "not-finite" for f in found):
        found.append(finding("no-structures", "error", "isolated atoms only"))
    found = [f for f in _causes(found) if f.code not in ignore]
    return LintReport(tuple(sorted(found, key=lambda f: _SEVERITY.index(f.severity))), sources)


def _causes(findings: Sequence[Finding]) -> list[Finding]:
    """Findings that are no consequence of another one."""
    silent = {
        code
        for one in findings
        if one.severity == "error" or one.code == "pbc-missing"
        for code in FOLLOWS.get(one.code, ())
    }
    kept = [one for one in findings if one.code not in silent]
    # bonds determine a unit better than total energies, which include core electrons in some codes only
    named = "".join(one.message for one in kept if one.code == "energy-forces-unit")
    return [
        one
        for one in kept
        if one.code != "energy-unit" or not named or f"in {one.message.rpartition(' in ')[2]} with" in named
    ]
