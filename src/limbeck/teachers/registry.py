"""Name -> card and loader. A card costs no import; loading imports the teacher's package."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.core.devices import require_device
from limbeck.core.potential import Potential
from limbeck.errors import InputError, LimbeckError
from limbeck.teachers import (
    aimnet,
    ani,
    chgnet,
    crystals,
    custom,
    deepmd,
    mattersim,
    model_files,
    molecules,
    nequip,
    orb,
    pet,
    xtb,
)
from limbeck.teachers.card import TeacherCard, TeacherIdentity, nearest

_MODULES: tuple[Any, ...] = (
    crystals,
    chgnet,
    molecules,
    xtb,
    ani,
    model_files,
    orb,
    mattersim,
    aimnet,
    nequip,
    deepmd,
    pet,
)
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


def check_teacher(name: str, options: Mapping[str, Any], *, trust: bool = False) -> None:
    """Refuse, before any process starts, what needs no loading to be refused.

    Raises
    ------
    InputError: unknown teacher or option, options that JSON cannot carry to a worker, a model file
        that is not there, or one that would be unpickled without ``trust``.
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
        get_card(name).check_trust(options, trust)


def load_teacher(
    name: str, options: Mapping[str, Any] | None = None, device: str = "cpu", *, trust: bool = False
) -> LoadedTeacher:
    """Load a teacher into this process (labelling does so in workers; see ``open_teacher``).

    ``trust``: its package may unpickle the model file that ``options`` name.
    """
    options = dict(options or {})
    check_teacher(name, options, trust=trust)
    if importlib.util.find_spec("torch") is not None:
        require_device(device)
    if custom.is_custom(name):
        potential = custom.load(name, options, device)
        return LoadedTeacher(
            potential,
            custom.make_card(name, potential.capabilities),
            custom.identify(name, options, potential.capabilities),
        )
    card, module = get_card(name).of(options), _MODULE_OF[name]
    card.require()
    filled, weights = card.check_options(options), card.model_file(options)
    if weights is not None:
        filled[str(card.file_option)] = str(weights)
    elif hasattr(module, "fetch"):
        # A model by name: its package downloads the file, or has it from before.
        weights = module.fetch(card, filled)
    potential, n_parameters = _load(module, card, filled, device)
    capabilities = potential.capabilities
    return LoadedTeacher(
        potential,
        card.with_capabilities(capabilities),
        card.identity(options, capabilities, weights),
        n_parameters,
    )


def _load(module: Any, card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, int]:
    """Let a teacher's module load it; a model file that its package cannot read is the user's input."""
    try:
        return module.load(card, options, device)
    except LimbeckError:
        raise
    except Exception as error:
        if card.model_file(options) is None:
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(
            "its package cannot load the model file",
            where=f"teacher {card.name}: {options[card.file_option or '']}",
            got=text,
            wanted=f"a whole model file of {card.requirement}",
        ) from error
