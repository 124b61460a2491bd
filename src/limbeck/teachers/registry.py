"""Cards by name, checks that a teacher supports structures, and loading, which imports its package."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.symbols import Symbols

from limbeck.core.checks import compared, first_other
from limbeck.core.devices import require_device
from limbeck.core.potential import Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.teachers import crystals, custom, model_files, molecules
from limbeck.teachers.card import Loaded, TeacherCard, TeacherIdentity, nearest

_REMOVE = "remove these structures or choose another teacher (limbeck teachers)"
_CARDS = {card.name: card for module in (crystals, molecules, model_files) for card in module.CARDS}


@dataclass(frozen=True)
class LoadedTeacher:
    """A teacher in this process with its card, identity and number of parameters (None if unknown)."""

    potential: Potential
    card: TeacherCard
    identity: TeacherIdentity
    n_parameters: int | None = None


def teacher_names() -> list[str]:
    """Names of the built-in teachers."""
    return list(_CARDS)


def list_cards() -> list[TeacherCard]:
    """All cards, installed or not."""
    return list(_CARDS.values())


def get_card(name: str) -> TeacherCard:
    """The card of a built-in teacher; InputError with the nearest name if there is none."""
    if name in _CARDS:
        return _CARDS[name]
    alike = nearest(name, _CARDS)
    wanted = (f"{alike!r}? known: " if alike else "one of ") + ", ".join(_CARDS) + ", or module:callable"
    raise InputError("unknown teacher", got=repr(name), wanted=wanted)


def check_teacher(name: str, options: Mapping[str, Any], *, trust: bool = False) -> None:
    """Check name and options of a teacher without loading it.

    Raises InputError: unknown teacher or option, options that are not JSON values, a missing model file, or
    one that would be unpickled without ``trust``.
    """
    try:
        json.dumps(dict(options))
    except TypeError as error:
        what, wanted = "options of a teacher are not plain values", "numbers, strings, lists and dicts"
        raise InputError(what, where=f"teacher {name}", got=error, wanted=wanted) from error
    if not custom.is_custom(name):
        get_card(name).check_trust(options, trust)


def load_teacher(
    name: str, options: Mapping[str, Any] | None = None, device: str = "cpu", *, trust: bool = False
) -> LoadedTeacher:
    """Load a teacher in this process (labelling uses workers, see ``open_teacher``).

    ``trust``: its package may unpickle the model file in ``options``.
    """
    options = dict(options or {})
    check_teacher(name, options, trust=trust)
    if device != "cpu" and importlib.util.find_spec("torch") is not None:
        require_device(device)
    if custom.is_custom(name):
        potential, _ = custom.load(custom.make_card(name), options, device)
        card = custom.make_card(name, potential.capabilities)
        return LoadedTeacher(potential, card, custom.identify(card, options, potential.capabilities))
    card = get_card(name).of(options)
    card.require()
    weights = card.model_file(options)
    if weights is None and card.fetch is not None:
        weights = card.fetch(card.check_options(options))
    potential, n_parameters = _load(card, options, device, weights)
    identity = card.identity(options, potential.capabilities, weights)
    card = replace(card, **vars(potential.capabilities))
    return LoadedTeacher(potential, card, identity, n_parameters)


def _load(card: TeacherCard, options: Mapping[str, Any], device: str, weights: Path | None) -> Loaded:
    """Let the package load a teacher; a model file that it cannot read is an InputError."""
    where = f"teacher {card.name}" + (f": {weights}" if weights else "")
    try:
        return card.load(card, card.check_options(options), device, weights)
    except LimbeckError as error:
        if error.where is not None:
            raise
        parts: dict[str, Any] = {"got": error.got, "wanted": error.wanted, "remedy": error.remedy}
        raise type(error)(error.what, where=where, **parts) from error
    except Exception as error:
        if card.model_file(options) is None:
            raise
        got = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        wanted = f"a complete model file of {card.requirement}"
        raise InputError("unreadable model file", where=where, got=got, wanted=wanted) from error


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

    Checked are elements (some teachers accept untrained ones), periodicity, total charge and spin.
    """
    check_charges(card.name, card, batch)
    foreign = np.zeros(0, bool) if card.elements is None else ~np.isin(batch.numbers, list(card.elements))
    if card.elements is not None and foreign.any():
        first = int(batch.structure_of_atom[np.flatnonzero(foreign)[0]])
        names = ", ".join(chemical_symbols[z] for z in np.unique(batch.numbers[foreign]))
        what, where = f"teacher {card.name!r} was not trained on {names}", name_structure(batch, first)
        raise InputError(what, where=where, wanted=describe_elements(card.elements), remedy=_REMOVE)
    cell = "give it a cell (atoms.center(vacuum=8); atoms.pbc = True)"
    crystals = "that repeat in all three directions", "pbc TTT and a cell", cell
    molecules = "without periodicity", "pbc FFF", "set atoms.pbc = False"
    for wrong, (only, wanted, remedy) in (
        (~batch.periodic & (not card.molecular), crystals),
        (batch.pbc.any(axis=1) & (not card.periodic), molecules),
    ):
        if wrong.any():
            s = int(np.flatnonzero(wrong)[0])
            flags = "".join("T" if p else "F" for p in batch.pbc[s])
            what = f"teacher {card.name!r} treats only structures {only}"
            remedy += " or choose another teacher"
            got = f"pbc {flags}" + ("" if batch.volume[s] > 0 else " without a cell")
            raise InputError(what, where=name_structure(batch, s), got=got, wanted=wanted, remedy=remedy)


def check_charges(name: str, capabilities: Capabilities, batch: StructureBatch) -> None:
    """Raise InputError for total charges or spins that differ or that the teacher does not support."""
    states = ("total charge", batch.charge), ("multiplicity", batch.spin)
    for (what, values), among in zip(states, compared(batch), strict=True):
        if (pair := first_other(values, among)) is not None:
            first, s = pair
            where, differ = name_structure(batch, s), f"structures of different {what} in one set"
            got = f"{what} {values[s]:g} here and {values[first]:g} in structure {first}"
            wanted, remedy = f"one {what} in the set", f"one store and one student for each {what}"
            raise InputError(differ, where=where, got=got, wanted=wanted, remedy=remedy)
    beyond = {"charge": batch.charge != 0, "spin": batch.spin > 1}
    for (what, values), (field, mask) in zip(states, beyond.items(), strict=True):
        if mask.any() and not getattr(capabilities, field):
            s = int(np.flatnonzero(mask)[0])
            declare = f"if it does, declare it: --set 'teacher.options.capabilities={{{field}: true}}'"
            remedy = declare if custom.is_custom(name) else _REMOVE
            refused, got = f"teacher {name!r} does not treat a {what}", f"{what} {values[s]:g}"
            wanted = f"{what} {0 if field == 'charge' else 1}, or no entry"
            raise InputError(refused, where=name_structure(batch, s), got=got, wanted=wanted, remedy=remedy)
