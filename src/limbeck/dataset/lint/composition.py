"""Elements and formulas against what was asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula

from limbeck.dataset.lint.finding import Finding
from limbeck.dataset.lint.material import Material

_MOST_NAMES = 4


def check_elements(material: Material) -> Iterator[Finding]:
    """Elements that were asked for and are missing, or are there unasked."""
    asked = set(material.expected.elements or ())
    if not asked and material.expected.starts is not None:
        asked = {int(z) for z in material.expected.starts.numbers}
    if not asked:
        return
    present = {int(z) for z in material.elements}
    if missing := sorted(asked - present):
        yield Finding(
            "elements-missing",
            "error",
            f"no structure holds {_symbols(missing)}, asked for",
            remedy="look where the atoms were lost (a reader, a filter, missing hydrogens)",
        )
    if strange := sorted(present - asked):
        columns = np.searchsorted(material.elements, strange)
        holding = material.counts[:, columns].any(axis=1)
        yield Finding(
            "elements-strange",
            "error",
            f"{int(holding.sum())} structures hold {_symbols(strange)}, not asked for",
            material.frames(holding),
            "remove these structures, or ask for the element",
        )


def check_formulas(material: Material) -> Iterator[Finding]:
    """Compositions that are not those of any starting structure; supercells are the same."""
    starts = material.expected.starts
    if starts is None:
        return
    known = {
        _formula(starts.numbers[a:b]) for a, b in zip(starts.offsets[:-1], starts.offsets[1:], strict=True)
    }
    own: dict[str, list[int]] = {}
    for c in np.unique(material.composition):
        members = np.flatnonzero(material.composition == c)
        own.setdefault(_formula(material.batch.numbers[material.atoms(members[0])]), []).extend(members)
    strange = {name: index for name, index in own.items() if name not in known}
    if strange:
        yield Finding(
            "formula-strange",
            "warning",
            f"compositions {_names(strange)} are not among the starting structures ({_names(known)})",
            material.frames([s for index in strange.values() for s in index]),
            "check that no atoms were lost or added",
        )


def _formula(numbers: np.ndarray) -> str:
    symbols, counts = np.unique(numbers, return_counts=True)
    whole = Formula.from_dict({chemical_symbols[z]: int(c) for z, c in zip(symbols, counts, strict=True)})
    return str(whole.reduce()[0].format("hill"))


def _symbols(numbers: list[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in numbers)


def _names(names: object) -> str:
    listed = sorted(map(str, names))  # type: ignore[call-overload]
    return ", ".join(listed[:_MOST_NAMES]) + (" ..." if len(listed) > _MOST_NAMES else "")
