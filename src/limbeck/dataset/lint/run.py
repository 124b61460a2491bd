"""All checks on labelled data, in the order in which their findings are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from limbeck.core.labels import LabelledSet, concatenate_labelled
from limbeck.core.scans import scan_mask
from limbeck.dataset.lint import (
    balance,
    composition,
    consistency,
    duplicates,
    frames,
    geometry,
    outliers,
    references,
    rounding,
    scales,
    stress,
    values,
)
from limbeck.dataset.lint.causes import causes_only
from limbeck.dataset.lint.finding import Finding, LintReport, Source, by_severity
from limbeck.dataset.lint.material import NOTHING_EXPECTED, Expected, Material
from limbeck.dataset.read import split_isolated_atoms
from limbeck.errors import InputError

Check = Callable[[Material], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    composition.check_elements,
    composition.check_formulas,
    values.check_count,
    values.check_zero,
    values.check_repeated,
    geometry.check_lengths,
    geometry.check_cells,
    geometry.check_distances,
    geometry.check_partners,
    rounding.check_rounded,
    duplicates.check_duplicates,
    duplicates.check_leak,
    references.check_total_energies,
)
#: without contact scans, whose forces are of another order
TOGETHER: tuple[Check, ...] = (
    consistency.check_work,
    frames.check_forces_fit,
    scales.check_frame_units,
    scales.check_axes,
    frames.check_force_outliers,
    frames.check_energy_frames,
    outliers.check_energy_outliers,
    references.check_references,
    stress.check_stress,
    scales.check_stress_frames,
    balance.check_net_force,
    balance.check_torque,
)


def lint(
    sets: Sequence[tuple[str, LabelledSet]],
    expected: Expected = NOTHING_EXPECTED,
    ignore: Sequence[str] = (),
) -> LintReport:
    """Look for what would spoil a training: see the checks.

    Parameters
    ----------
    sets: name and labels of each source, structures as :func:`~limbeck.core.checks.check_structures`
        accepts them. Isolated atoms are left out.
    ignore: codes whose findings are dropped.
    """
    sources = tuple(Source(name, len(labelled)) for name, labelled in sets)
    whole = concatenate_labelled([labelled for _, labelled in sets])
    part = np.repeat(np.arange(len(sets)), [s.count for s in sources])
    finite, found = values.check_finite(whole, expected.max_force_ev_per_a)
    single = whole.structures.counts[finite] == 1
    kept = finite
    try:
        rest, alone = split_isolated_atoms(whole.select(finite))
    except InputError as error:
        found.append(Finding("isolated-atoms-differ", "error", f"{error.what}: {error.got}"))
        rest, alone = whole.select(finite[~single]), {}
        kept = finite[~single]
    else:
        if alone:
            kept = finite[~_isolated(whole.select(finite))]
    if len(rest):
        names = tuple(source.name for source in sources)
        material = Material(rest, kept, part[kept], names, expected)
        for check in CHECKS:
            found += check(material)
        usual = np.flatnonzero(~scan_mask(rest.step))
        if 0 < len(usual) < len(rest):
            material = Material(rest.select(usual), kept[usual], part[kept[usual]], names, expected)
        for check in TOGETHER:
            found += check(material)
    elif not any(f.code == "not-finite" for f in found):
        found.append(Finding("no-structures", "error", "no structures but isolated atoms"))
    return LintReport(by_severity([f for f in causes_only(found) if f.code not in set(ignore)]), sources)


def _isolated(labelled: LabelledSet) -> np.ndarray:
    """Mask of the structures that :func:`~limbeck.dataset.read.split_isolated_atoms` takes out, (S,)."""
    mask = np.zeros(len(labelled), bool)
    for s in np.flatnonzero(labelled.structures.counts == 1):
        mask[s] = not len(split_isolated_atoms(labelled.select(np.array([s])))[0])
    return mask
