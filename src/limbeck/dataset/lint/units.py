"""Which units would explain a ratio of energies to work, or of stresses."""

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


def energy_force_units(slope: float, tolerance: float) -> str:
    """Pairs of units under which energies over work is ``slope`` within a factor of 1 + tolerance.

    In the words of a message; empty where none fits. An energy given in a unit of e eV and forces
    in one of f eV/Å give f / e.
    """
    found: list[tuple[int, float, str]] = []
    if not slope > 0:
        return ""  # a sign or a constant, which no unit explains
    for energy, e in _ENERGY.items():
        for force, f in _FORCE.items():
            if (e, f) == (1.0, 1.0) or ("meV" in energy + force and (e != 1.0 and f != 1.0)):
                continue
            off = abs(math.log(slope * e / f))
            if off < math.log1p(tolerance):
                wrong = (e != 1.0) + (f != 1.0) + (force == "Hartree/Å")  # the simplest first
                found.append((wrong, off, f"energies in {energy} with forces in {force}"))
    return _listed(found)


def stress_units(ratio: float, volume: float) -> str:
    """Units in which stresses would be ``ratio`` times those in eV/Å³; ``volume``: typical, Å³."""
    found: list[tuple[int, float, str]] = []
    if not ratio > 0:
        return ""
    for name, value in _STRESS.items():
        off = abs(math.log(ratio * value))
        if off < math.log(3.0):
            found.append((0, off, f"stress in {name} (1 eV/Å³ = {1 / value:.4g} {name})"))
    if (off := abs(math.log(ratio / volume))) < math.log(3.0):
        found.append((0, off, "the virial in eV instead of the stress"))
    return _listed(found)


def _listed(found: list[tuple[int, float, str]]) -> str:
    simplest = min((wrong for wrong, _, _ in found), default=0)
    return ", or ".join(text for wrong, _, text in sorted(found)[:_MOST] if wrong == simplest)
