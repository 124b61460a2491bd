"""Labels and positions that lost their digits on the way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from limbeck.dataset.lint.finding import Finding
from limbeck.dataset.lint.material import Material

_LEAST = 20  # values
_ENERGY_EV_PER_ATOM, _FORCE_EV_PER_A = 1e-3, 0.04  # steps that matter
_STEPS_A = (0.1, 0.05, 0.01)
_MOVED_EV_PER_A = 0.1  # forces of structures that do not stand on the sites of a lattice
_SHARE = 0.995


def check_rounded(material: Material) -> Iterator[Finding]:
    """Energies, forces or positions that are multiples of a coarse step."""
    step = _energy_step(material.energy)
    per_atom = step / float(np.median(material.batch.counts))
    if len(material.energy) >= _LEAST and per_atom >= _ENERGY_EV_PER_ATOM and np.ptp(material.energy) > 0:
        yield Finding(
            "rounded",
            "error" if per_atom > 10 * _ENERGY_EV_PER_ATOM else "warning",
            f"energies are rounded to {step:.3g} eV, {per_atom * 1e3:.2g} meV/atom",
            remedy="write more digits, and total energies in double precision",
        )
    forces = material.forces[material.forces != 0]
    step = _decimal_step(forces, (1.0, 0.1, 0.05))
    if len(forces) >= _LEAST and step >= _FORCE_EV_PER_A:
        yield Finding(
            "rounded", "warning", f"forces are rounded to {step:.2g} eV/Å", remedy="write more digits"
        )
    yield from _positions(material)


def _energy_step(energy: np.ndarray) -> float:
    """The coarsest step of which all energies are multiples, eV; 0 where there is none."""
    step = _decimal_step(energy, (1.0, 0.1, 0.01))
    with np.errstate(over="ignore"):
        half = energy.astype(np.float16)
    if np.isfinite(half).all() and (half.astype(float) == energy).all():
        return max(step, float(np.median(np.spacing(np.abs(half)))))
    single = energy.astype(np.float32)
    if (single.astype(float) == energy).all():
        return max(step, float(np.median(np.spacing(np.abs(single)))))
    return step


def _decimal_step(values: np.ndarray, steps: tuple[float, ...]) -> float:
    for step in steps:
        if len(values) and (_multiples(values, step)).mean() > _SHARE:
            return step
    return 0.0


def _multiples(values: np.ndarray, step: float) -> np.ndarray:
    ratio = values / step
    return np.abs(ratio - np.round(ratio)) < 1e-6 * np.maximum(1.0, 1e-3 * np.abs(ratio))


def _positions(material: Material) -> Iterator[Finding]:
    """Structures away from rest all of whose coordinates are multiples of a hundredth of an Å or more."""
    moved = (material.force_rms > _MOVED_EV_PER_A) & (3 * material.batch.counts >= _LEAST)
    left = moved
    for step in _STEPS_A:
        even = np.logical_and.reduceat(
            _multiples(material.batch.positions, step).all(axis=1), material.batch.offsets[:-1]
        )
        if (found := left & even).any():
            left = left & ~even
            yield Finding(
                "rounded",
                "warning",
                f"positions of {int(found.sum())} structures are rounded to {step:g} Å, and forces are those "
                "of other places",
                material.frames(found),
                "write positions with at least four decimals",
            )
