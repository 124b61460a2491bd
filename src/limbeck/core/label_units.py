"""Units that explain a ratio of energies to work, the stiffness of bonds, or a ratio of stresses."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ase import units

_HARTREE, _RYDBERG, _BOHR, _GPA = units.Hartree, units.Rydberg, units.Bohr, units.GPa
_KCAL, _KJ = units.kcal / units.mol, units.kJ / units.mol
ENERGY_EV = {
    "eV": 1.0, "Hartree": _HARTREE, "Rydberg": _RYDBERG, "kcal/mol": _KCAL, "kJ/mol": _KJ, "meV": 1e-3,
}  # fmt: skip
_FORCE = {
    "eV/Å": 1.0, "Hartree/bohr": _HARTREE / _BOHR, "Rydberg/bohr": _RYDBERG / _BOHR, "eV/bohr": 1.0 / _BOHR,
    "Hartree/Å": _HARTREE, "kcal/mol/Å": _KCAL, "kJ/mol/Å": _KJ, "kJ/mol/nm": 0.1 * _KJ, "meV/Å": 1e-3,
}  # fmt: skip
_STRESS = {
    "GPa": _GPA, "kbar": 0.1 * _GPA, "bar": 1e-4 * _GPA, "MPa": 1e-3 * _GPA,
    "Hartree/bohr³": _HARTREE / _BOHR**3, "Rydberg/bohr³": _RYDBERG / _BOHR**3,
}  # fmt: skip
_MOST = 3
_CUSTOMARY = ("Hartree with Hartree/bohr", "Rydberg with Rydberg/bohr")
#: curvature of bonds times squared length, eV: 6 (lithium) to 85 (silicon), at most 170 (N2)
STIFFNESS_EV = (4.0, 175.0)
_MIDDLE_EV = 35.0


def energy_force_units(slope: float, tolerance: float, stiffness: float | None = None) -> str:
    """Pairs of units in which energies over work would be ``slope`` within a factor of 1 + tolerance.

    Text for a message, empty where none fits. Energies in a unit of e eV and forces in one of f eV/Å give
    f / e. ``stiffness`` of the bonds by the forces distinguishes Hartree with Hartree/bohr from eV with
    eV/bohr, which have the same ratio.
    """
    found: list[tuple[int, float, str]] = []
    if not slope > 0:
        return ""
    for energy, e in ENERGY_EV.items():
        for force, f in _FORCE.items():
            if (e, f) == (1.0, 1.0) or ("meV" in energy + force and (e != 1.0 and f != 1.0)):
                continue
            if stiffness is not None and not STIFFNESS_EV[0] < stiffness * f < STIFFNESS_EV[1]:
                continue
            off = abs(math.log(slope * e / f))
            if off < math.log1p(tolerance):
                pair = f"{energy} with {force}"
                # the simplest first; the pair that a program uses is as simple as one wrong unit
                own = pair in _CUSTOMARY or force == f"{energy}/Å"
                wrong = 1 if own else (e != 1.0) + (f != 1.0) + (force == "Hartree/Å")
                if stiffness is not None:  # of units that fit equally well, that of the usual stiffness first
                    off = abs(math.log(stiffness * f / _MIDDLE_EV))
                found.append((wrong, off, f"energies in {energy} with forces in {force}"))
    return _listed(found)


def force_units(ratio: float, tolerance: float) -> str:
    """Units in which forces would be ``ratio`` times those in eV/Å within a factor of 1 + tolerance."""
    others = ((name, value) for name, value in _FORCE.items() if value != 1.0)
    return _listed(_near(others, ratio, math.log1p(tolerance)))


def bond_units(stiffness: float) -> str:
    """Units of forces in which bonds of this stiffness (eV) would have the usual one, most likely first."""
    usual = max(math.log(_MIDDLE_EV / STIFFNESS_EV[0]), math.log(STIFFNESS_EV[1] / _MIDDLE_EV))
    return force_units(stiffness / _MIDDLE_EV, math.expm1(usual))


def stress_units(ratio: float, volume: float, tolerance: float) -> str:
    """Units in which stresses would be ``ratio`` times those in eV/Å³ within a factor of ``tolerance``.

    ``volume``: of a typical cell, Å³. The nearest first.
    """
    named = [(f"{n} (1 eV/Å³ = {1 / value:.4g} {n})", value) for n, value in _STRESS.items()]
    virial = f"the virial in eV, not divided by the volume ({volume:.4g} Å³)"
    return _listed(_near([*named, (virial, 1 / volume)], ratio, math.log(tolerance)))


def _near(named: Iterable[tuple[str, float]], ratio: float, width: float) -> list[tuple[int, float, str]]:
    """Those of (text, value) whose value is one over the ratio, within ``width`` of its logarithm."""
    if not ratio > 0:
        return []
    off = [(0, abs(math.log(ratio * value)), text) for text, value in named]
    return [one for one in off if one[1] < width]


def _listed(found: list[tuple[int, float, str]]) -> str:
    simplest = min((wrong for wrong, _, _ in found), default=0)
    return ", or ".join(text for wrong, _, text in sorted(found)[:_MOST] if wrong == simplest)
