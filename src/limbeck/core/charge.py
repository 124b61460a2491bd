"""Total charge and spin multiplicity of a structure: the one place that reads them from ``atoms.info``.

Entries count whatever their case; None counts as missing, and an array of one number is that number.
What they mean follows the data sets that carry them: ``spin`` of OMol25, fairchem and ORB and
``total_spin`` of MACE are the multiplicity 2S + 1, and 0 is how fairchem says that no spin is given.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.errors import InputError

#: entries for the total charge in units of e; Limbeck itself writes the first
CHARGE_KEYS = ("charge", "total_charge", "overall_charge", "molecular_charge", "net_charge")
#: entries for the spin multiplicity; Limbeck itself writes the first
SPIN_KEYS = ("spin", "total_spin", "multiplicity", "spin_multiplicity", "molecular_multiplicity")


#: entries of a student's card
_CARD_CHARGE, _CARD_SPIN = "total_charge", "spin_multiplicity"


@dataclass(frozen=True)
class ChargeState:
    """What a student was trained for: one total charge and one spin.

    Attributes
    ----------
    charge: units of e. spin: multiplicity 2S + 1, 0 where the training data gave none.
    """

    charge: float = 0.0
    spin: int = 0

    @classmethod
    def of_card(cls, card: Mapping[str, Any], where: object) -> ChargeState:
        """The state on a student's card; cards of before there was one are of neutral training data.

        Raises
        ------
        InputError: entries that are no numbers.
        """
        charge, spin = card.get(_CARD_CHARGE) or 0, card.get(_CARD_SPIN) or 0
        if not np.isfinite(_number(charge)) or _number(spin) not in range(1000):
            raise InputError(
                "the card has no sense in total charge or spin",
                where=where,
                got=f"{charge!r} and {spin!r}",
                remedy="make the file again",
            )
        return cls(float(charge), int(spin))

    def on_card(self) -> dict[str, Any]:
        """Entries of a card."""
        return {_CARD_CHARGE: self.charge, _CARD_SPIN: self.spin or None}

    def __str__(self) -> str:
        charge = f"total charge {self.charge:+g}" if self.charge else "total charge 0"
        return f"{charge}, spin multiplicity {self.spin}" if self.spin else charge

    @property
    def is_plain(self) -> bool:
        """Whether it is a neutral closed shell, or says nothing else."""
        return not self.charge and self.spin <= 1

    def differs(self, charge: float, spin: int) -> str | None:
        """What of a structure is not the student's: "charge", "spin" or None; a spin of 0 goes with any."""
        if charge != self.charge:
            return "charge"
        return "spin" if spin and self.spin and spin != self.spin else None


def stated_charge(atoms: Atoms, where: str | None = None) -> float | None:
    """The total charge in units of e, None where no entry says anything.

    Raises
    ------
    InputError: an entry is no finite number, or two differ; ``where`` names the structure.
    """
    found = _entries(atoms.info, CHARGE_KEYS)
    for key, number in found.items():
        if not np.isfinite(number):
            raise InputError(
                "the total charge is not a number",
                where=where,
                got=repr(atoms.info[key]),
                wanted=f"info['{key}'] in units of e",
            )
    return _only("total charges", found, where)


def total_charge(atoms: Atoms, where: str | None = None) -> float:
    """As :func:`stated_charge`, zero where nothing says otherwise."""
    return stated_charge(atoms, where) or 0.0


def spin_multiplicity(atoms: Atoms, where: str | None = None) -> int:
    """2S + 1, 0 where no entry says anything.

    Raises
    ------
    InputError: an entry is no whole number, or two differ; ``where`` names the structure.
    """
    found = _entries(atoms.info, SPIN_KEYS)
    for key, number in found.items():
        if not (number >= 0 and number.is_integer()):
            raise InputError(
                "the spin multiplicity is not a whole number",
                where=where,
                got=repr(atoms.info[key]),
                wanted=f"info['{key}'] = 2S + 1: 1, 2, 3, ...",
                remedy=f"rename the entry '{key}' if it is something else",
            )
    return int(_only("spin multiplicities", {key: n for key, n in found.items() if n}, where) or 0)


def write_charge(info: MutableMapping[str, Any], charge: float, spin: int = 0) -> None:
    """Entries ``charge`` and ``spin`` where they are not zero, in the place of all others of their kind."""
    for key in [*_entries(info, CHARGE_KEYS), *_entries(info, SPIN_KEYS)]:
        del info[key]
    if charge:
        info[CHARGE_KEYS[0]] = float(charge)
    if spin:
        info[SPIN_KEYS[0]] = int(spin)


def copy_charge(source: Atoms, target: Atoms) -> None:
    """Give ``target`` the charge and spin of ``source``, under the names that Limbeck writes."""
    write_charge(target.info, total_charge(source), spin_multiplicity(source))


def repeat_charge(source: Atoms, target: Atoms) -> None:
    """Give ``target``, made of repeats of ``source``, its share of charge; spins do not add, so none."""
    write_charge(target.info, total_charge(source) * len(target) / len(source))


def _entries(info: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, float]:
    if not info:
        return {}
    found = {k: v for k, v in info.items() if isinstance(k, str) and k.lower() in keys and v is not None}
    return {key: _number(value) for key, value in found.items()}


def _number(value: object) -> float:
    """NaN where it is no number; so is True, which extxyz reads of a name without a value."""
    try:
        array = np.asarray(value)
        return float("nan") if array.dtype == bool else float(array.astype(np.float64).reshape(()))
    except (TypeError, ValueError):
        return float("nan")


def _only(what: str, found: Mapping[str, float], where: str | None) -> float | None:
    if len(set(found.values())) > 1:
        raise InputError(
            f"two {what} of one structure",
            where=where,
            got=", ".join(f"{key} {number:g}" for key, number in found.items()),
            wanted="one",
            remedy="remove the wrong entry",
        )
    return next(iter(found.values()), None)
