"""PyTorch as a backend: the reference for the native core, and for GPUs."""

from __future__ import annotations

import threading

import numpy as np
from ase import Atoms

from limbeck.artifact.file import StudentArtifact
from limbeck.core.neighbours import Pairs, check_apart, find_pairs, neighbour_list, pair_vectors
from limbeck.core.structures import StructureBatch
from limbeck.runtime.backends.interface import Backend, Evaluation, System, extent
from limbeck.students.baseline import Baseline
from limbeck.students.engine import Engine, Outputs, Precision, TorchEngine
from limbeck.students.specification import flatten


class TorchBackend(Backend):
    """One engine, for one call at a time: PyTorch has threads of its own."""

    def __init__(self, record: StudentArtifact, *, precision: Precision, device: str) -> None:
        self.record, self._precision, self._device = record, precision, device
        self.name = f"torch-{device}"
        self._lock, self._engine = threading.Lock(), self.make_engine()

    def system(self, skin: float, threads: int) -> System:
        return TorchSystem(self, skin)

    def evaluate(self, batch: StructureBatch, threads: int) -> Outputs:
        pairs = find_pairs(batch, self.record.architecture.cutoff)
        with self._lock:
            return evaluate_pairs(self._engine, self.record.baseline, batch, pairs)

    def make_engine(self) -> Engine:
        """A new engine with this student's weights."""
        arch = self.record.architecture
        engine = TorchEngine(arch, precision=self._precision, device=self._device)
        engine.set_weights(flatten(arch, self.record.weights, np.float64))
        return engine


class TorchSystem(System):
    """Neighbour list with a skin (Verlet 1967) in NumPy."""

    def __init__(self, backend: TorchBackend, skin: float) -> None:
        self._record, self._engine = backend.record, backend.make_engine()
        self._skin = skin
        self._at: StructureBatch | None = None

    def evaluate(self, atoms: Atoms, atom_virials: bool = False) -> Evaluation:
        batch = StructureBatch.from_atoms([atoms])
        pairs = self._pairs(batch)
        out = evaluate_pairs(self._engine, self._record.baseline, batch, pairs)
        arch = self._record.architecture
        place = arch.species(batch.numbers)
        shortest = np.full((len(arch.elements),) * 2, np.inf)
        np.minimum.at(shortest, (place[pairs.first], place[pairs.second]), pairs.distances)
        shortest = np.minimum(shortest, shortest.T)
        energy, virial = float(out.energy[0]), out.virial[0]
        return Evaluation(energy, out.forces, virial, out.atom_energies, shortest, *extent(atoms))

    def _pairs(self, batch: StructureBatch) -> Pairs:
        points, cell, cutoff = batch.positions, batch.cell[0], self._record.architecture.cutoff
        if not self._still_hold(batch):
            self._list = neighbour_list(points, cell, batch.pbc[0], cutoff + self._skin, where="structure 0")
            self._at = batch
        first, second, shifts = self._list
        vectors = pair_vectors(points, cell, first, second, shifts)
        near = np.einsum("pk,pk->p", vectors, vectors) < cutoff**2
        pairs = Pairs(first[near], second[near], vectors[near], np.array([0, near.sum()], np.int64))
        check_apart(pairs)
        return pairs

    def _still_hold(self, batch: StructureBatch) -> bool:
        """Whether no atom moved over half the skin, so that no new pair can be within the cutoff."""
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
    network, base = vars(engine.evaluate(np.arange(len(batch)))), vars(baseline.evaluate(batch, pairs))
    return Outputs(**{name: network[name] + base[name] for name in network})
