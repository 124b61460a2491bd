"""Name -> card and loader. A card costs no import; loading imports the teacher's package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.core.potential import Potential
from limbeck.errors import InputError
from limbeck.teachers import chgnet, custom, sevennet, so3lr, xtb
from limbeck.teachers.card import TeacherCard, TeacherIdentity, nearest

_MODULES = (sevennet, chgnet, so3lr, xtb)
_MODULE_OF = {card.name: module for module in _MODULES for card in module.CARDS}
_CARDS = {card.name: card for module in _MODULES for card in module.CARDS}


@dataclass(frozen=True)
class LoadedTeacher:
    """A teacher in this process, with its card and the identity that keys its labels.

    ``n_parameters`` counts the weights of its network, None for ``module:callable``.
    """

    potential: Potential
    card: TeacherCard
    identity: TeacherIdentity
    n_parameters: int | None = None


def teacher_names() -> list[str]:
    """The names that need no module."""
    return list(_CARDS)


def list_cards() -> list[TeacherCard]:
    """Every card, installed or not."""
    return list(_CARDS.values())


def get_card(name: str) -> TeacherCard:
    """The card of a built-in teacher; InputError with the nearest name where there is none."""
    if name in _CARDS:
        return _CARDS[name]
    alike = nearest(name, _CARDS)
    raise InputError(
        "unknown teacher",
        got=repr(name),
        wanted=(f"{alike!r}? known: " if alike else "one of ") + ", ".join(_CARDS) + ", or module:callable",
    )


def check_teacher(name: str, options: Mapping[str, Any]) -> None:
    """Refuse, before any process starts, what needs no loading to be refused.

    Raises
    ------
    InputError: unknown teacher or option, or options that JSON cannot carry to a worker.
    MissingPackageError: its package is not installed.
    """
    try:
        json.dumps(dict(options))
    except TypeError as error:
        raise InputError(
            "a teacher's options must be plain values",
            where=f"teacher {name}",
            got=error,
            wanted="numbers, strings, lists and dicts",
        ) from error
    if not custom.is_custom(name):
        card = get_card(name)
        card.check_options(options)
        card.require()


def load_teacher(name: str, options: Mapping[str, Any] | None = None, device: str = "cpu") -> LoadedTeacher:
    """Load a teacher into this process (labelling does so in workers; see ``open_teacher``)."""
    options = dict(options or {})
    check_teacher(name, options)
    if custom.is_custom(name):
        potential = custom.load(name, options, device)
        return LoadedTeacher(
            potential,
            custom.make_card(name, potential.capabilities),
            custom.identify(name, options, potential.capabilities),
        )
    card = get_card(name)
    potential, n_parameters = _MODULE_OF[name].load(card, card.check_options(options), device)
    return LoadedTeacher(potential, card, card.identity(options, potential.capabilities), n_parameters)
