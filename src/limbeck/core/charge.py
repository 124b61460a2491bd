"""Total charge and spin multiplicity of a structure; the only module that reads them from ``atoms.info``.

Keys match in any case; None counts as missing, and an array of one number is that number. Meanings follow the
data sets: ``spin`` of OMol25, fairchem and ORB and ``total_spin`` of MACE are the multiplicity 2S + 1, and 0
means no spin given, as in fairchem.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.errors import InputError

#: keys of the total charge in units of e; Limbeck itself writes the first
CHARGE_KEYS = ("charge", "total_charge", "overall_charge", "molecular_charge", "net_charge")
#: keys of the spin multiplicity; Limbeck itself writes the first
SPIN_KEYS = ("spin", "total_spin", "multiplicity", "spin_multiplicity", "molecular_multiplicity")
#: keys of a student's model card
_CARD_CHARGE, _CARD_SPIN = "total_charge", "spin_multiplicity"


@dataclass(frozen=True)
class ChargeState:
    """The one total charge and spin that a student is trained for.

    Attributes
    ----------
    charge: units of e. spin: multiplicity 2S + 1, 0 where the training data gave none.
    """

    charge: float = 0.0
    spin: int = 0

    @classmethod
    def of_card(cls, card: Mapping[str, Any], where: object) -> ChargeState:
        """The state in a student's model card; older cards without one are of neutral training data.

        Raises
        ------
        InputError: entries that are not numbers.
        """
        charge, spin = card.get(_CARD_CHARGE) or 0, card.get(_CARD_SPIN) or 0
        if not np.isfinite(_number(charge)) or _number(spin) not in range(1000):
            raise InputError(
                "invalid total charge or spin in the model card",
                where=where,
                got=f"{charge!r} and {spin!r}",
                remedy="make the file again",
            )
        return cls(float(charge), int(spin))

    def on_card(self) -> dict[str, Any]:
        """Entries of a model card."""
        return {_CARD_CHARGE: self.charge, _CARD_SPIN: self.spin or None}

    def __str__(self) -> str:
        charge = f"total charge {self.charge:+g}" if self.charge else "total charge 0"
        return f"{charge}, spin multiplicity {self.spin}" if self.spin else charge

    @property
    def is_plain(self) -> bool:
        """Whether it is a neutral closed shell, or has no entries."""
        return not self.charge and self.spin <= 1

    def differs(self, charge: float, spin: int) -> str | None:
        """Which of a structure's values is not the student's: "charge", "spin" or None; spin 0 fits any."""
        if charge != self.charge:
            return "charge"
        return "spin" if spin and self.spin and spin != self.spin else None


def stated_charge(atoms: Atoms, where: str | None = None) -> float | None:
    """The total charge in units of e, None without an entry.

    Raises
    ------
    InputError: an entry is not a finite number, or two differ; ``where`` names the structure.
    """
    wanted = "info['{}'] in units of e"
    return _read(atoms.info, CHARGE_KEYS, where, "total charge", lambda n: bool(np.isfinite(n)), wanted)


def total_charge(atoms: Atoms, where: str | None = None) -> float:
    """As :func:`stated_charge`, zero without an entry."""
    return stated_charge(atoms, where) or 0.0


def spin_multiplicity(atoms: Atoms, where: str | None = None) -> int:
    """2S + 1, 0 without an entry.

    Raises
    ------
    InputError: an entry is not a whole number, or two differ; ``where`` names the structure.
    """
    wanted = "info['{}'] = 2S + 1: 1, 2, 3, ... (rename the entry if it is something else)"
    whole: Callable[[float], bool] = lambda n: n >= 0 and n.is_integer()  # noqa: E731
    return int(_read(atoms.info, SPIN_KEYS, where, "spin multiplicity", whole, wanted, skip_zero=True) or 0)


def write_charge(info: MutableMapping[str, Any], charge: float, spin: int = 0) -> None:
    """Replace all entries of charge and spin by ``charge`` and ``spin``, where these are not zero."""
    for key in [*_entries(info, CHARGE_KEYS), *_entries(info, SPIN_KEYS)]:
        del info[key]
    if charge:
        info[CHARGE_KEYS[0]] = float(charge)
    if spin:
        info[SPIN_KEYS[0]] = int(spin)


def copy_charge(source: Atoms, target: Atoms) -> None:
    """Give ``target`` the charge and spin of ``source``, under the keys that Limbeck writes."""
    write_charge(target.info, total_charge(source), spin_multiplicity(source))


def repeat_charge(source: Atoms, target: Atoms) -> None:
    """Give ``target``, repeats of ``source``, its share of charge and no spin, since spins do not add."""
    write_charge(target.info, total_charge(source) * len(target) / len(source))


def _read(
    info: Mapping[str, Any], keys: tuple[str, ...], where: str | None, what: str,
    valid: Callable[[float], bool], wanted: str, *, skip_zero: bool = False,
) -> float | None:  # fmt: skip
    found = _entries(info, keys)
    for key, number in found.items():
        if not valid(number):
            raise InputError(f"invalid {what}", where=where, got=repr(info[key]), wanted=wanted.format(key))
    found = {key: number for key, number in found.items() if number or not skip_zero}
    if len(set(found.values())) > 1:
        raise InputError(
            f"conflicting entries of the {what}",
            where=where,
            got=", ".join(f"{key} {number:g}" for key, number in found.items()),
            wanted="one value",
            remedy="remove the wrong entry",
        )
    return next(iter(found.values()), None)


def _entries(info: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, float]:
    if not info:  # the usual case; this runs for every step of dynamics
        return {}
    found = {k: v for k, v in info.items() if isinstance(k, str) and k.lower() in keys and v is not None}
    return {key: _number(value) for key, value in found.items()}


def _number(value: object) -> float:
    """NaN unless it is a number; so is True, which extxyz reads of a key without a value."""
    try:
        array = np.asarray(value)
        return float("nan") if array.dtype == bool else float(array.astype(np.float64).reshape(()))
    except (TypeError, ValueError):
        return float("nan")
