"""Forces and stress against central differences of the energy.

Five-point stencil, D4 = (8 (E(h) - E(-h)) - (E(2h) - E(-2h))) / 12h. The step balances the measured
noise against truncation; |D4 - D2| with the plain central difference D2 bounds the remaining truncation.
Forces are not used, so wrong ones cannot widen their own tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from ase import Atoms

from limbeck.testing.probe import Probe, Tolerance, on_line
from limbeck.testing.report import CheckResult
from limbeck.testing.systems import System

RANDOM_DIRECTIONS = 4
SINGLE_COMPONENTS = 3
FIFTH_DERIVATIVE = 1e4  #: eV/Å⁵ of a stiff bond, for the choice of the step
STEP_RANGE_A = (1e-3, 0.04)
STRAIN_OF_STEP = 0.3  #: a strain moves neighbours 3 Å away by three times itself
TRUNCATION_LEFT = 0.1  #: part of |D4 - D2| that bounds the error of D4
#: of the largest component; and least values in eV/Å, eV/Å³. For third derivatives that jump where a
#: neighbour crosses a cutoff within the step, and for the convergence of self-consistent fields (GFN2: 6e-5):
#: neither shows as noise or truncation
RELATIVE = {"float32": 2e-4, "float64": 1e-4}
LEAST_FORCE, LEAST_STRESS = 1e-6, 1e-7
RESOLVED = 0.005  #: a tolerance above this part of the derivative would hide an error of 1%


def check_forces(
    probe: Probe, system: System, tolerance: Tolerance, skipped: list[str]
) -> Iterator[CheckResult]:
    """-F . u = dE along directions u: the force itself, random ones, single components."""
    atoms = system.atoms
    forces, still = probe.labels([atoms]).forces, np.zeros((3, 3))
    step = _step(tolerance)
    for name, direction in _directions(forces, probe.rng):
        found, uncertainty = _derivative(probe, partial(on_line, atoms, direction, still), step, tolerance)
        claimed = -float((forces * direction).sum())
        # Independent noise of 3N components, projected on a unit vector, is that of one component.
        limit = uncertainty + tolerance.force + LEAST_FORCE + RELATIVE[probe.precision] * np.abs(forces).max()
        if name == "along the force" and len(atoms) > 1 and limit > RESOLVED * abs(claimed):
            skipped.append(
                f"forces to 1% [{system.name}]: noise {tolerance.energy_noise:.2g} eV of the energy "
                f"blurs the derivative by {limit:.2g} of {abs(claimed):.2g} eV/Å"
            )
        detail = f"{name}: -F.u {claimed:.6g}, dE {found:.6g}, step {step:.2g} Å"
        yield CheckResult(
            "forces against finite differences", system.name, abs(claimed - found), limit, "eV/Å", detail
        )


def check_stress(
    probe: Probe, system: System, tolerance: Tolerance, skipped: list[str]
) -> Iterator[CheckResult]:
    """V S:e = dE along six symmetric strains e, positive in tension."""
    atoms = system.atoms
    stress = np.asarray(probe.labels([atoms]).stress)[0]  # (3, 3)
    still = np.zeros(atoms.positions.shape)
    volume, step, largest = atoms.get_volume(), _step(tolerance) * STRAIN_OF_STEP, np.abs(stress).max()
    for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        strain = np.zeros((3, 3))
        strain[a, b] += 0.5
        strain[b, a] += 0.5
        found, uncertainty = _derivative(probe, partial(on_line, atoms, still, strain), step, tolerance)
        claimed = float((stress * strain).sum())
        limit = uncertainty / volume + tolerance.stress + LEAST_STRESS + RELATIVE[probe.precision] * largest
        if a == b and limit > RESOLVED * largest:
            skipped.append(
                f"stress to 1% [{system.name}]: noise blurs the derivative by {limit:.2g} "
                f"of {largest:.2g} eV/Å³"
            )
        axes = "xyz"[a] + "xyz"[b]
        detail = f"{axes}: stress {claimed:.6g}, dE/V {found / volume:.6g}, strain {step:.2g}"
        error = abs(claimed - found / volume)
        yield CheckResult("stress against finite differences", system.name, error, limit, "eV/Å³", detail)


def _directions(forces: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    size = np.linalg.norm(forces)
    if size > 0:
        yield "along the force", forces / size
    for k in range(RANDOM_DIRECTIONS):
        direction = rng.normal(size=forces.shape)
        yield f"random direction {k}", direction / np.linalg.norm(direction)
    for _ in range(SINGLE_COMPONENTS):
        atom, axis = int(rng.integers(len(forces))), int(rng.integers(3))
        direction = np.zeros(forces.shape)
        direction[atom, axis] = 1.0
        yield f"atom {atom} along {'xyz'[axis]}", direction


def _step(tolerance: Tolerance) -> float:
    """The step at which noise / h and h⁴ E⁽⁵⁾ are equal, Å."""
    return float(np.clip((tolerance.energy_noise / FIFTH_DERIVATIVE) ** 0.2, *STEP_RANGE_A))


def _derivative(
    probe: Probe, frame: Callable[[float], Atoms], step: float, tolerance: Tolerance
) -> tuple[float, float]:
    """dE/dt at t = 0 and a bound of its error."""
    steps = (-2 * step, -step, step, 2 * step)
    low2, low1, high1, high2 = probe.labels([frame(t) for t in steps]).energy
    second = (high1 - low1) / (2 * step)
    fourth = (8 * (high1 - low1) - (high2 - low2)) / (12 * step)
    # The stencil amplifies noise by sqrt(130)/12 = 0.95; six deviations are certain enough.
    return float(fourth), 6 * tolerance.energy_noise / step + TRUNCATION_LEFT * abs(float(fourth - second))
