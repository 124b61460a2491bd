"""A check at each evaluation that the structure is within the student's training domain.

charge: another total charge than the student's, where the structure's ``info`` has an entry.
spin: another multiplicity than the student's, where both have one.

The other kinds, where the model card has the range:

distance: an element pair closer than ``data.shortest_pair_a`` by over 0.001 Å (6 Å where the card
    has no such pair).
density: outside ``data.density_g_per_cm3`` by over 5%, for structures periodic in three directions.
temperature: kinetic temperature of the momenta above ``data.temperature_k`` by over 10% and five
    standard deviations of a canonical ensemble's, sqrt(2 / degrees of freedom) of itself each.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.data import atomic_masses, chemical_symbols

from limbeck.core.charge import ChargeState, spin_multiplicity, stated_charge
from limbeck.core.neighbours import PAIR_CUTOFF_A, neighbour_list, pair_vectors
from limbeck.errors import InputError, LimbeckError
from limbeck.runtime.backends.interface import Evaluation
from limbeck.units import G_PER_CM3

DISTANCE_MARGIN_A = 1e-3
DENSITY_MARGIN = 0.05
TEMPERATURE_MARGIN = 0.10
TEMPERATURE_DEVIATIONS = 5.0
#: kind -> what is wrong, and the remedy
_TEXTS = {
    "distance": (
        "atoms are closer than any such pair in the training data",
        "check the structure and the time step, or train on structures with such contacts",
    ),
    "density": (
        "the density is outside the training data",
        "check the cell, or train on structures of this density",
    ),
    "temperature": (
        "the kinetic temperature is above the training data's",
        "lower the temperature, check the time step, or train on hotter structures",
    ),
    "charge": (
        "a structure of another total charge than the student's",
        "energies and forces are those of the student's charge: train on this one",
    ),
    "spin": (
        "a structure of another spin than the student's",
        "energies and forces are those of the student's spin: train on this one",
    ),
}
KINDS = tuple(_TEXTS)


class OutOfDomainError(LimbeckError):
    """A structure lies outside the data that the student was trained on."""


class OutOfDomainWarning(UserWarning):
    """The same, as a warning."""


class Guard:
    """Counts evaluations outside the training domain, and warns of the first of each kind.

    Attributes
    ----------
    counts: kind -> evaluations outside the domain.
    strict: raise :class:`OutOfDomainError` at each instead.
    """

    def __init__(
        self, card: dict[str, Any], elements: tuple[int, ...], *, name: str, strict: bool = False,
        owner: str = "calculator",
    ) -> None:  # fmt: skip
        data = card.get("data")
        data = data if isinstance(data, dict) else {}
        self.name, self.strict, self.state = name, strict, ChargeState.of_card(card, name)
        self.counts: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._elements, self._owner = elements, owner
        self._shortest = _entry(data, "shortest_pair_a", name, partial(_shortest_table, elements=elements))
        self._density = _entry(data, "density_g_per_cm3", name, _range)
        self._kelvin = _entry(data, "temperature_k", name, _range)
        self._mass_key: tuple[bytes, bytes] | None = None

    def check(self, atoms: Atoms, found: Evaluation) -> None:
        """Check one evaluation; OutOfDomainError outside the domain where ``strict``."""
        self.check_state(stated_charge(atoms), spin_multiplicity(atoms))
        if self._shortest is not None and np.count_nonzero(found.shortest < self._shortest):
            self._report("distance", lambda: self._closest_pair(atoms, found.shortest))
        if self._density is None and self._kelvin is None:
            return
        self._weigh(atoms)
        if self._density is not None and found.periodic:
            density, (low, high) = self._mass / found.volume * G_PER_CM3, self._density
            if not low * (1 - DENSITY_MARGIN) <= density <= high * (1 + DENSITY_MARGIN):
                wanted = f"{low:.3f} to {high:.3f} g/cm³, give or take {DENSITY_MARGIN:.0%}"
                self._report("density", lambda: {"got": f"{density:.3f} g/cm³", "wanted": wanted})
        if self._kelvin is not None and "momenta" in atoms.arrays:
            self._check_temperature(atoms, self._kelvin[1])

    def check_state(self, charge: float | None, spin: int, *, strict: bool | None = None) -> None:
        """Check a structure's total charge (None: no entry) and multiplicity (0: no entry)."""
        own = self.state
        kind = own.differs(own.charge if charge is None else charge, spin)
        if kind is not None:
            got = f"spin multiplicity {spin}" if kind == "spin" else str(ChargeState(charge or 0.0))
            self._report(kind, lambda: {"got": got, "wanted": f"{own}, or no entry"}, strict)

    def _weigh(self, atoms: Atoms) -> None:
        """Total standard mass for the density, inverse masses for the temperature; cached."""
        masses = atoms.arrays.get("masses")
        key = (atoms.arrays["numbers"].tobytes(), b"" if masses is None else masses.tobytes())
        if key != self._mass_key:
            standard = atomic_masses[atoms.numbers]
            self._mass = float(standard.sum())
            mass = standard if masses is None else masses
            inverse = np.divide(1.0, mass, out=np.zeros(len(mass)), where=mass > 0)
            self._inverse = np.repeat(inverse, 3)  # (3 N,)
            self._mass_key = key

    def _closest_pair(self, atoms: Atoms, shortest: np.ndarray) -> dict[str, str]:
        """Which atoms are too close; they are searched only here, since it is rare."""
        place, limit = np.searchsorted(self._elements, atoms.numbers), self._shortest
        near = shortest < limit
        cell, farthest = atoms.cell.array, float(shortest[near].max()) + 1e-6
        i, j, shifts = neighbour_list(atoms.positions, cell, atoms.pbc, farthest)
        distance = np.linalg.norm(pair_vectors(atoms.positions, cell, i, j, shifts), axis=1)
        among = np.flatnonzero(near[place[i], place[j]])
        p = among[np.argmin(distance[among])]
        a, b = i[p], j[p]
        pair = f"{chemical_symbols[atoms.numbers[a]]}-{chemical_symbols[atoms.numbers[b]]}"
        return {
            "where": f"{self.name}, " + (f"atoms {a} and {b}" if a != b else f"atom {a} and its image"),
            "got": f"{pair} {distance[p]:.3f} Å apart",
            "wanted": f"at least {limit[place[a], place[b]] + DISTANCE_MARGIN_A:.3f} Å",
        }

    def _check_temperature(self, atoms: Atoms, highest: float) -> None:
        momenta = atoms.arrays["momenta"].ravel()
        freedom = len(momenta)
        if atoms.constraints:
            # a constraint without this counts as none: a lower temperature, and never a false alarm
            with contextlib.suppress(NotImplementedError, AttributeError):
                freedom = atoms.get_number_of_degrees_of_freedom()
        if freedom < 1:
            return
        kelvin = float((momenta * momenta).dot(self._inverse)) / (freedom * units.kB)
        limit = highest * (1.0 + TEMPERATURE_MARGIN + TEMPERATURE_DEVIATIONS * (2.0 / freedom) ** 0.5)
        if kelvin > limit:
            wanted = f"at most {highest:.0f} K ({limit:.0f} K with the fluctuations of {len(atoms)} atoms)"
            self._report("temperature", lambda: {"got": f"{kelvin:.0f} K", "wanted": wanted})

    def _report(self, kind: str, facts: Callable[[], dict[str, str]], strict: bool | None = None) -> None:
        self.counts[kind] += 1
        strict = self.strict if strict is None else strict
        if strict or self.counts[kind] == 1:
            what, remedy = _TEXTS[kind]
            error = OutOfDomainError(what, **{"where": self.name, "remedy": remedy, **facts()})
            if strict:
                raise error
            text = f"{error} (shown once; {self._owner}.guard.counts keeps counting)"
            warnings.warn(text, OutOfDomainWarning, stacklevel=2)


def _entry(data: dict[str, Any], key: str, name: str, read: Callable[[Any], Any]) -> Any:
    """``read`` of an entry of the model card; None without one."""
    value = data.get(key)
    if value is None or value == {}:
        return None
    try:
        return read(value)
    except (AttributeError, TypeError, ValueError) as error:
        what = f"invalid data.{key} in the model card"
        raise InputError(what, where=name, got=error, remedy="make the file again") from error


def _shortest_table(pairs: dict[str, float], elements: tuple[int, ...]) -> np.ndarray:
    """(Z, Z) closest distances less the margin; the card omits pairs never closer than ``PAIR_CUTOFF_A``."""
    table = np.full((len(elements), len(elements)), PAIR_CUTOFF_A)
    place = {chemical_symbols[z]: k for k, z in enumerate(elements)}
    for pair, distance in pairs.items():
        a, b = pair.split("-")
        if a in place and b in place:
            if not 0 < float(distance) < np.inf:
                raise ValueError(f"{pair}: {distance}")
            table[place[a], place[b]] = table[place[b], place[a]] = float(distance)
    return table - DISTANCE_MARGIN_A


def _range(value: Any) -> tuple[float, float]:
    low, high = (float(x) for x in value)
    if not low <= high < np.inf:
        raise ValueError(value)
    return low, high
