"""Labels that cannot be right whatever the structure: not finite, zero, constant, repeated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from limbeck.core.labels import LabelledSet
from limbeck.core.neighbours import find_pairs
from limbeck.dataset.lint.finding import Finding
from limbeck.dataset.lint.material import Material
from limbeck.labelling.audit import audit

_FEW = 20
_MANY_LOST = 0.2
_FEW_LOST = 0.005
_REACH_A = 5.0
_UNEVEN = 0.01


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
    found, kept = [], finite
    if broken:
        lost = len(broken) > _MANY_LOST * len(labelled)
        found.append(
            Finding(
                "not-finite",
                "error" if lost else "warning",
                f"{len(broken)} labels are not finite ({broken[0].reason}); training leaves them out",
                tuple(d.index for d in broken),
                "compute these labels again",
            )
        )
    if large:
        lost = len(large) > _MANY_LOST * len(labelled)
        kept = finite if lost else usable
        found.append(
            Finding(
                "forces-large",
                "error" if lost else "note" if len(large) <= _FEW_LOST * len(labelled) else "warning",
                f"{len(large)} structures have forces beyond 50 eV/Å; training leaves them out",
                tuple(large),
                "check the unit of the forces" if lost else "check these calculations",
            )
        )
    return kept, found


def check_count(material: Material) -> Iterator[Finding]:
    """Too few structures to learn from."""
    if len(material.labelled) < _FEW:
        yield Finding("few-structures", "note", f"{len(material.labelled)} structures are few to learn from")


def check_zero(material: Material) -> Iterator[Finding]:
    """Forces of zero where the structure is not at rest; one energy for all structures."""
    several = material.batch.counts > 1
    zero = (material.force_rms == 0) & several
    if several.any() and zero[several].all():
        if not _lopsided(material):
            return
        yield Finding(
            "forces-zero", "error", "all forces are zero", remedy="read the forces, not a placeholder"
        )
    elif material.surrogate is not None:
        expected = np.sqrt(
            np.add.reduceat((material.surrogate.forces**2).mean(axis=1), material.batch.offsets[:-1])
            / material.batch.counts
        )
        placeholder = zero & (expected > 0.3 * np.median(material.force_rms[~zero]))
        if placeholder.any():
            yield Finding(
                "forces-zero",
                "error",
                f"{int(placeholder.sum())} structures away from equilibrium have forces of zero",
                material.frames(placeholder),
                "compute these forces, or remove the structures",
            )
    if len(material.labelled) > 2 and np.ptp(material.energy) == 0 and np.ptp(material.force_rms) > 0:
        yield Finding(
            "energy-constant",
            "error",
            f"every energy is {material.energy[0]:g} eV",
            remedy="name the right entry with --energy-key",
        )


def _lopsided(material: Material) -> bool:
    """Whether a repulsion between neighbours leaves a force on an atom: no symmetry forbids it."""
    pairs = find_pairs(material.batch, _REACH_A)
    number = np.diff(pairs.offsets)
    start = np.repeat(material.batch.offsets[:-1], number)
    first, second = pairs.first + start, pairs.second + start
    pull = pairs.vectors / pairs.distances[:, None] ** 7
    size = pairs.distances**-6.0
    total, whole = np.zeros((material.batch.n_atoms, 3)), np.zeros(material.batch.n_atoms)
    for end, sign in ((first, 1.0), (second, -1.0)):
        np.add.at(total, end, sign * pull)
        np.add.at(whole, end, size)
    return bool((np.linalg.norm(total, axis=1) > _UNEVEN * np.maximum(whole, 1e-30)).any())


def check_repeated(material: Material) -> Iterator[Finding]:
    """The same forces for different structures: labels that slipped or were copied."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for s in np.flatnonzero(material.force_rms > 0):
        groups[material.forces[material.atoms(s)].tobytes()].append(int(s))
    repeated: list[int] = []
    for members in groups.values():
        places = {material.batch.positions[material.atoms(s)].tobytes() for s in members}
        if len(places) > 1 and _shapes_differ(material, members):
            repeated += members
    if repeated:
        yield Finding(
            "labels-repeated",
            "error",
            f"{len(repeated)} different structures share their forces to the last digit",
            material.frames(repeated),
            "check how labels were joined to structures",
        )


def _shapes_differ(material: Material, members: list[int]) -> bool:
    """Not only moved as a whole."""
    surrogate = material.surrogate
    if surrogate is None:
        return True
    counts = surrogate.counts[members]
    return bool(np.abs(counts - counts[0]).max() > 1e-3)
