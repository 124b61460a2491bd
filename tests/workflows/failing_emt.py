"""EMT that gives up on stretched cells, for the workers of a test."""

from __future__ import annotations

from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT


class FailingEMT(EMT):
    """Fails where the first cell vector is longer than 4 Å."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        if atoms.cell.lengths()[0] > 4:
            raise RuntimeError("SCF did not converge")
        super().calculate(atoms, properties, system_changes)
