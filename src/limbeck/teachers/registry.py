"""Cards by name, and loading of a teacher, which imports its package."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.core.devices import require_device
from limbeck.core.potential import Potential
from limbeck.errors import InputError, LimbeckError
from limbeck.teachers import crystals, custom, model_files, molecules
from limbeck.teachers.card import Loaded, TeacherCard, TeacherIdentity, nearest

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
    raise InputError(
        "unknown teacher",
        got=repr(name),
        wanted=(f"{alike!r}? known: " if alike else "one of ") + ", ".join(_CARDS) + ", or module:callable",
    )


def check_teacher(name: str, options: Mapping[str, Any], *, trust: bool = False) -> None:
    """Check name and options of a teacher without loading it.

    Raises
    ------
    InputError: unknown teacher or option, options that are not JSON values, a missing model file, or one
        that would be unpickled without ``trust``.
    """
    try:
        json.dumps(dict(options))
    except TypeError as error:
        raise InputError(
            "options of a teacher are not plain values",
            where=f"teacher {name}",
            got=error,
            wanted="numbers, strings, lists and dicts",
        ) from error
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
    return LoadedTeacher(potential, card.with_capabilities(potential.capabilities), identity, n_parameters)


def _load(card: TeacherCard, options: Mapping[str, Any], device: str, weights: Path | None) -> Loaded:
    """Let the package load a teacher; a model file that it cannot read is an InputError."""
    where = f"teacher {card.name}" + (f": {weights}" if weights else "")
    try:
        return card.load(card, card.check_options(options), device, weights)
    except LimbeckError as error:
        if error.where is not None:
            raise
        raise type(error)(
            error.what, where=where, got=error.got, wanted=error.wanted, remedy=error.remedy
        ) from error
    except Exception as error:
        if card.model_file(options) is None:
            raise
        raise InputError(
            "unreadable model file",
            where=where,
            got=" ".join(f"{type(error).__name__}: {error}".split())[:300],
            wanted=f"a complete model file of {card.requirement}",
        ) from error
