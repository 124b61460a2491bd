from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms

from limbeck.core.labels import Labels
from limbeck.core.potential import Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError
from limbeck.validation.run import estimate_edges, is_out_of_memory, predict, validate, worst_frames

from .toys import copper_frames, emt, label_set


class Cramped(Potential):
    """A potential whose memory holds ``room`` atoms; it remembers the batches it was given."""

    name = "cramped"
    capabilities = Capabilities()

    def __init__(self, inner: Potential, room: int, error: Exception) -> None:
        self.inner, self.room, self.error = inner, room, error
        self.batches: list[int] = []

    def evaluate(self, batch: StructureBatch) -> Labels:
        self.batches.append(len(batch))
        if batch.n_atoms > self.room:
            raise self.error
        return self.inner.evaluate(batch)


OUT_OF_MEMORY = {
    "MemoryError": MemoryError(),
    "torch on CUDA": type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate"),
    "torch on CPU": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
}


def assert_same(a: Labels, b: Labels) -> None:
    for name in ("energy", "forces", "stress"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("size", [1, 7, None])
def test_result_does_not_depend_on_batch_size(size):
    batch = StructureBatch.from_atoms(copper_frames(20))
    assert_same(predict(emt(), batch, max_structures=size), emt().evaluate(batch))


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_batches_halve_when_memory_runs_out_and_nothing_is_lost(kind):
    batch = StructureBatch.from_atoms(copper_frames(20))
    cramped = Cramped(emt(), room=20, error=OUT_OF_MEMORY[kind])
    done = []

    def note(task: str, count: int, total: int | None = None, text: str = "") -> None:
        done.append((count, total))

    labels = predict(cramped, batch, max_atoms=10_000, progress=note)
    assert_same(labels, emt().evaluate(batch))
    assert cramped.batches[0] == 20  # all at once was tried
    assert done[-1] == (20, 20)
    assert done == sorted(done)
    # The smaller size is kept: failures stop after the first few halvings.
    assert len(cramped.batches) < 20


def test_a_single_structure_that_does_not_fit_is_refused():
    batch = StructureBatch.from_atoms(copper_frames(5))
    with pytest.raises(LimbeckError, match=r"^structure 1: out of memory on a single structure; got 8 atoms"):
        predict(Cramped(emt(), room=4, error=MemoryError()), batch)


def test_other_errors_pass_through():
    cramped = Cramped(emt(), room=0, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        predict(cramped, StructureBatch.from_atoms(copper_frames(2)))


def test_memory_errors_are_told_from_others():
    assert all(is_out_of_memory(error) for error in OUT_OF_MEMORY.values())
    assert not is_out_of_memory(ValueError("out of memory of the past"))
    wrapped = LimbeckError("worker failed")
    wrapped.__cause__ = MemoryError()
    assert is_out_of_memory(wrapped)


def test_batches_keep_to_atoms_and_structures():
    batch = StructureBatch.from_atoms(copper_frames(12, sizes=(1, 2, 3)))
    seen = Cramped(emt(), room=10**6, error=MemoryError())
    predict(seen, batch, max_atoms=16)
    starts = np.cumsum([0, *seen.batches])
    atoms = [batch.counts[a:b].sum() for a, b in itertools.pairwise(starts)]
    assert max(atoms) <= 16
    assert sum(seen.batches) == 12
    seen.batches.clear()
    predict(seen, batch, max_structures=5)
    assert seen.batches == [5, 5, 2]


def test_dense_structures_make_smaller_batches():
    frames = copper_frames(8, sizes=(1,))
    dense = [Atoms(a.numbers, a.positions * 0.5, cell=a.cell.array * 0.5, pbc=True) for a in frames]
    batches = []
    for one in (frames, dense):
        seen = Cramped(emt(), room=10**6, error=MemoryError())
        predict(seen, StructureBatch.from_atoms(one), max_atoms=32)
        batches.append(len(seen.batches))
    assert batches[1] > batches[0]


def test_edges_are_estimated_from_density():
    from ase.neighborlist import neighbor_list

    frames = copper_frames(3)
    estimate = estimate_edges(StructureBatch.from_atoms(frames), 5.0)
    counted = [len(neighbor_list("i", atoms, 5.0)) for atoms in frames]
    np.testing.assert_allclose(estimate, counted, rtol=0.3)
    lone = StructureBatch.from_atoms([Atoms("H"), Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7]])])
    assert list(estimate_edges(lone, 5.0)) == [0, 2]


def test_no_structures_give_empty_labels():
    labels = predict(emt(), StructureBatch.from_atoms([]))
    assert labels.energy.shape == (0,)
    assert labels.forces.shape == (0, 3)


def test_validate_finds_a_planted_error_and_names_the_atom():
    frames = copper_frames(9)
    truth = emt().evaluate(StructureBatch.from_atoms(frames))
    forces, energy = truth.forces.copy(), truth.energy.copy()
    offsets = StructureBatch.from_atoms(frames).offsets
    forces[offsets[4] + 2] += [0.3, 0.0, 0.4]  # 500 meV/Å on atom 2 of frame 4
    forces[offsets[7]] += [0.0, 0.1, 0.0]
    energy[4] -= 0.2
    labelled = label_set(frames, Labels(energy, forces, truth.stress), ["fam"] * 9, [300.0] * 9)
    report = validate(emt(), labelled, max_structures=7)
    first, second = report.worst[:2]
    n = len(frames[4])
    assert (first.index, first.group, first.config_type, first.worst_atom, first.worst_element) == (
        4, "fam", "fam", 2, "Cu",
    )  # fmt: skip
    assert first.worst_force_error_mev_per_a == pytest.approx(500)
    assert first.force_rmse_mev_per_a == pytest.approx(500 / np.sqrt(3 * n))
    assert first.energy_error_mev_per_atom == pytest.approx(200 / n)
    assert (second.index, second.worst_element) == (7, "Au")
    whole = report.errors.all
    assert whole.stress_mae_mev_per_a3 == 0.0
    assert whole.force_rmse_mev_per_a == pytest.approx(1000 * np.sqrt(0.26 / (3 * offsets[-1])))
    assert report.errors.by_element["Au"].force_mae_mev_per_a == pytest.approx(100 / (3 * 9))
    assert worst_frames(labelled, report.prediction, 3) == (report.worst[:3], report.worst_places[:3])
