"""Evaluations of the Potential under check, with verified shapes, and its measured rounding noise.

Along a line of twelve points so close together that any smooth function is a cubic there, fourth
differences contain rounding alone, with its variance times 70 (the sum of squared binomials): J. J. Moré and
S. M. Wild, SIAM J. Sci. Comput. 33, 1292 (2011).
So a large constant added to the energy in float64 has no effect, and one added in float32 widens the
tolerances by the digits it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from limbeck.core.labels import Labels
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch

EPS = {"float32": float(np.finfo(np.float32).eps), "float64": float(np.finfo(np.float64).eps)}
LINE_POINTS = 12
#: wide enough that energies fall on different rounding errors, close enough that fourth derivatives
#: (1e4 eV/Å⁴ for stiff bonds) vanish
LINE_SPACING_A = {"float32": 1e-3, "float64": 1e-6}
STRAIN_PER_A = 0.1  #: cells are strained along the line too, since moving a single atom changes nothing
NOISE_FACTOR = 30.0  #: differences of two evaluations stay below this many standard deviations
SYSTEMATIC_EPS = 200.0  #: rounding of constants (bases, coefficients) is smooth: not seen as noise
#: differences below these are ignored: eV per atom, eV/Å, eV/Å³
FLOOR = {"float32": (1e-6, 1e-5, 1e-6), "float64": (1e-9, 1e-8, 1e-10)}
#: energy noise allowed, relative to max(|E|, 1 eV an atom): rounding, and iterations of solvers
NOISE_ALLOWED = {"float32": 300 * EPS["float32"], "float64": 1e-8}


@dataclass(frozen=True)
class Tolerance:
    """Tolerances for differences of two equivalent evaluations, and the noise they are based on.

    Attributes
    ----------
    energy eV, force eV/Å, stress eV/Å³: tolerances. energy_noise eV: standard deviation of rounding.
    noise_allowed eV: the largest noise that the declared precision explains.
    """

    energy: float
    force: float
    stress: float
    energy_noise: float
    noise_allowed: float


@dataclass(frozen=True)
class System:
    """A named structure to check on, with its tolerances."""

    name: str
    atoms: Atoms
    tolerance: Tolerance

    @property
    def periodic(self) -> bool:
        return bool(self.atoms.pbc.all()) and abs(np.linalg.det(self.atoms.cell.array)) > 0


@dataclass(frozen=True)
class CheckResult:
    """One comparison: it passes where ``error <= tolerance`` (NaN fails).

    Attributes
    ----------
    name: the property checked. system: the structure it was checked on.
    error, tolerance: in ``unit``. detail: the largest term, or the error raised.
    """

    name: str
    system: str
    error: float
    tolerance: float
    unit: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        return bool(self.error <= self.tolerance)

    def __str__(self) -> str:
        values = f"{self.error:.3g} {'<=' if self.passed else '>'} {self.tolerance:.3g} {self.unit}"
        return f"{self.name} [{self.system}]: {values}" + (f" ({self.detail})" if self.detail else "")


class ContractBreach(Exception):
    """The labels themselves are malformed (shape, dtype, not finite)."""


class Probe:
    """Evaluates a Potential and measures its tolerances."""

    def __init__(self, potential: Potential, rng: np.random.Generator) -> None:
        self.potential, self.rng = potential, rng
        self.capabilities = potential.capabilities
        self.precision = potential.capabilities.precision

    def labels(self, frames: Sequence[Atoms]) -> Labels:
        """Labels of a batch, with shapes and dtypes verified.

        Raises
        ------
        ContractBreach: a wrong shape or dtype, a number that is not finite, a missing stress.
        """
        batch = StructureBatch.from_atoms(frames)
        labels = self.potential.evaluate(batch)
        self._verify("energy", labels.energy, (len(batch),))
        self._verify("forces", labels.forces, (batch.n_atoms, 3))
        if self.capabilities.stress and batch.periodic.any():
            self._verify("stress", labels.stress, (len(batch), 3, 3), rows=batch.periodic)
        if self.capabilities.atom_energies:
            self._verify("atom_energies", labels.atom_energies, (batch.n_atoms,))
        return labels

    def _verify(
        self, name: str, value: object, shape: tuple[int, ...], rows: np.ndarray | slice = slice(None)
    ) -> None:
        if not isinstance(value, np.ndarray) or value.dtype != np.float64:
            raise ContractBreach(f"{name} is {getattr(value, 'dtype', type(value).__name__)}, wanted float64")
        if value.shape != shape:
            raise ContractBreach(f"{name} has shape {value.shape}, wanted {shape}")
        if not np.isfinite(value[rows]).all():
            raise ContractBreach(f"{name} is not finite")

    def tolerance(self, atoms: Atoms) -> Tolerance:
        """Tolerances for this structure, from noise measured along one line (12 evaluations)."""
        base = self.labels([atoms])
        direction = self.rng.normal(size=(len(atoms), 3))
        direction /= np.linalg.norm(direction)
        size = np.linalg.norm(base.forces)
        if size > 0:
            # along the force energies change most, which shows rounding
            direction = direction + base.forces / size
        strain = self.rng.normal(size=(3, 3)) * STRAIN_PER_A
        steps = (np.arange(LINE_POINTS) - LINE_POINTS / 2) * LINE_SPACING_A[self.precision]
        line = [self.labels([on_line(atoms, direction, strain, t)]) for t in steps]
        energies = np.array([labels.energy[0] for labels in line])
        size_e = abs(float(base.energy[0]))
        energy_noise = max(_noise(energies), self._grid_noise(energies), 4 * EPS["float64"] * size_e)
        force_noise = _noise(np.array([labels.forces for labels in line]))
        stress = stress_noise = 0.0
        if base.stress is not None and np.isfinite(base.stress).all():
            stress = float(np.abs(base.stress).max())
            stress_noise = _noise(np.array([labels.stress for labels in line]))
        # The interaction energy is about what forces do over an angstrom.
        interaction = float(np.linalg.norm(base.forces, axis=1).sum())
        systematic, (floor_e, floor_f, floor_s) = SYSTEMATIC_EPS * EPS[self.precision], FLOOR[self.precision]
        return Tolerance(
            energy=NOISE_FACTOR * energy_noise + systematic * interaction + floor_e * len(atoms),
            force=NOISE_FACTOR * force_noise + systematic * largest(base.forces) + floor_f,
            stress=NOISE_FACTOR * stress_noise + systematic * stress + floor_s,
            energy_noise=energy_noise,
            noise_allowed=NOISE_ALLOWED[self.precision] * max(size_e, len(atoms)),
        )

    def _grid_noise(self, energies: np.ndarray) -> float:
        """Rounding of energies that all lie on the grid of float32 numbers, else 0.

        Energies of a float64 potential are on that grid only where they are constant.
        """
        on_grid = (energies.astype(np.float32).astype(np.float64) == energies).all()
        rounded = on_grid and (self.precision == "float32" or np.ptp(energies) > 0)
        return 0.5 * EPS["float32"] * float(np.abs(energies).max()) if rounded else 0.0


def on_line(atoms: Atoms, displacement: np.ndarray, strain: np.ndarray, amount: float) -> Atoms:
    """A copy displaced by (N, 3) Å and strained by (3, 3), both times ``amount``."""
    copy = atoms.copy()
    copy.positions = atoms.positions + amount * displacement
    if atoms.pbc.any() and strain.any():
        copy.set_cell(atoms.cell.array @ (np.eye(3) + amount * strain), scale_atoms=True)
    return copy


def largest(difference: np.ndarray) -> float:
    """max |difference|, infinite where anything is NaN, 0 for an empty array."""
    value = float(np.abs(difference).max(initial=0.0))
    return value if np.isfinite(value) else float("inf")


def _noise(values: np.ndarray) -> float:
    """Standard deviation of rounding along axis 0, the largest over the others' components."""
    fourth = np.diff(values, n=4, axis=0)
    return float(np.sqrt((fourth**2).mean(axis=0) / 70.0).max())
