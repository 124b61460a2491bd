"""What runs a student: the compiled core, or PyTorch where the core is missing or a GPU is asked for."""

from __future__ import annotations

import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from limbeck.artifact.file import StudentRecord
from limbeck.core.neighbours import Pairs, check_apart, find_pairs, neighbour_list, pair_vectors
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.students.baseline import Baseline
from limbeck.students.engine import Engine, EngineKind, Outputs, Precision, make_engine, native_available
from limbeck.students.specification import flatten


@dataclass(frozen=True)
class OneStructure:
    """Outputs for one structure of N atoms, in the units of :class:`Outputs`.

    Attributes
    ----------
    energy: eV. forces: (N, 3). virial: (3, 3). atom_energies: (N,).
    shortest: (Z, Z), Å, closest pair of each two elements within the cutoff, inf where none is.
    atom_virials: (N, 3, 3), eV, adding up to ``virial``; None unless asked for.
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray
    atom_energies: np.ndarray
    shortest: np.ndarray
    atom_virials: np.ndarray | None = None


class System(ABC):
    """One evolving structure: its pairs within ``cutoff + skin``, kept while they hold. For one thread."""

    @abstractmethod
    def evaluate(
        self,
        numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray,
        pbc: np.ndarray,
        atom_virials: bool = False,
    ) -> OneStructure:
        """Outputs for one structure; any may follow any other."""


class Backend(ABC):
    """Evaluates one student; any number of threads may use it."""

    name: str
    gives_atom_virials: bool

    @abstractmethod
    def system(self, skin: float, threads: int) -> System:
        """A new :class:`System`."""

    @abstractmethod
    def evaluate(self, batch: StructureBatch, threads: int) -> Outputs:
        """Outputs for a batch of structures."""


def make_backend(
    record: StudentRecord, *, kind: EngineKind, precision: Precision, device: str, where: str
) -> Backend:
    """The compiled core on the CPU, else PyTorch.

    Raises
    ------
    LimbeckError: ``kind`` is native and the core is not built.
    """
    if kind == "auto" and device == "cpu" and not native_available():
        warnings.warn(
            f"{where}: the native core is not built, so PyTorch runs this student, many times slower; "
            "remedy: install a C++17 compiler, then pip install -c constraints.txt -e .",
            stacklevel=3,
        )
    if kind == "torch" or device != "cpu" or (kind == "auto" and not native_available()):
        return TorchBackend(record, precision=precision, device=device)
    from limbeck.runtime.native import NativeBackend

    return NativeBackend(record, precision=precision)


class TorchBackend(Backend):
    """The torch reference, with the same interface."""

    gives_atom_virials = False

    def __init__(self, record: StudentRecord, *, precision: Precision, device: str) -> None:
        self.record, self._precision, self._device = record, precision, device
        self.name = f"torch-{device}"
        self._lock = threading.Lock()
        # the first engine is made here, so that one that cannot be made is known at once
        self._idle: list[Engine] = [self.make_engine()]

    def system(self, skin: float, threads: int) -> System:
        return TorchSystem(self, skin)

    def evaluate(self, batch: StructureBatch, threads: int) -> Outputs:
        pairs = find_pairs(batch, self.record.architecture.cutoff)
        with self._engine() as engine:
            return evaluate_pairs(engine, self.record.baseline, batch, pairs)

    @contextmanager
    def _engine(self) -> Iterator[Engine]:
        """An engine for one call; afterwards it waits for the next one."""
        with self._lock:
            engine = self._idle.pop() if self._idle else None
        engine = engine or self.make_engine()
        try:
            yield engine
        finally:
            with self._lock:
                self._idle.append(engine)

    def make_engine(self) -> Engine:
        """An engine with this student's weights that nobody else uses."""
        arch = self.record.architecture
        engine = make_engine(arch, kind="torch", precision=self._precision, device=self._device)
        engine.set_weights(flatten(arch, self.record.weights, np.float64))
        return engine


class TorchSystem(System):
    """Pairs within ``cutoff + skin`` of the last structure searched (Verlet 1967), sorted out in NumPy."""

    def __init__(self, backend: TorchBackend, skin: float) -> None:
        self._record, self._engine = backend.record, backend.make_engine()
        self._skin = skin
        self._at: StructureBatch | None = None

    def evaluate(
        self,
        numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray,
        pbc: np.ndarray,
        atom_virials: bool = False,
    ) -> OneStructure:
        if atom_virials:
            raise LimbeckError("this engine gives no virial of an atom", remedy="use engine='native'")
        batch = StructureBatch.of_one(numbers, positions, cell, pbc)
        pairs = self._pairs(batch)
        out = evaluate_pairs(self._engine, self._record.baseline, batch, pairs)
        place = self._record.architecture.species(batch.numbers)
        return OneStructure(
            energy=float(out.energy[0]),
            forces=out.forces,
            virial=out.virial[0],
            atom_energies=out.atom_energies,
            shortest=_shortest(place, pairs, len(self._record.architecture.elements)),
        )

    def _pairs(self, batch: StructureBatch) -> Pairs:
        points, cell, cutoff = batch.positions, batch.cell[0], self._record.architecture.cutoff
        if not self._still_hold(batch):
            self._at = None
            self._list = neighbour_list(points, cell, batch.pbc[0], cutoff + self._skin, where="structure 0")
            self._at = batch
        first, second, shifts = self._list
        vectors = pair_vectors(points, cell, first, second, shifts)
        near = np.einsum("pk,pk->p", vectors, vectors) < cutoff**2
        pairs = Pairs(first[near], second[near], vectors[near], np.array([0, near.sum()], np.int64))
        check_apart(pairs)
        return pairs

    def _still_hold(self, batch: StructureBatch) -> bool:
        """Two atoms that moved less than half the skin each cannot have entered the cutoff unseen."""
        at = self._at
        if at is None or at.n_atoms != batch.n_atoms:
            return False
        if (at.cell != batch.cell).any() or (at.pbc != batch.pbc).any():
            return False
        moved = batch.positions - at.positions
        return bool((np.einsum("nk,nk->n", moved, moved) <= (self._skin / 2) ** 2).all())


def evaluate_pairs(engine: Engine, baseline: Baseline, batch: StructureBatch, pairs: Pairs) -> Outputs:
    """Network and baseline together, for every structure of the batch."""
    engine.set_structures(batch, pairs)
    out = engine.evaluate(np.arange(len(batch)))
    base, virial = baseline.evaluate(batch, pairs)
    if base.atom_energies is None:
        raise TypeError("a baseline gives atomic energies")
    return Outputs(
        energy=out.energy + base.energy,
        forces=out.forces + base.forces,
        virial=out.virial + virial,
        atom_energies=out.atom_energies + base.atom_energies,
    )


def positive_threads(threads: int) -> int:
    """The number itself, or InputError."""
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or threads < 1:
        raise InputError("threads is no number of threads", got=repr(threads), wanted="1 or more")
    return int(threads)


def _shortest(place: np.ndarray, pairs: Pairs, n_elements: int) -> np.ndarray:
    flat = np.full(n_elements * n_elements, np.inf)
    np.minimum.at(flat, place[pairs.first] * n_elements + place[pairs.second], pairs.distances)
    table = flat.reshape(n_elements, n_elements)
    return np.minimum(table, table.T)
