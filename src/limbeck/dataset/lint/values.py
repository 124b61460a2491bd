"""Labels, elements and repetitions: what is wrong whatever the physics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula

from limbeck.core.labels import LabelledSet, concatenate_labelled
from limbeck.core.neighbours import find_pairs
from limbeck.dataset.lint.close import RATTLED_A, SAME_STRAIN, find_close
from limbeck.dataset.lint.records import Finding, Material, Severity, finding
from limbeck.labelling.audit import audit

_FEW = 20
_MANY_LOST = 0.2  # share of the labels
_MANY_TWICE = 0.01
_FEW_LARGE = 0.005
_REACH_A = 5.0
_UNEVEN = 0.01  # of the sum of repulsions on an atom
_MOVED_A = 1e-3
_MOST_NAMES = 4
_SAME_A, _COPY_A = 1e-4, 1e-6  # rounded positions; what is removed as a copy
_ENERGY_EV_PER_ATOM, _FORCE_EV_PER_A = 1e-3, 0.05  # labels that differ by more contradict one another


def check_finite(
    labelled: LabelledSet, max_force_ev_per_a: float | None = None
) -> tuple[np.ndarray, list[Finding]]:
    """Indices of the labels that training would use, and findings on those that its audit drops.

    Where forces are large in many, their unit is wrong as a rule, and they stay for the other checks.
    With a limit of the user's own, nothing is found and the audit tells.
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
        lost = len(broken) > _MANY_LOST * len(labelled)
        found.append(
            finding("not-finite", "error" if lost else "warning", text, tuple(d.index for d in broken))
        )
    if large:
        text = f"{len(large)} structures have forces beyond 50 eV/Å; training leaves them out"
        few = len(large) <= _FEW_LARGE * len(labelled)
        severity: Severity = "error" if many else "note" if few else "warning"
        found.append(finding("forces-large", severity, text, tuple(large)))
    return finite if many else usable, found


def check_count(material: Material) -> Iterator[Finding]:
    """Too few structures to learn from."""
    if (count := len(material.labelled)) < _FEW:
        yield finding("few-structures", "note", f"{count} structures are few to learn from")


def check_zero(material: Material) -> Iterator[Finding]:
    """Forces of zero where no symmetry asks for it; one energy for all; stresses of zero beside forces."""
    zero = (material.force_rms == 0) & (material.batch.counts > 1)
    if zero.any() and (zero := zero & _lopsided(material)).any():
        text = f"all forces are zero in {int(zero.sum())} structures that no symmetry holds"
        yield finding("forces-zero", "error", text, material.frames(zero))
    gone = ~material.forces.any(axis=0) & (np.ptp(material.batch.positions, axis=0) > _MOVED_A)
    if gone.any() and not gone.all() and len(material.labelled) >= _FEW:
        axes = ", ".join(name for name, missing in zip("xyz", gone, strict=True) if missing)
        yield finding("forces-axes", "warning", f"the {axes} components of all forces are zero")
    if len(material.labelled) > 2 and np.ptp(material.energy) == 0 and np.ptp(material.force_rms) > 0:
        yield finding("energy-constant", "error", f"every energy is {material.energy[0]:g} eV")
    stress = material.labelled.labels.stress
    if stress is not None and material.force_rms.any():
        none = material.has_stress & ~stress.any(axis=(1, 2))
        if none.any():
            text = f"the stresses of {int(none.sum())} structures are exactly zero"
            many = none.sum() > 0.01 * len(none)
            yield finding("stress-zero", "error" if many else "warning", text, material.frames(none))


def _lopsided(material: Material) -> np.ndarray:
    """(S,) bool: a repulsion between neighbours leaves a force on an atom, so no symmetry forbids one."""
    batch = material.batch
    pairs = find_pairs(batch, _REACH_A)
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
    """The same forces for different structures: labels that slipped or were copied."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for s in np.flatnonzero(material.force_rms > 1e-6):
        groups[material.forces[material.atoms(s)].tobytes()].append(int(s))
    repeated: list[int] = []
    for members in groups.values():
        if any(_shapes_differ(material, members[0], other) for other in members[1:]):
            repeated += members
    if repeated:
        text = f"{len(repeated)} different structures share their forces to the last digit"
        yield finding("labels-repeated", "error", text, material.frames(repeated))


def _shapes_differ(material: Material, one: int, two: int) -> bool:
    """Not only moved as a whole, or by periods."""
    batch = material.batch
    move = batch.positions[material.atoms(two)] - batch.positions[material.atoms(one)]
    move -= move[0]
    cell = batch.cell[one] * batch.pbc[one][:, None]
    move -= np.round(move @ np.linalg.pinv(cell)) @ cell
    return bool(np.abs(move).max() > _MOVED_A)


def check_elements(material: Material) -> Iterator[Finding]:
    """Elements that were asked for and are missing, or are there unasked; elements that only validate."""
    expected, present = material.expected, {int(z) for z in material.elements}
    asked = set(expected.elements or ())
    if not asked and expected.starts is not None:
        asked = {int(z) for z in expected.starts.numbers}
    if asked and (missing := sorted(asked - present)):
        yield finding("elements-missing", "error", f"no structure holds {_symbols(missing)}, asked for")
    if asked and (suspicious := sorted(present - asked)):
        holding = material.counts[:, np.searchsorted(material.elements, suspicious)].any(axis=1)
        text = f"{int(holding.sum())} structures hold {_symbols(suspicious)}, not asked for"
        yield finding("elements-suspicious", "error", text, material.frames(holding))
    held = () if expected.validation is None else expected.validation.structures.numbers
    if untrained := sorted({int(z) for z in held} - present):
        text = f"the validation set holds {_symbols(untrained)}, which no training structure holds"
        yield finding("elements-missing", "error", text)


def check_formulas(material: Material) -> Iterator[Finding]:
    """Compositions that are not those of any starting structure; supercells are the same."""
    starts = material.expected.starts
    if starts is None:
        return
    known = {_formula(part) for part in np.split(starts.numbers, starts.offsets[1:-1])}
    own: dict[str, list[int]] = defaultdict(list)
    for c in np.unique(material.composition):
        members = np.flatnonzero(material.composition == c)
        own[_formula(material.batch.numbers[material.atoms(members[0])])] += members.tolist()
    if suspicious := sorted(set(own) - known):
        text = f"compositions {_names(suspicious)} are not among the starting structures ({_names(known)})"
        frames = material.frames([s for name in suspicious for s in own[name]])
        yield finding("formula-suspicious", "warning", text, frames)


def _formula(numbers: np.ndarray) -> str:
    symbols, counts = np.unique(numbers, return_counts=True)
    whole = Formula.from_dict({chemical_symbols[z]: int(c) for z, c in zip(symbols, counts, strict=True)})
    return str(whole.reduce()[0].format("hill"))


def _symbols(numbers: list[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in numbers)


def _names(names: object) -> str:
    listed = sorted(map(str, names))  # type: ignore[call-overload]
    return ", ".join(listed[:_MOST_NAMES]) + (" ..." if len(listed) > _MOST_NAMES else "")


def check_duplicates(material: Material) -> Iterator[Finding]:
    """Structures equal up to translation, rotation of molecules, and rounding; with different labels one of
    them is wrong."""
    close = material.close
    same = (close.distance < _SAME_A) & (close.strain < SAME_STRAIN)
    first, second = close.first[same], close.second[same]
    de = np.abs(close.de[same]) / material.batch.counts[first]
    df = np.abs(material.force_rms[first] - material.force_rms[second])
    differ = (de > _ENERGY_EV_PER_ATOM) | (df > _FORCE_EV_PER_A)
    if differ.any():
        most = de[differ].max() * 1e3
        text = (
            f"equal structures have different labels ({int(differ.sum())} pairs, up to {most:.0f} meV/atom)"
        )
        frames = material.frames(np.concatenate([first[differ], second[differ]]))
        yield finding("duplicates-differ", "error", text, frames)
    if len(alike := np.unique(second[~differ])):
        many = len(alike) > max(_MANY_TWICE * len(material.labelled), 1)
        text = f"{len(alike)} structures repeat an earlier one"
        yield finding("duplicates", "warning" if many else "note", text, material.frames(alike))


def check_leak(material: Material) -> Iterator[Finding]:
    """Validation structures that are also, or nearly, in the training data; common groups."""
    held = material.expected.validation
    if held is None or not len(held):
        return
    count = len(material.labelled)
    near = find_close(concatenate_labelled([material.labelled, held]))
    across = (near.first < count) & (near.second >= count) & near.leaks
    if material.expected.copies_removed:
        across &= near.distance > _COPY_A
    leaked = np.unique(near.second[across])
    if len(leaked):
        text = (
            f"{len(leaked)} of {len(held)} validation structures are in the training data, or within "
            f"{RATTLED_A} Å of one"
        )
        many = len(leaked) > 0.01 * len(held)
        yield finding("leak", "error" if many else "warning", text, material.frames(near.first[across]))
    if common := sorted((set(material.labelled.group) & set(held.group)) - {""}):
        text = f"{len(common)} groups are on both sides ({common[0]}, ...)"
        yield finding(
            "leak-group", "warning", text, material.frames(np.isin(material.labelled.group, common))
        )
