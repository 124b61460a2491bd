"""All checks that apply to a Potential's capabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from ase import Atoms

from limbeck.core.potential import Potential
from limbeck.testing import derivatives, locality, symmetry
from limbeck.testing.probe import Probe, Tolerance
from limbeck.testing.report import CheckFailure, CheckReport, CheckResult
from limbeck.testing.systems import (
    System,
    choose_elements,
    make_crystals,
    make_molecule,
    make_one_atom_cell,
    make_small_cell,
)


def check_potential(
    potential: Potential, *, systems: Sequence[Atoms] | None = None, seed: int = 0
) -> CheckReport:
    """Check a Potential against its contract on small structures of its elements.

    Symmetries, finite differences of forces and stress, batches, extensivity, small and skewed
    cells, one atom, and (where the potential has a ``cutoff`` in Å) continuity at it. Tolerances
    follow from the declared precision and the rounding noise measured on each structure; where that noise
    would hide an error of 1%, the report lists it under ``skipped``.

    Parameters
    ----------
    potential: what it does not claim in its capabilities is not checked.
    systems: structures to use for symmetries, derivatives and batches instead of made-up ones.
    seed: of directions, rotations and made-up structures.

    Raises
    ------
    CheckFailure: an AssertionError that lists every failed check.
    """
    run = _Run(Probe(potential, np.random.default_rng(seed)), systems)
    run.check_all()
    report = CheckReport(potential.name, seed, tuple(run.results), tuple(dict.fromkeys(run.skipped)))
    if not report.passed:
        raise CheckFailure(report)
    return report


#: systems with their tolerances
Measured = Iterator[tuple[System, Tolerance]]


class _Run:
    """Collects results; an error raised by the potential is a failed check, and the others still run."""

    def __init__(self, probe: Probe, given: Sequence[Atoms] | None) -> None:
        self.probe, self.capabilities = probe, probe.capabilities
        self.results: list[CheckResult] = []
        self.skipped: list[str] = []
        known = self.capabilities.elements
        if given:
            present = frozenset(int(z) for atoms in given for z in atoms.numbers)
            self.elements = choose_elements(present)
            self.systems = [System(f"{a.get_chemical_formula()} {k}", a.copy()) for k, a in enumerate(given)]
        else:
            self.elements = choose_elements(known)
            self.systems = self._made_up(known)

    def _made_up(self, known: frozenset[int] | None) -> list[System]:
        systems = []
        if self.capabilities.molecular:
            systems.append(System("molecule", make_molecule(self.elements, self.probe.rng)))
        if self.capabilities.periodic:
            systems += make_crystals(known, self.probe.rng)
        return systems

    def check_all(self) -> None:
        unclaimed = [name for name in ("reflection", "rotation") if not getattr(self.capabilities, name)]
        self.skipped += [f"{name}: not claimed" for name in unclaimed]
        checked = []
        for system, tolerance in self._measured(self.systems):
            self._check_system(system, tolerance)
            checked.append((system, tolerance))
        if self.capabilities.periodic:
            checked += self._check_small_cells()
        else:
            self.skipped.append("cells: periodic structures are not claimed")
        if self.capabilities.molecular and self.capabilities.isolated_atoms:
            checked += self._check_lone_atoms()
        else:
            self.skipped.append("one atom without a cell: not claimed")
        self._check_molecules(checked)
        if checked:
            systems, tolerances = zip(*checked, strict=True)
            self._gather("batch = alone", "all", locality.check_batch, self.probe, systems, tolerances)

    def _check_system(self, system: System, tolerance: Tolerance) -> None:
        name, given = system.name, (self.probe, system, tolerance)
        self._gather("sums", name, symmetry.check_sums, *given)
        self._gather("symmetry", name, symmetry.check_symmetries, *given)
        self._gather("forces", name, derivatives.check_forces, *given, self.skipped)
        if system.periodic and self.capabilities.stress:
            self._gather("stress", name, derivatives.check_stress, *given, self.skipped)

    def _check_small_cells(self) -> Measured:
        small = System("two-atom cell", make_small_cell(self.elements, self.probe.rng))
        one = System("one-atom cell", make_one_atom_cell(max(self.elements), self.probe.rng))
        for system, tolerance in self._measured((small, one)):
            self._check_system(system, tolerance)
            self._gather("supercell", system.name, locality.check_supercell, self.probe, system, tolerance)
            if system is one:
                self._gather("one atom", one.name, locality.check_one_atom, self.probe, one, tolerance)
            yield system, tolerance

    def _check_lone_atoms(self) -> Measured:
        atoms = {z: Atoms(numbers=[z], positions=[[0.3, -0.2, 0.1]]) for z in self.elements}
        for system, tolerance in self._measured(System(f"lone atom {z}", one) for z, one in atoms.items()):
            self._gather("one atom", system.name, locality.check_one_atom, self.probe, system, tolerance)
            yield system, tolerance

    def _check_molecules(self, checked: list[tuple[System, Tolerance]]) -> None:
        """Far fragments and the cutoff, on the first system that has no cell."""
        free = [(s, t) for s, t in checked if not s.atoms.pbc.any() and len(s.atoms) > 1]
        if not self.capabilities.molecular or not free:
            self.skipped.append("far fragments and the cutoff: nothing without a cell is claimed or given")
            return
        probe, (system, tolerance) = self.probe, free[0]
        if self.capabilities.extensive:
            given = (probe, system, self.elements, tolerance)
            self._gather("far fragments", system.name, locality.check_extensivity, *given)
        else:
            self.skipped.append("far fragments: extensive energies are not claimed")
        if getattr(probe.potential, "cutoff", None) is None:
            self.skipped.append("continuity at the cutoff: the potential states no cutoff")
        else:
            self._gather("cutoff", "dimers", locality.check_cutoff, probe, self.elements, tolerance)

    def _measured(self, systems: Iterable[System]) -> Measured:
        """The systems that can be evaluated, with their tolerances."""
        for system in systems:
            try:
                tolerance = self.probe.tolerance(system.atoms)
            except Exception as error:  # noqa: BLE001  (a finding, as below)
                self._raised("evaluation", system.name, error)
            else:
                yield system, tolerance

    def _gather(
        self, name: str, system: str, check: Callable[..., Iterable[CheckResult]], *arguments: object
    ) -> None:
        try:
            self.results.extend(check(*arguments))
        # Whatever a potential raises is a finding about it, to be listed with the others.
        except Exception as error:  # noqa: BLE001
            self._raised(name, system, error)

    def _raised(self, name: str, system: str, error: Exception) -> None:
        detail = f"raised {type(error).__name__}: {error}"
        self.results.append(CheckResult(name, system, float("inf"), 0.0, "", detail))
