"""The contract that teachers, students and the native engine share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes, compare_atoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from limbeck.core.charge import spin_multiplicity, total_charge, write_charge
from limbeck.core.labels import Labels
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError


@dataclass(frozen=True)
class Capabilities:
    """What a Potential can do; what it does not claim is neither asked of it nor checked.

    Attributes
    ----------
    elements: atomic numbers it was made for, or None where any is accepted.
    periodic: treats structures with a cell repeated in all three directions.
    molecular: treats structures without periodicity.
    stress: gives stress for periodic structures.
    atom_energies: gives energies per atom that sum to the total.
    isolated_atoms: a single atom without a cell has a meaningful energy.
    rotation: a rotated structure has rotated labels (unconstrained networks such as ORB learn this only
        approximately).
    extensive: energies of separate parts add up (ORB takes a mean over all atoms).
    charge: treats a total charge other than zero (``StructureBatch.charge``).
    spin: treats a multiplicity above one (``StructureBatch.spin``).
    reflection: a mirror image has mirrored labels (not exact in networks equivariant to rotations alone, such
        as SevenNet-0).
    precision: arithmetic of the evaluation; sets the tolerances of the contract check.
    batch_atoms: atoms per call up to which a batch takes less time than its structures one by one; None where
        batches gain nothing. A single structure may be larger.
    """

    elements: frozenset[int] | None = None
    periodic: bool = True
    molecular: bool = True
    stress: bool = True
    atom_energies: bool = False
    isolated_atoms: bool = True
    rotation: bool = True
    extensive: bool = True
    charge: bool = False
    spin: bool = False
    reflection: bool = True
    precision: Literal["float32", "float64"] = "float64"
    batch_atoms: int | None = None


class Potential(ABC):
    """Anything that gives energies and forces for a batch of structures."""

    name: str
    capabilities: Capabilities

    @abstractmethod
    def evaluate(self, batch: StructureBatch) -> Labels:
        """Energies (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³, atomic energies (N,)."""

    def make_calculator(self) -> CachingCalculator:
        """An ASE calculator on this Potential, for dynamics and relaxations."""
        return PotentialCalculator(self)

    def close(self) -> None:  # noqa: B027  (most potentials hold nothing to release)
        """Release processes and files; safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsePotential(Potential):
    """Any ASE calculator as a Potential, one structure at a time."""

    def __init__(self, calculator: Calculator, capabilities: Capabilities, name: str) -> None:
        self.calculator, self.capabilities, self.name = calculator, capabilities, name

    def evaluate(self, batch: StructureBatch) -> Labels:
        caps = self.capabilities
        energy, forces, atom_energies = np.zeros(len(batch)), [], []
        stress = np.full((len(batch), 3, 3), np.nan)
        for s, (frame, periodic) in enumerate(zip(batch.to_atoms(), batch.periodic, strict=True)):
            # ASE's cache ignores info (total charge); and since workers take structures in random order, a
            # label must not depend on the one before, not even by rounding.
            self.calculator.reset()
            frame.calc = self.calculator
            forces.append(np.asarray(frame.get_forces(), np.float64))
            energy[s] = float(frame.get_potential_energy())
            if caps.stress and periodic:
                stress[s] = voigt_6_to_full_3x3_stress(frame.get_stress())
            if caps.atom_energies:
                atom_energies.append(np.asarray(frame.get_potential_energies(), np.float64).ravel())
        return Labels(
            energy=energy,
            forces=np.concatenate(forces) if forces else np.zeros((0, 3)),
            stress=stress if caps.stress else None,
            atom_energies=np.concatenate(atom_energies) if atom_energies else None,
        )


class CachingCalculator(Calculator):
    """ASE calculator whose bookkeeping takes microseconds instead of ASE's hundreds.

    Results stay valid while numbers, positions, cell, pbc, total charge and spin are bit for bit those of the
    last evaluation; nothing else of an Atoms object reaches a Potential. All is evaluated at once.
    """

    name = "limbeck"
    # ASE compares these too, but a Potential never sees them
    ignored_changes = frozenset({"initial_charges", "initial_magmoms"})

    def __init__(self) -> None:
        self._state: _State | None = None
        super().__init__()

    @abstractmethod
    def results_of(self, atoms: Atoms) -> dict[str, Any]:
        """All properties of one structure, by ASE's names and in ASE's units and signs."""

    @property
    def atoms(self) -> Atoms | None:
        """The structure of the last evaluation: numbers, positions, cell, pbc, charge and spin."""
        return None if self._state is None else _restore(self._state)

    @atoms.setter
    def atoms(self, atoms: Atoms | None) -> None:
        self._state = None if atoms is None else _state_of(atoms)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate ``atoms``, or the last structure again; a failure leaves no results behind."""
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise InputError("no structure to evaluate", where=self.name, wanted="atoms")
        self.reset()
        state = _state_of(atoms)
        self.results = self.results_of(atoms)
        self._state = state

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """ASE's ``get_property``: arrays are copies; None where a calculation is needed and not allowed."""
        if name not in self.implemented_properties:
            raise PropertyNotImplementedError(f"{name} property not implemented")
        if atoms is not None and self._state != _state_of(atoms):
            self.reset()
        if name not in self.results:
            if not allow_calculation:
                return None
            self.calculate(atoms, (name,))
        if name not in self.results:
            raise PropertyNotImplementedError(f"{name} not present in this calculation")
        value = self.results[name]
        return value.copy() if isinstance(value, np.ndarray) else value

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """Names of what differs from the last evaluation by more than ``tol``; all names before the first."""
        if self._state is None:
            return [*all_changes, "charge", "spin"]
        names = ("numbers", "positions", "cell", "pbc", "charge", "spin")
        exact = [n for n, a, b in zip(names, self._state, _state_of(atoms), strict=True) if a != b]
        if tol:
            changes = compare_atoms(self.atoms, atoms, tol, set(self.ignored_changes))
            return changes + [name for name in exact if name in ("charge", "spin")]
        return exact


class PotentialCalculator(CachingCalculator):
    """Any Potential as an ASE calculator: energy, free energy, forces, stress where periodic."""

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress", "energies"]

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        super().__init__()

    def results_of(self, atoms: Atoms) -> dict[str, Any]:
        labels = self.potential.evaluate(StructureBatch.from_atoms([atoms]))
        energy = float(labels.energy[0])
        results = {"energy": energy, "free_energy": energy, "forces": labels.forces}
        if labels.stress is not None and np.isfinite(labels.stress[0]).all():
            results["stress"] = full_3x3_to_voigt_6_stress(labels.stress[0])
        if labels.atom_energies is not None:
            results["energies"] = labels.atom_energies
        return results


#: numbers, positions, cell and pbc as bytes, which nobody can change in place; charge, spin
_State = tuple[bytes, bytes, bytes, bytes, float, int]


def _state_of(atoms: Atoms) -> _State:
    arrays = atoms.arrays
    return (
        np.asarray(arrays["numbers"], np.int64).tobytes(),
        np.asarray(arrays["positions"], np.float64).tobytes(),
        np.asarray(atoms.cell.array, np.float64).tobytes(),
        atoms.pbc.tobytes(),
        total_charge(atoms),
        spin_multiplicity(atoms),
    )


def _restore(state: _State) -> Atoms:
    numbers, positions, cell, pbc, charge, spin = state
    atoms = Atoms(
        numbers=np.frombuffer(numbers, np.int64),
        positions=np.frombuffer(positions, np.float64).reshape(-1, 3),
        cell=np.frombuffer(cell, np.float64).reshape(3, 3),
        pbc=np.frombuffer(pbc, bool),
    )
    write_charge(atoms.info, charge, spin)
    return atoms
