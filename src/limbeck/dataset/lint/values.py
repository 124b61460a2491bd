"""Labels, elements and duplicates: checks that need no physics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula

from limbeck.core.audit import audit
from limbeck.core.labels import LabelledSet, concatenate_labelled
from limbeck.core.neighbours import find_pairs
from limbeck.dataset.lint.close import RATTLED_A, SAME_STRAIN, find_close
from limbeck.dataset.lint.records import Finding, Material, Severity, finding

_FEW = 20
_MANY_LOST = 0.2  # share of the labels
_MANY_TWICE = 0.01
_FEW_LARGE = 0.005
_CUTOFF_A = 5.0
_UNEVEN = 0.01  # of the sum of repulsions on an atom
_MOVED_A = 1e-3
_MOST_NAMES = 4
_SAME_A, _COPY_A = 1e-4, 1e-6  # rounded positions; copies that training leaves out
_ENERGY_EV_PER_ATOM, _FORCE_EV_PER_A = 1e-3, 0.05  # labels that differ by more contradict one another


def check_finite(
    labelled: LabelledSet, max_force_ev_per_a: float | None = None
) -> tuple[np.ndarray, list[Finding]]:
    """Indices of the labels that training would use, and findings on those that its audit drops.

    Where many forces are too large, their unit is the likely cause, and they stay for the other checks.
    With a limit of the user's own there are no findings, as the audit reports what it drops.
    """
    if max_force_ev_per_a is not None:
        return audit(labelled, max_force_ev_per_a=max_force_ev_per_a)[0], []
    finite, broken = audit(labelled, max_force_ev_per_a=np.inf)
    usable, dropped = audit(labelled)
    large = sorted({d.index for d in dropped} - {d.index for d in broken})
    many = len(large) > _MANY_LOST * len(labelled)
    found = []
    if broken:
        text = f"{len(broken)} labels are not finite ({broken[0].reason}); training leaves them out"
        severity: Severity = "error" if len(broken) > _MANY_LOST * len(labelled) else "warning"
        found.append(finding("not-finite", severity, text, tuple(d.index for d in broken)))
    if large:
        text = f"{len(large)} structures have forces beyond 50 eV/Å; training leaves them out"
        few = len(large) <= _FEW_LARGE * len(labelled)
        severity = "error" if many else "note" if few else "warning"
        found.append(finding("forces-large", severity, text, tuple(large)))
    return finite if many else usable, found


def check_count(material: Material) -> Iterator[Finding]:
    """Too few structures to learn from."""
    if (count := len(material.labelled)) < _FEW:
        yield finding("few-structures", "note", f"{count} structures are few to learn from")


def check_zero(material: Material) -> Iterator[Finding]:
    """Forces of zero without a symmetry that requires it, one energy for all, stresses of zero."""
    zero = (material.force_rms == 0) & (material.batch.counts > 1)
    if zero.any():
        text = "all forces are zero in {n} structures without a symmetry that requires it"
        yield from material.found("forces-zero", "error", text, zero & _asymmetric(material))
    gone = ~material.forces.any(axis=0) & (np.ptp(material.batch.positions, axis=0) > _MOVED_A)
    if gone.any() and not gone.all() and len(material.labelled) >= _FEW:
        axes = ", ".join(name for name, missing in zip("xyz", gone, strict=True) if missing)
        yield finding("forces-axes", "warning", f"the {axes} components of all forces are zero")
    if len(material.labelled) > 2 and np.ptp(material.energy) == 0 and np.ptp(material.force_rms) > 0:
        yield finding("energy-constant", "error", f"every energy is {material.energy[0]:g} eV")
    stress = material.labelled.labels.stress
    if stress is not None and material.force_rms.any():
        none = material.has_stress & ~stress.any(axis=(1, 2))
        many = none.sum() > 0.01 * len(none)
        text = "the stresses of {n} structures are exactly zero"
        yield from material.found("stress-zero", "error" if many else "warning", text, none)


def _asymmetric(material: Material) -> np.ndarray:
    """(S,) bool: a repulsion between neighbours leaves a force on an atom, so no symmetry forbids one."""
    batch = material.batch
    pairs = find_pairs(batch, _CUTOFF_A)
    start = np.repeat(batch.offsets[:-1], np.diff(pairs.offsets))
    pull = pairs.vectors / pairs.distances[:, None] ** 7
    size = pairs.distances**-6.0
    total, whole = np.zeros((batch.n_atoms, 3)), np.full(batch.n_atoms, 1e-30)
    for end, sign in ((pairs.first + start, 1.0), (pairs.second + start, -1.0)):
        np.add.at(total, end, sign * pull)
        np.add.at(whole, end, size)
    uneven = np.linalg.norm(total, axis=1) > _UNEVEN * whole
    return np.logical_or.reduceat(uneven, batch.offsets[:-1])


def check_repeated(material: Material) -> Iterator[Finding]:
    """The same forces for different structures: labels were shifted or copied."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for s in np.flatnonzero(material.force_rms > 1e-6):
        groups[material.forces[material.atoms(s)].tobytes()].append(int(s))
    different = [m for m in groups.values() if any(_differ(material, m[0], other) for other in m[1:])]
    text = "{n} different structures share their forces to the last digit"
    yield from material.found("labels-repeated", "error", text, [s for m in different for s in m])


def _differ(material: Material, one: int, two: int) -> bool:
    """By more than a translation or lattice vectors."""
    batch = material.batch
    move = batch.positions[material.atoms(two)] - batch.positions[material.atoms(one)]
    move -= move[0]
    cell = batch.cell[one] * batch.pbc[one][:, None]
    move -= np.round(move @ np.linalg.pinv(cell)) @ cell
    return bool(np.abs(move).max() > _MOVED_A)


def check_elements(material: Material) -> Iterator[Finding]:
    """Elements that are missing or unexpected, or only in the validation set."""
    expected, present = material.expected, {int(z) for z in material.elements}
    asked = set(expected.elements or ())
    if not asked and expected.starts is not None:
        asked = {int(z) for z in expected.starts.numbers}
    if asked and (missing := sorted(asked - present)):
        yield finding("elements-missing", "error", f"no structure holds {_symbols(missing)}, asked for")
    if asked and (unexpected := sorted(present - asked)):
        having = material.counts[:, np.searchsorted(material.elements, unexpected)].any(axis=1)
        text = f"{{n}} structures hold {_symbols(unexpected)}, not asked for"
        yield from material.found("elements-unexpected", "error", text, having)
    validating = () if expected.validation is None else expected.validation.structures.numbers
    if untrained := sorted({int(z) for z in validating} - present):
        text = f"the validation set holds {_symbols(untrained)}, which no training structure holds"
        yield finding("elements-missing", "error", text)


def check_formulas(material: Material) -> Iterator[Finding]:
    """Compositions that no starting structure has; supercells count as the same."""
    starts = material.expected.starts
    if starts is None:
        return
    known = {_formula(part) for part in np.split(starts.numbers, starts.offsets[1:-1])}
    own: dict[str, list[int]] = defaultdict(list)
    for c in np.unique(material.composition):
        members = np.flatnonzero(material.composition == c)
        own[_formula(material.batch.numbers[material.atoms(members[0])])] += members.tolist()
    unexpected = sorted(set(own) - known)
    text = f"compositions {_names(unexpected)} are not among the starting structures ({_names(known)})"
    frames = [s for name in unexpected for s in own[name]]
    yield from material.found("formula-unexpected", "warning", text, frames)


def _formula(numbers: np.ndarray) -> str:
    symbols, counts = np.unique(numbers, return_counts=True)
    whole = Formula.from_dict({chemical_symbols[z]: int(c) for z, c in zip(symbols, counts, strict=True)})
    return str(whole.reduce()[0].format("hill"))


def _symbols(numbers: list[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in numbers)


def _names(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:_MOST_NAMES]) + (" ..." if len(listed) > _MOST_NAMES else "")


def check_duplicates(material: Material) -> Iterator[Finding]:
    """Structures equal up to translation, rotation of molecules and rounding; their labels may differ."""
    close = material.close
    same = (close.distance < _SAME_A) & (close.strain < SAME_STRAIN)
    first, second = close.first[same], close.second[same]
    de = np.abs(close.de[same]) / material.batch.counts[first]
    df = np.abs(material.force_rms[first] - material.force_rms[second])
    differ = (de > _ENERGY_EV_PER_ATOM) | (df > _FORCE_EV_PER_A)
    most = de[differ].max(initial=0.0) * 1e3
    text = f"equal structures have different labels ({int(differ.sum())} pairs, up to {most:.0f} meV/atom)"
    both = np.concatenate([first[differ], second[differ]])
    yield from material.found("duplicates-differ", "error", text, both)
    alike = np.unique(second[~differ])
    many = len(alike) > max(_MANY_TWICE * len(material.labelled), 1)
    text = "{n} structures repeat an earlier one"
    yield from material.found("duplicates", "warning" if many else "note", text, alike)


def check_leak(material: Material) -> Iterator[Finding]:
    """Validation structures that are also, or nearly, in the training data; common groups."""
    validation = material.expected.validation
    if validation is None or not len(validation):
        return
    count = len(material.labelled)
    near = find_close(concatenate_labelled([material.labelled, validation]))
    across = (near.first < count) & (near.second >= count) & near.leaks
    if material.expected.copies_removed:
        across &= near.distance > _COPY_A
    leaked = len(np.unique(near.second[across]))
    text = (
        f"{leaked} of {len(validation)} validation structures are in the training data, or within "
        f"{RATTLED_A} Å of a training structure"
    )
    many = leaked > 0.01 * len(validation)
    yield from material.found("leak", "error" if many else "warning", text, near.first[across])
    common = sorted((set(material.labelled.group) & set(validation.group)) - {""})
    text = f"{len(common)} groups are in both sets ({', '.join(common[:1])}, ...)"
    yield from material.found("leak-group", "warning", text, np.isin(material.labelled.group, common))
