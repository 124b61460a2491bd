"""Checks that a teacher supports structures, made before labelling."""

from __future__ import annotations

import numpy as np
from ase.data import chemical_symbols
from ase.symbols import Symbols

from limbeck.core.checks import compared, first_other
from limbeck.core.potential import Capabilities
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.teachers.card import TeacherCard


def name_structure(batch: StructureBatch, s: int) -> str:
    """``structure 3 (C2H6O)``, counted from 0 as in Python."""
    numbers = batch.numbers[batch.offsets[s] : batch.offsets[s + 1]]
    return f"structure {s} ({Symbols(numbers).get_chemical_formula()})"


def describe_elements(elements: frozenset[int]) -> str:
    """Symbols, with consecutive elements as ``H-Bi``."""
    ordered, parts = sorted(elements), []
    for start in (z for z in ordered if z - 1 not in elements):
        end = start
        while end + 1 in elements:
            end += 1
        run = [chemical_symbols[z] for z in range(start, end + 1)]
        parts.append(f"{run[0]}-{run[-1]}" if len(run) > 3 else ", ".join(run))
    return ", ".join(parts)


def check_supported(card: TeacherCard, batch: StructureBatch) -> None:
    """Raise InputError for the first structure that the teacher does not support.

    Checked are elements (some teachers accept elements for which they are untrained), periodicity, total
    charge and spin.
    """
    check_charges(card.name, card, batch)
    foreign = np.zeros(0, bool) if card.elements is None else ~np.isin(batch.numbers, list(card.elements))
    if card.elements is not None and foreign.any():
        first = int(batch.structure_of_atom[np.flatnonzero(foreign)[0]])
        names = ", ".join(chemical_symbols[z] for z in np.unique(batch.numbers[foreign]))
        raise InputError(
            f"teacher {card.name!r} was not trained on {names}",
            where=name_structure(batch, first),
            wanted=describe_elements(card.elements),
            remedy="remove these structures or choose another teacher (limbeck teachers)",
        )
    periodicity = (  # structures, supported periodicity, expected, remedy
        (
            ~batch.periodic & (not card.molecular),
            "that repeat in all three directions",
            "pbc TTT and a cell",
            "give it a cell (atoms.center(vacuum=8); atoms.pbc = True) or choose another teacher",
        ),
        (
            batch.pbc.any(axis=1) & (not card.periodic),
            "without periodicity",
            "pbc FFF",
            "set atoms.pbc = False or choose another teacher",
        ),
    )
    for wrong, only, wanted, remedy in periodicity:
        if wrong.any():
            s = int(np.flatnonzero(wrong)[0])
            flags = "".join("T" if p else "F" for p in batch.pbc[s])
            raise InputError(
                f"teacher {card.name!r} treats only structures {only}",
                where=name_structure(batch, s),
                got=f"pbc {flags}" + ("" if batch.volume[s] > 0 else " without a cell"),
                wanted=wanted,
                remedy=remedy,
            )


def check_charges(name: str, capabilities: Capabilities, batch: StructureBatch) -> None:
    """Raise InputError for total charges or spins that differ or that the teacher does not support."""
    states = ("total charge", batch.charge), ("multiplicity", batch.spin)
    for (what, values), among in zip(states, compared(batch), strict=True):
        if (pair := first_other(values, among)) is not None:
            first, s = pair
            raise InputError(
                f"structures of different {what} in one set",
                where=name_structure(batch, s),
                got=f"{what} {values[s]:g} here and {values[first]:g} in structure {first}",
                wanted=f"one {what} in the set",
                remedy=f"one store and one student for each {what}",
            )
    beyond = {"charge": batch.charge != 0, "spin": batch.spin > 1}
    for (what, values), (field, mask) in zip(states, beyond.items(), strict=True):
        if mask.any() and not getattr(capabilities, field):
            s = int(np.flatnonzero(mask)[0])
            raise InputError(
                f"teacher {name!r} does not treat a {what}",
                where=name_structure(batch, s),
                got=f"{what} {values[s]:g}",
                wanted=f"{what} {0 if field == 'charge' else 1}, or no entry",
                remedy=f"if it does, declare it: --set 'teacher.options.capabilities={{{field}: true}}'"
                if ":" in name
                else "remove these structures or choose another teacher (limbeck teachers)",
            )
