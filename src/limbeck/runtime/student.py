"""A student file as a Potential."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from limbeck.artifact.file import StudentArtifact, read_student
from limbeck.core.charge import stated_charge
from limbeck.core.devices import require_device
from limbeck.core.labels import Labels
from limbeck.core.machine import available_threads
from limbeck.core.potential import CachingCalculator, Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.runtime.backends.choose import make_backend
from limbeck.runtime.guard import Guard
from limbeck.runtime.released import find_student
from limbeck.runtime.session import Session, SessionCalculator
from limbeck.students.engine import EngineKind, Precision
from limbeck.students.specification import Architecture


class Student(Potential):
    """A trained student: network, reference energies and core repulsion.

    Any number of threads may evaluate with one student. ``threads`` is for the native engine; PyTorch uses
    ``torch.set_num_threads``. ``guard.counts`` counts the structures of another total charge or spin that
    :meth:`evaluate` was given.

    Attributes
    ----------
    name: preset, or the file's name.
    cutoff: Å.
    record: everything the file holds.
    """

    thread_safe = True

    def __init__(
        self,
        record: StudentArtifact,
        *,
        name: str | None = None,
        threads: int | None = None,
        precision: Precision | None = None,
        engine: EngineKind = "auto",
        device: str = "cpu",
    ) -> None:
        self._options: dict[str, Any] = {
            "name": name, "threads": threads, "precision": precision, "engine": engine, "device": device
        }  # fmt: skip
        require_device(device)
        arch = record.architecture
        self.record, self.cutoff = record, arch.cutoff
        self.name = name or str(record.card.get("preset") or "student")
        chosen: Precision = precision or ("float64" if record.dtype == "float64" else "float32")
        # of a batch only charge and spin are checked; the calculator checks the ranges too
        self.guard = Guard(record.state.on_card(), arch.elements, name=self.name, owner="student")
        self._threads = _positive(available_threads() if threads is None else threads)
        self.backend = make_backend(record, kind=engine, precision=chosen, device=device, where=self.name)
        self.capabilities = Capabilities(
            elements=frozenset(arch.elements), stress=True, atom_energies=True, precision=chosen
        )

    @classmethod
    def load(cls, path: Path | str, **options: Any) -> Student:
        """Read a student file, or a released student by name such as ``"silicon-tiny"``.

        Raises
        ------
        InputError: no such file or name, or a file that is damaged.
        """
        found = find_student(path)
        return cls(read_student(found), name=found.stem, **options)

    def __getstate__(self) -> dict[str, Any]:
        # the backend holds memory of the compiled core: a copy makes its own
        return {"record": self.record, **self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def architecture(self) -> Architecture:
        """Hyperparameters."""
        return self.record.architecture

    @property
    def card(self) -> dict[str, Any]:
        """Provenance: teacher, data, metrics."""
        return self.record.card

    @property
    def n_parameters(self) -> int:
        """Trainable parameters."""
        return self.record.architecture.n_parameters

    def make_calculator(self) -> CachingCalculator:
        """An ASE calculator that keeps its neighbour list between steps; it does not check the domain."""
        return SessionCalculator(self)

    def session(self, **options: Any) -> Session:
        """A :class:`Session` (``skin=``, ``threads=``), for structures that change little between calls."""
        return Session(self, **options)

    def evaluate(
        self, batch: StructureBatch | Iterable[Atoms], threads: int | None = None, *, strict: bool = False
    ) -> Labels:
        """Energies (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³ where periodic, atomic energies.

        A structure of another total charge or spin than the student's gives one warning and is counted in
        ``guard.counts``; one without an entry (in a StructureBatch: zero) does not.

        Parameters
        ----------
        threads: for the structures, or the atoms of few large ones; None takes the student's number.
        strict: raise :class:`OutOfDomainError` instead of the warning.

        Raises
        ------
        InputError: an element the student does not know, positions that are not finite.
        """
        if isinstance(batch, StructureBatch):
            charges: list[float | None] = [charge or None for charge in batch.charge.tolist()]
        else:
            frames = list(batch)
            batch, charges = StructureBatch.from_atoms(frames), [stated_charge(atoms) for atoms in frames]
        self.check(batch)
        for charge, spin in zip(charges, batch.spin.tolist(), strict=True):
            self.guard.check_state(charge, spin, strict=strict)
        out = self.backend.evaluate(batch, self.number_of_threads(threads))
        periodic = batch.periodic
        stress = np.full((len(batch), 3, 3), np.nan)
        stress[periodic] = out.virial[periodic] / batch.volume[periodic, None, None]
        return Labels(energy=out.energy, forces=out.forces, stress=stress, atom_energies=out.atom_energies)

    def number_of_threads(self, threads: int | None) -> int:
        """``threads``, or the student's own number."""
        return self._threads if threads is None else _positive(threads)

    def hvp(self, atoms: Atoms, v: np.ndarray) -> np.ndarray:
        """Hessian-vector product, (N, 3), eV/Å² times the unit of ``v``, exact, in float64.

        Dual numbers carry the direction through the forces (Griewank and Walther, Evaluating
        Derivatives, 2008, ch. 3).

        Parameters
        ----------
        v: (N, 3), a displacement of every atom at fixed cell.

        Raises
        ------
        InputError: v of another shape; what :meth:`evaluate` refuses.
        LimbeckError: the student does not run on the native core.
        """
        direction = np.asarray(v, np.float64)
        if direction.shape != (len(atoms), 3):
            raise InputError("v has the wrong shape", got=direction.shape, wanted=(len(atoms), 3))
        return self._hessian_products(atoms, direction[None])[0]

    def hessian(self, atoms: Atoms) -> np.ndarray:
        """Second derivatives of the energy at fixed cell, (N, 3, N, 3), eV/Å²; see :meth:`hvp`."""
        n = len(atoms)
        rows = self._hessian_products(atoms, np.eye(3 * n).reshape(3 * n, n, 3)).reshape(3 * n, 3 * n)
        return ((rows + rows.T) / 2).reshape(n, 3, n, 3)

    def _hessian_products(self, atoms: Atoms, directions: np.ndarray) -> np.ndarray:
        batch = StructureBatch.from_atoms([atoms])
        self.check(batch)
        if not hasattr(self.backend, "hessian_products"):
            raise LimbeckError(
                "Hessians need the native core",
                where=self.name,
                got=self.backend.name,
                remedy="load the student with engine='native'",
            )
        return self.backend.hessian_products(batch, directions)

    def check(self, batch: StructureBatch) -> None:
        """InputError unless the student knows every element and all numbers are finite."""
        known = self.record.architecture.elements
        unknown = sorted(set(np.unique(batch.numbers).tolist()) - set(known))
        if unknown:
            symbols = dict(enumerate(chemical_symbols))
            raise InputError(
                "the student does not know an element",
                where=self.name,
                got=", ".join(symbols.get(z, str(z)) for z in unknown),
                wanted=" ".join(chemical_symbols[z] for z in known),
                remedy="train a student on structures that hold it",
            )
        if not (np.isfinite(batch.positions).all() and np.isfinite(batch.cell).all()):
            atom = int(np.flatnonzero(~np.isfinite(batch.positions).all(axis=1))[:1].sum())
            raise InputError(
                "positions or cell are not finite", where=f"{self.name}, atom {atom}", got="NaN or inf"
            )


def _positive(threads: int) -> int:
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or threads < 1:
        raise InputError("invalid number of threads", got=repr(threads), wanted="1 or more")
    return int(threads)
