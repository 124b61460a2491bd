"""The contract that teachers, students and the native engine share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from limbeck.core.labels import Labels
from limbeck.core.structures import StructureBatch


@dataclass(frozen=True)
class Capabilities:
    """What a Potential claims; what it does not claim is neither asked of it nor checked.

    Attributes
    ----------
    elements: atomic numbers it was made for, or None where any is accepted.
    periodic: treats structures with a cell repeated in all three directions.
    molecular: treats structures without periodicity.
    stress: gives stress for periodic structures.
    atom_energies: gives energies per atom that sum to the total.
    isolated_atoms: a single atom without a cell has a meaningful energy.
    reflection: a mirror image has the mirrored labels (networks that are equivariant to rotations
        alone, as SevenNet-0, do not keep this exactly).
    precision: arithmetic of the evaluation; sets the tolerances of the contract check.
    """

    elements: frozenset[int] | None = None
    periodic: bool = True
    molecular: bool = True
    stress: bool = True
    atom_energies: bool = False
    isolated_atoms: bool = True
    reflection: bool = True
    precision: Literal["float32", "float64"] = "float64"


class Potential(ABC):
    """Anything that gives energies and forces for a batch of structures."""

    name: str
    capabilities: Capabilities

    @abstractmethod
    def evaluate(self, batch: StructureBatch) -> Labels:
        """Energies (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³, atomic energies (N,)."""

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
            # ASE's cache ignores a change of info (total charge), so every frame starts clean.
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


class PotentialCalculator(Calculator):
    """Any Potential as an ASE calculator: energy, free energy, forces, stress where periodic."""

    implemented_properties = ("energy", "free_energy", "forces", "stress", "energies")

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        labels = self.potential.evaluate(StructureBatch.from_atoms([self.atoms]))
        energy = float(labels.energy[0])
        self.results = {"energy": energy, "free_energy": energy, "forces": labels.forces}
        if labels.stress is not None and np.isfinite(labels.stress[0]).all():
            self.results["stress"] = full_3x3_to_voigt_6_stress(labels.stress[0])
        if labels.atom_energies is not None:
            self.results["energies"] = labels.atom_energies
