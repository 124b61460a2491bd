"""Which units would explain a ratio of energies to work, how stiff bonds are, or a ratio of stresses."""

from __future__ import annotations

import math

from ase import units

_ENERGY = {
    "eV": 1.0,
    "Hartree": units.Hartree,
    "Rydberg": units.Rydberg,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
    "meV": 1e-3,
}
_FORCE = {
    "eV/Å": 1.0,
    "Hartree/bohr": units.Hartree / units.Bohr,
    "Rydberg/bohr": units.Rydberg / units.Bohr,
    "eV/bohr": 1.0 / units.Bohr,
    "Hartree/Å": units.Hartree,
    "kcal/mol/Å": units.kcal / units.mol,
    "kJ/mol/Å": units.kJ / units.mol,
    "kJ/mol/nm": 0.1 * units.kJ / units.mol,
    "meV/Å": 1e-3,
}
_STRESS = {
    "GPa": units.GPa,
    "kbar": 0.1 * units.GPa,
    "bar": 1e-4 * units.GPa,
    "MPa": 1e-3 * units.GPa,
    "Hartree/bohr³": units.Hartree / units.Bohr**3,
    "Rydberg/bohr³": units.Rydberg / units.Bohr**3,
}
_MOST = 3
_CUSTOMARY = ("Hartree with Hartree/bohr", "Rydberg with Rydberg/bohr")
#: curvature times squared bond length, eV, of a pair potential fitted to forces: lithium, LiCl and water
#: have 10 to 18, silicon, copper and organic molecules 40 to 50, molybdenum 78
USUAL_STIFFNESS_EV = (4.0, 160.0)
_MIDDLE_STIFFNESS_EV = 25.0


def energy_force_units(slope: float, tolerance: float, stiffness: float | None = None) -> str:
    """Pairs of units under which energies over work is ``slope`` within a factor of 1 + tolerance.

    In the words of a message; empty where none fits. An energy given in a unit of e eV and forces
    in one of f eV/Å give f / e. ``stiffness``: as the forces have it; it tells Hartree and Hartree/bohr
    together from forces in eV/bohr alone, which have the same ratio.
    """
    found: list[tuple[int, float, str]] = []
    if not slope > 0:
        return ""  # a sign or a constant, which no unit explains
    for energy, e in _ENERGY.items():
        for force, f in _FORCE.items():
            if (e, f) == (1.0, 1.0) or ("meV" in energy + force and (e != 1.0 and f != 1.0)):
                continue
            if stiffness is not None and not USUAL_STIFFNESS_EV[0] < stiffness * f < USUAL_STIFFNESS_EV[1]:
                continue
            off = abs(math.log(slope * e / f))
            if off < math.log1p(tolerance):
                pair = f"{energy} with {force}"
                # the simplest first; a program's own pair is as simple as one wrong unit
                own = pair in _CUSTOMARY or force == f"{energy}/Å"
                wrong = 1 if own else (e != 1.0) + (f != 1.0) + (force == "Hartree/Å")
                if stiffness is not None:  # of units that fit alike, that of more usual bonds first
                    off = abs(math.log(stiffness * f / _MIDDLE_STIFFNESS_EV))
                found.append((wrong, off, f"energies in {energy} with forces in {force}"))
    return _listed(found)


def force_units(ratio: float, tolerance: float) -> str:
    """Units in which forces would be ``ratio`` times those in eV/Å within a factor of 1 + tolerance."""
    found: list[tuple[int, float, str]] = []
    for name, value in _FORCE.items():
        if value != 1.0 and ratio > 0 and (off := abs(math.log(ratio * value))) < math.log1p(tolerance):
            found.append((0, off, name))
    return _listed(found)


def stress_units(ratio: float, volume: float, tolerance: float) -> str:
    """Units in which stresses would be ``ratio`` times those in eV/Å³ within a factor of ``tolerance``.

    ``volume``: typical, Å³. Nearest first.
    """
    found: list[tuple[int, float, str]] = []
    if not ratio > 0:
        return ""
    for name, value in _STRESS.items():
        off = abs(math.log(ratio * value))
        if off < math.log(tolerance):
            found.append((0, off, f"{name} (1 eV/Å³ = {1 / value:.4g} {name})"))
    if (off := abs(math.log(ratio / volume))) < math.log(tolerance):
        found.append((0, off, f"the virial in eV, not divided by the volume ({volume:.4g} Å³)"))
    return _listed(found)


def _listed(found: list[tuple[int, float, str]]) -> str:
    simplest = min((wrong for wrong, _, _ in found), default=0)
    return ", or ".join(text for wrong, _, text in sorted(found)[:_MOST] if wrong == simplest)
