"""All checks that apply to a Potential's capabilities, and their report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from limbeck.core.potential import Potential
from limbeck.testing import checks
from limbeck.testing.probe import CheckResult, Probe, System
from limbeck.testing.systems import (
    choose_elements,
    make_crystals,
    make_molecule,
    make_one_atom_cell,
    make_small_cell,
)


@dataclass(frozen=True)
class CheckReport:
    """All comparisons, and those skipped with the reason."""

    potential: str
    seed: int
    results: tuple[CheckResult, ...]
    skipped: tuple[str, ...]

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.results if not result.passed)

    @property
    def passed(self) -> bool:
        return bool(self.results) and not self.failures

    def __str__(self) -> str:
        count = f"{len(self.failures)} of {len(self.results)} checks failed"
        lines = [f"{self.potential}: {count}, seed {self.seed}"]
        lines += [f"  FAIL {result}" for result in self.failures]
        lines += [f"  not checked: {reason}" for reason in self.skipped]
        return "\n".join(lines)


class CheckFailure(AssertionError):
    """A Potential breaks its contract; the message lists every failed check, ``report`` has all."""

    def __init__(self, report: CheckReport) -> None:
        super().__init__(str(report))
        self.report = report


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
    run = _Run(Probe(potential, np.random.default_rng(seed)))
    run.check_all(systems)
    report = CheckReport(potential.name, seed, tuple(run.results), tuple(dict.fromkeys(run.skipped)))
    if not report.passed:
        raise CheckFailure(report)
    return report


Check = Callable[..., Iterator[CheckResult]]


class _Run:
    """Collects results; an error raised by the potential is a failed check, and the others still run."""

    def __init__(self, probe: Probe) -> None:
        self.probe, self.capabilities = probe, probe.capabilities
        self.results: list[CheckResult] = []
        self.skipped: list[str] = []

    def check_all(self, given: Sequence[Atoms] | None) -> None:
        claims, known = self.capabilities, self.capabilities.elements
        if given:
            elements = choose_elements(frozenset(int(z) for atoms in given for z in atoms.numbers))
            frames = {f"{a.get_chemical_formula()} {k}": a.copy() for k, a in enumerate(given)}
        else:
            elements = choose_elements(known)
            frames = {"molecule": make_molecule(elements, self.probe.rng)} if claims.molecular else {}
            frames |= make_crystals(known, self.probe.rng) if claims.periodic else {}
        unclaimed = [name for name in ("reflection", "rotation") if not getattr(claims, name)]
        self.skipped += [f"{name}: not claimed" for name in unclaimed]
        checked = []
        for system in self._measured(frames):
            self._check_system(system)
            checked.append(system)
        if claims.periodic:
            checked += self._check_small_cells(elements)
        else:
            self.skipped.append("cells: periodic structures are not claimed")
        if claims.molecular and claims.isolated_atoms:
            lone = {f"lone atom {z}": Atoms(numbers=[z], positions=[[0.3, -0.2, 0.1]]) for z in elements}
            for system in self._measured(lone):
                self._gather("one atom", checks.check_one_atom, system)
                checked.append(system)
        else:
            self.skipped.append("one atom without a cell: not claimed")
        free = [s for s in checked if not s.atoms.pbc.any() and len(s.atoms) > 1]
        self._check_molecule(free[0] if claims.molecular and free else None, elements)
        if checked:
            self._gather("batch = alone", checks.check_batch, checked)

    def _check_system(self, system: System) -> None:
        self._gather("sums", checks.check_sums, system)
        self._gather("symmetry", checks.check_symmetries, system)
        self._gather("forces", checks.check_forces, system, self.skipped)
        if system.periodic and self.capabilities.stress:
            self._gather("stress", checks.check_stress, system, self.skipped)

    def _check_small_cells(self, elements: Sequence[int]) -> Iterator[System]:
        small = make_small_cell(elements, self.probe.rng)
        one = make_one_atom_cell(max(elements), self.probe.rng)
        for system in self._measured({"two-atom cell": small, "one-atom cell": one}):
            self._check_system(system)
            self._gather("supercell", checks.check_supercell, system)
            if system.atoms is one:
                self._gather("one atom", checks.check_one_atom, system)
            yield system

    def _check_molecule(self, system: System | None, elements: Sequence[int]) -> None:
        """Far fragments and the cutoff, on a system that has no cell."""
        if system is None:
            self.skipped.append("far fragments and the cutoff: nothing without a cell is claimed or given")
            return
        if self.capabilities.extensive:
            self._gather("far fragments", checks.check_extensivity, system, elements)
        else:
            self.skipped.append("far fragments: extensive energies are not claimed")
        if getattr(self.probe.potential, "cutoff", None) is None:
            self.skipped.append("continuity at the cutoff: the potential states no cutoff")
        else:
            self._gather("cutoff", checks.check_cutoff, system, elements)

    def _measured(self, frames: Mapping[str, Atoms]) -> Iterator[System]:
        """The structures that can be evaluated, with their tolerances."""
        for name, atoms in frames.items():
            try:
                tolerance = self.probe.tolerance(atoms)
            except Exception as error:  # noqa: BLE001  (a finding, as below)
                self._raised("evaluation", name, error)
            else:
                yield System(name, atoms, tolerance)

    def _gather(self, name: str, check: Check, system: System | list[System], *rest: object) -> None:
        try:
            self.results.extend(check(self.probe, system, *rest))
        # Whatever a potential raises is a finding about it, to be listed with the others.
        except Exception as error:  # noqa: BLE001
            self._raised(name, system.name if isinstance(system, System) else "all", error)

    def _raised(self, name: str, system: str, error: Exception) -> None:
        detail = f"raised {type(error).__name__}: {error}"
        self.results.append(CheckResult(name, system, float("inf"), 0.0, "", detail))
