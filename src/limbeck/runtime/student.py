"""A student file as a Potential, and as an ASE calculator."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.data import chemical_symbols

from limbeck.artifact.file import StudentArtifact, read_student
from limbeck.core.charge import stated_charge
from limbeck.core.devices import require_device
from limbeck.core.labels import Labels
from limbeck.core.machine import available_threads
from limbeck.core.potential import CachingCalculator, Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.runtime.backends.interface import Backend
from limbeck.runtime.backends.native import NativeBackend
from limbeck.runtime.backends.torch import TorchBackend
from limbeck.runtime.guard import Guard
from limbeck.runtime.released import find_student
from limbeck.runtime.session import DEFAULT_SKIN_A, Session
from limbeck.students.engine import EngineKind, Precision, native_available, require_native
from limbeck.students.specification import Architecture

_VOIGT = np.array([0, 4, 8, 5, 2, 1])  # xx yy zz yz xz xy in the flat (3, 3)


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
        self, record: StudentArtifact, *, name: str | None = None, threads: int | None = None,
        precision: Precision | None = None, engine: EngineKind = "auto", device: str = "cpu",
    ) -> None:  # fmt: skip
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
        if engine == "auto" and device == "cpu" and not native_available():
            warnings.warn(
                f"{self.name}: the native core is not built, so PyTorch runs this student, many times slower"
                "; remedy: install a C++17 compiler, then pip install -c constraints.txt -e .",
                stacklevel=2,
            )
            engine = "torch"
        self.backend: Backend
        if engine == "torch" or device != "cpu":
            self.backend = TorchBackend(record, precision=chosen, device=device)
        else:
            require_native()
            self.backend = NativeBackend(record, precision=chosen)
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
        return self.record.architecture

    @property
    def card(self) -> dict[str, Any]:
        """Provenance: teacher, data, metrics."""
        return self.record.card

    @property
    def n_parameters(self) -> int:
        return self.record.architecture.n_parameters

    def make_calculator(self) -> CachingCalculator:
        """An ASE calculator that keeps its neighbour list between steps; it does not check the domain."""
        return Calculator(self, guarded=False)

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
            got, remedy = self.backend.name, "load the student with engine='native'"
            raise LimbeckError("Hessians need the native core", where=self.name, got=got, remedy=remedy)
        return self.backend.hessian_products(batch, directions)

    def check(self, batch: StructureBatch) -> None:
        """InputError unless the student knows every element and all numbers are finite."""
        check_known(batch, self.architecture.elements, self.name)


def check_known(batch: StructureBatch, elements: tuple[int, ...], where: object) -> None:
    """InputError unless all elements are known and all numbers are finite."""
    unknown = sorted(set(batch.numbers.tolist()) - set(elements))
    if unknown:
        symbols = dict(enumerate(chemical_symbols))
        got = ", ".join(symbols.get(z, str(z)) for z in unknown)
        what, wanted = "the student does not know an element", " ".join(symbols[z] for z in elements)
        remedy = "train a student on structures that hold it"
        raise InputError(what, where=where, got=got, wanted=wanted, remedy=remedy)
    if not (np.isfinite(batch.positions).all() and np.isfinite(batch.cell).all()):
        atom = int(np.flatnonzero(~np.isfinite(batch.positions).all(axis=1))[:1].sum())
        raise InputError("positions or cell are not finite", where=f"{where}, atom {atom}", got="NaN or inf")


class Calculator(CachingCalculator):
    """ASE calculator on a student file, a released student's name, or a Student.

    Energies, forces, and stress where the structure is periodic in all three directions; ``stresses`` add up
    to ``stress``, each pair's share divided equally. For one thread; calculators in different threads may
    share a Student.

    >>> atoms.calc = Calculator("silicon-tiny")  # doctest: +SKIP

    Parameters
    ----------
    strict: raise :class:`OutOfDomainError` outside the training domain, instead of one warning of each kind
        and counting in ``guard.counts``.
    guarded: compare each evaluation with the ranges of the training data.
    skin: Å beyond the cutoff, see :class:`Session`.
    threads: of this calculator; None takes the student's number.
    options: of ``Student.load``, where the student is given by name.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy", "free_energy", "forces", "stress", "energies", "stresses"
    ]  # fmt: skip

    def __init__(
        self, student: Student | Path | str, *, strict: bool = False, guarded: bool = True,
        skin: float = DEFAULT_SKIN_A, threads: int | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        if not isinstance(student, Student):
            student = Student.load(student, threads=threads, **options)
        elif options:
            got, remedy = ", ".join(sorted(options)), "give them to Student.load"
            raise InputError("options of a student already loaded", got=got, remedy=remedy)
        self.student, self._guarded = student, guarded
        self.guard = Guard(student.card, student.architecture.elements, name=student.name, strict=strict)
        self._session = Session(student, skin=skin, threads=threads)
        self._atom_virials = False

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        if atoms is not None and name in ("stress", "stresses") and not atoms.pbc.all():
            raise PropertyNotImplementedError(
                f"{name} not present in this calculation: not all three directions repeat"
            )
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:  # fmt: skip
        self._atom_virials |= "stresses" in properties  # they take time: from the first request on
        super().calculate(atoms, properties, system_changes)

    def results_of(self, atoms: Atoms) -> dict[str, Any]:
        found = self._session.evaluate(atoms, atom_virials=self._atom_virials and bool(atoms.pbc.all()))
        if self._guarded:
            self.guard.check(atoms, found)
        results: dict[str, Any] = {"energy": found.energy, "free_energy": found.energy}
        results |= {"forces": found.forces, "energies": found.atom_energies}
        if found.periodic:
            stress = (found.virial + found.virial.T) * (0.5 / found.volume)
            results["stress"] = stress.ravel()[_VOIGT]
            if found.atom_virials is not None:
                results["stresses"] = found.atom_virials.reshape(-1, 9)[:, _VOIGT] / found.volume
        return results

    def __copy__(self) -> Self:
        """The same student, with a session and a guard of its own."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.results, twin.guard = dict(self.results), copy.deepcopy(self.guard)
        twin._session = copy.copy(self._session)
        return twin


def _positive(threads: int) -> int:
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or threads < 1:
        raise InputError("invalid number of threads", got=repr(threads), wanted="1 or more")
    return int(threads)
