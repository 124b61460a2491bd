"""The compiled core behind a student: energies, forces, virials and Hessian-vector products."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.artifact.file import StudentArtifact
from limbeck.core.neighbours import find_pairs, neighbour_list
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError
from limbeck.runtime.backends.interface import Backend, Evaluation, System, extent
from limbeck.students.engine import Outputs, Precision, native_hyperparameters
from limbeck.students.specification import flatten

#: from this size on, several threads work on one structure
_ATOMS_WORTH_THREADS = 200

#: larger systems release their memory before the search for neighbours, which needs memory too
_RELEASE_BYTES = 64 << 20


class NativeBackend(Backend):
    """Packed weights, shared by all systems and threads."""

    def __init__(
        self, record: StudentArtifact, *, precision: Precision, instruction_set: str | None = None
    ) -> None:
        from limbeck import _native

        self.record = record
        self.instruction_set = instruction_set or _native.best_instruction_set()
        self.name = f"native-{self.instruction_set}"
        self.core = self._engine(precision)

    def _engine(self, scalar: str) -> Any:
        from limbeck import _native

        arch, baseline = self.record.architecture, self.record.baseline
        return _native.Engine(
            native_hyperparameters(arch),
            flatten(arch, self.record.weights, np.float64),
            np.array(arch.elements, np.int32),
            np.array([baseline.references[z] for z in arch.elements], np.float64),
            baseline.radius_table(arch.elements),
            scalar,
            # dual numbers gain nothing from vector registers
            "portable" if scalar == "dual" else self.instruction_set,
        )

    @functools.cached_property
    def dual(self) -> Any:
        """The same core over dual numbers."""
        return self._engine("dual")

    def system(self, skin: float, threads: int) -> System:
        return NativeSystem(self, self.core, skin, threads)

    def evaluate(self, batch: StructureBatch, threads: int) -> Outputs:
        if len(batch) < threads and np.diff(batch.offsets).max(initial=0) >= _ATOMS_WORTH_THREADS:
            return self._one_by_one(batch, threads)
        lists = [self._list(batch, s) for s in range(len(batch))]
        pair_offsets = np.cumsum([0, *(len(first) for first, _, _ in lists)], dtype=np.int64)
        none = (np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 3), np.int32))
        pairs = [np.concatenate(parts) for parts in zip(none, *lists, strict=True)]
        species = self.record.architecture.species(batch.numbers).astype(np.int32)
        points, cells = np.ascontiguousarray(batch.positions), np.ascontiguousarray(batch.cell)
        try:
            *outputs, _ = self.core.evaluate_batch(
                batch.offsets, species, points, cells, pair_offsets, *pairs, threads
            )
        except ValueError as error:
            raise self.explain(batch, error) from error
        return Outputs(*outputs)

    def _list(self, batch: StructureBatch, s: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        points = batch.positions[batch.offsets[s] : batch.offsets[s + 1]]
        cutoff = self.record.architecture.cutoff
        return neighbour_list(points, batch.cell[s], batch.pbc[s], cutoff, where=f"structure {s}")

    def _one_by_one(self, batch: StructureBatch, threads: int) -> Outputs:
        """Few large structures: all threads work on one at a time."""
        system = self.system(0.0, threads)
        try:
            found = [system.evaluate(atoms) for atoms in batch.to_atoms()]
        except LimbeckError:
            find_pairs(batch, self.record.architecture.cutoff)  # its error names the structure
            raise
        return Outputs(
            energy=np.array([f.energy for f in found]),
            forces=np.concatenate([f.forces for f in found]),
            virial=np.stack([f.virial for f in found]),
            atom_energies=np.concatenate([f.atom_energies for f in found]),
        )

    def hessian_products(self, batch: StructureBatch, directions: np.ndarray) -> np.ndarray:
        """H v for each of (D, N, 3) directions, for the one structure of the batch; eV/Å²."""
        from limbeck import _native

        system = _native.System(self.dual, 1)
        points, cell = np.ascontiguousarray(batch.positions), np.ascontiguousarray(batch.cell[0])
        species = self.record.architecture.species(batch.numbers).astype(np.int32)
        system.set_list(species, *self._list(batch, 0), 0.0, points, cell, bool(batch.pbc[0].all()))
        try:
            products = [
                system.hessian_product(points, cell, np.ascontiguousarray(v, np.float64)) for v in directions
            ]
        except ValueError as error:
            raise self.explain(batch, error) from error
        return np.array(products).reshape(directions.shape)

    def explain(self, batch: StructureBatch, error: ValueError) -> LimbeckError:
        """The error of the search for pairs, which names the structure, or the core's own."""
        find_pairs(batch, self.record.architecture.cutoff)
        return LimbeckError("the native core refused a structure", where=self.name, got=str(error))


class NativeSystem(System):
    """A neighbour list with a skin and every buffer live in the core."""

    def __init__(self, backend: NativeBackend, core: Any, skin: float, threads: int) -> None:
        from limbeck import _native

        self._backend, self._skin = backend, skin
        self._core = _native.System(core, threads)
        self._numbers = np.zeros(0, np.uint8)
        self._pbc = np.zeros(3, bool)

    def evaluate(self, atoms: Atoms, atom_virials: bool = False) -> Evaluation:
        numbers, positions = atoms.arrays["numbers"], atoms.arrays["positions"]
        cell, pbc = atoms.cell.array, atoms.pbc
        same = len(numbers) == len(self._numbers) and (numbers == self._numbers).all()
        try:
            if not (same and (pbc == self._pbc).all() and self._core.covers(positions, cell)):
                self._search(numbers, positions, cell, pbc)
            found = self._core.evaluate(positions, cell, atom_virials)
        except ValueError as error:
            raise self._backend.explain(StructureBatch.from_atoms([atoms]), error) from error
        energy, forces, virial, atom_energies, shortest, by_atom = found[:6]
        return Evaluation(energy, forces, virial, atom_energies, shortest, *extent(atoms), by_atom)

    def _search(self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> None:
        arch = self._backend.record.architecture
        self._numbers = np.zeros(0, np.uint8)  # no list, should this fail half way
        if self._core.bytes > _RELEASE_BYTES:
            self._core.release()
        pairs = neighbour_list(positions, cell, pbc, arch.cutoff + self._skin, where="structure 0")
        species = arch.species(numbers).astype(np.int32)
        points, box = np.ascontiguousarray(positions, np.float64), np.ascontiguousarray(cell, np.float64)
        self._core.set_list(species, *pairs, self._skin, points, box, bool(pbc.all()))
        self._numbers, self._pbc = np.array(numbers, np.uint8), np.array(pbc, bool)
