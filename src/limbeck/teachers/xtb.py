"""GFN2-xTB by tblite: semiempirical tight binding with multipole electrostatics and D4, float64.

Source: Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 2019, 15, 1652 (doi 10.1021/acs.jctc.8b01176).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase.units import Bohr, Hartree

from limbeck.core.labels import Labels
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.teachers.card import TeacherCard

CARDS = (
    TeacherCard(
        name="gfn2-xtb",
        package="tblite",
        distribution="tblite",
        requirement="tblite==0.8.0",
        extra="xtb",
        elements=frozenset(range(1, 87)),
        domain="molecules and complexes of H-Rn (semiempirical GFN2-xTB), no periodicity",
        licence="LGPL-3.0-or-later",
        citation="Bannwarth et al., J. Chem. Theory Comput. 2019, 15, 1652; doi 10.1021/acs.jctc.8b01176",
        # Electrons of a cell are treated at the Γ point alone, so a cell and its supercell differ
        # (diamond, 8 against 16 atoms: by 0.84 eV an atom).
        periodic=False,
        stress=False,
        atom_energies=True,
        # Its atoms know no spin: measured against them water is bound by 14.0 eV (10.1 in nature) and N2
        # by 14.8 (9.9), and with bonds drawn out to 4 Å some SCFs do not converge (CO).
        isolated_atoms=False,
        charge=True,
        spin=True,
    ),
)


def load(card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, None]:
    """GFN2-xTB on the CPU; it has no network, so no number of parameters."""
    return GFN2(card), None


class GFN2(Potential):
    """tblite's single points; each begins from the wavefunction of the last structure of the same atoms.

    That saves SCF cycles, as tblite's own ASE calculator does, and changes labels within the SCF's
    tolerance (seen: energies by 1e-8 eV, forces by 1e-4 eV/Å). Where no multiplicity is given, odd
    numbers of electrons have one unpaired, even ones none, as tblite does by default.
    """

    def __init__(self, card: TeacherCard) -> None:
        self.name, self.capabilities = card.name, card.capabilities
        # atoms, charge and multiplicity; calculator; result
        self._last: tuple[tuple[bytes, float, int], Any, Any] | None = None

    def evaluate(self, batch: StructureBatch) -> Labels:
        """Raises tblite's TBLiteRuntimeError, one line, where an SCF does not converge."""
        energy = np.zeros(len(batch))
        forces, atom_energies = np.zeros((batch.n_atoms, 3)), np.zeros(batch.n_atoms)
        for s in range(len(batch)):
            atoms = slice(batch.offsets[s], batch.offsets[s + 1])
            state = float(batch.charge[s]), int(batch.spin[s])
            found = self._single_point(batch.numbers[atoms], batch.positions[atoms], *state)
            energy[s] = found["energy"] * Hartree
            forces[atoms] = -found["gradient"] * (Hartree / Bohr)
            atom_energies[atoms] = found["energies"] * Hartree
        return Labels(energy, forces, atom_energies=atom_energies)

    def _single_point(self, numbers: np.ndarray, positions: np.ndarray, charge: float, spin: int) -> Any:
        from tblite.exceptions import TBLiteRuntimeError
        from tblite.interface import Calculator

        same = (np.asarray(numbers, np.int64).tobytes(), charge, spin)
        if self._last is not None and self._last[0] == same:
            _, calculator, before = self._last
            self._last = None  # kept again only after a success
            try:
                calculator.update(positions / Bohr)
                found = calculator.singlepoint(before)
            except TBLiteRuntimeError:
                pass  # a guess that misleads: from the start below
            else:
                self._last = (same, calculator, found)
                return found
        unpaired = spin - 1 if spin else None
        calculator = Calculator("GFN2-xTB", numbers, positions / Bohr, charge=charge, uhf=unpaired)
        calculator.set("verbosity", 0)
        found = calculator.singlepoint()
        self._last = (same, calculator, found)
        return found
