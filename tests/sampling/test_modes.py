"""Normal modes against a network of springs whose force constants are known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from tests.sampling.support import Counting as Emt
from tests.sampling.support import hashes, sample

from limbeck.core.labels import Labels
from limbeck.core.potential import Capabilities, Potential
from limbeck.errors import InputError
from limbeck.sampling import Modes, SamplingConfig, TimeLimit, count_evaluations, count_frames, run_sampling
from limbeck.sampling.modes import hessian, normal_modes


class Springs(Potential):
    """Springs between all pairs of atoms at their rest lengths; the start may be anywhere near."""

    name = "springs"
    capabilities = Capabilities(stress=False)

    def __init__(self, rest: np.ndarray, k: float) -> None:
        self.length = np.linalg.norm(rest[:, None] - rest, axis=-1)  # (N, N)
        self.k, self.calls = k, 0

    def evaluate(self, batch):
        self.calls += 1
        arm = batch.positions[:, None] - batch.positions  # (N, N, 3)
        length = np.linalg.norm(arm, axis=-1)
        np.fill_diagonal(length, 1.0)
        stretch = length - self.length
        np.fill_diagonal(stretch, 0.0)
        forces = -self.k * (stretch / length)[:, :, None] * arm
        return Labels(np.array([0.25 * self.k * (stretch**2).sum()]), forces.sum(axis=1))


TETRAHEDRON = np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) * 0.9


def start(group: str = "P4#0") -> Atoms:
    atoms = Atoms("P4", TETRAHEDRON + np.random.default_rng(0).normal(0, 0.05, (4, 3)))
    atoms.info["group"] = group
    return atoms


def test_modes_of_a_tetrahedron_and_of_a_line():
    """Four equal masses joined by equal springs: k times 4 (breathing), 2 (three fold), 1 (two fold)."""
    found = normal_modes(TETRAHEDRON, hessian(Atoms("P4", TETRAHEDRON), Springs(TETRAHEDRON, 7.0), 0.005))
    assert found.force_constants == pytest.approx([7, 7, 14, 14, 14, 28], rel=1e-4)
    flat = found.vectors.reshape(6, 12)
    assert flat @ flat.T == pytest.approx(np.eye(6), abs=1e-12)
    assert np.abs(found.vectors.sum(axis=1)).max() < 1e-12  # no translation
    assert np.abs(np.cross(TETRAHEDRON, found.vectors).sum(axis=1)).max() < 1e-12  # no rotation
    line = np.array([(0, 0, 0), (0, 0, 1.2), (0, 0, 2.4)])
    found = normal_modes(line, hessian(Atoms("CO2", line), Springs(line, 5.0), 0.005))
    assert len(found.force_constants) == 3 * 3 - 5


def test_every_mode_spreads_as_kt_over_k():
    kelvin, springs, n = 300.0, Springs(TETRAHEDRON, 7.0), 2000
    frames = sample(start(), Modes(temperature_K=kelvin, n=n, fmax_ev_per_a=1e-4), teacher=springs, seed=3)
    x = np.array([f.positions for f in frames])
    mean = x.mean(axis=0)
    exact = normal_modes(mean, hessian(Atoms("P4", mean), springs, 0.005))
    q = np.einsum("mni,fni->fm", exact.vectors, x - mean)
    ratio = q.var(axis=0) * exact.force_constants / (units.kB * kelvin)
    assert ratio == pytest.approx(1.0, abs=5 * np.sqrt(2 / n))  # five standard errors
    # degenerate modes may mix, but none follows another
    assert np.abs(np.corrcoef(q.T) - np.eye(6)).max() < 5 / np.sqrt(n)
    assert np.linalg.norm(mean[0] - mean[1]) == pytest.approx(springs.length[0, 1], abs=3e-3)
    assert {f.info["temperature_K"] for f in frames} == {kelvin}


def test_soft_modes_are_capped_and_unstable_ones_too():
    found = normal_modes(TETRAHEDRON, hessian(Atoms("P4", TETRAHEDRON), Springs(TETRAHEDRON, 1e-4), 0.005))
    rng = np.random.default_rng(0)
    for modes in (found, type(found)(found.vectors, -found.force_constants)):
        drawn = np.array([modes.draw(300.0, 0.2, rng) for _ in range(2000)])
        q = np.einsum("mni,fni->fm", modes.vectors, drawn)
        assert q.std(axis=0) == pytest.approx(0.2, rel=0.1)


def test_counts_families_and_resume(tmp_path):
    plan = SamplingConfig(seed=3, steps=[Modes(temperature_K=[300, 600], n=20)])
    potential, again = Springs(TETRAHEDRON, 7.0), Springs(TETRAHEDRON, 7.0)
    frames = run_sampling([start()], plan, {"teacher": potential}, cache_dir=tmp_path)
    assert len(frames) == count_frames(plan, [start()]) == 40
    assert potential.calls <= count_evaluations(plan, [start()]) == 201 + 24
    assert len({f.info["group"] for f in frames}) == 20
    assert frames[0].info["group"] == "P4#0/modes-300K-b0"
    assert hashes(run_sampling([start()], plan, {"teacher": again}, cache_dir=tmp_path)) == hashes(frames)
    assert again.calls == 0
    assert hashes(run_sampling([start()], plan, {"teacher": again})) == hashes(frames)


def test_the_students_own_hessian_is_used():
    class Exact(Springs):
        def hessian(self, atoms):
            return hessian(atoms, Springs(TETRAHEDRON, self.k), 0.001)

    potential = Exact(TETRAHEDRON, 7.0)
    sample(start(), Modes(temperature_K=300, n=2), teacher=potential)
    assert potential.calls < 24  # the relaxation only


def test_of_many_molecules_some_are_expanded_whole():
    """Time for about three of eight, counted in evaluations: an expansion that is not whole gives nothing."""
    potential, notes = Springs(TETRAHEDRON, 7.0), []
    starts, step = [start(f"C{k}") for k in range(8)], Modes(temperature_K=300, n=5, relax_steps=20)
    limit = TimeLimit(lambda: 2.5 * 45 - potential.calls)  # an expansion takes 21 + 6 * 4
    frames = sample(starts, step, teacher=potential, notes=notes, limit=limit)
    # a relaxation may end early, which leaves time for another
    of = Counter(frame.info["group"].split("/")[0] for frame in frames)
    assert set(of.values()) == {5}
    assert 2 <= len(of) <= 5
    assert {"C0", "C4"} <= set(of)
    assert potential.calls <= 2.5 * 45
    assert notes == [f"modes: there was time for {len(of)} of 8 runs, all whole: {len(frames)} of 40 frames"]
    frames = sample(starts[0], step, teacher=potential, notes=notes, limit=TimeLimit(lambda: 0.0))
    assert len(frames) == 1
    assert notes[1:] == ["modes: there was time for 1 of 1 runs, none of them whole: 1 of 5 frames"]


def test_what_cannot_be_expanded():
    step, notes = Modes(temperature_K=300, n=2, relax_steps=1, fmax_ev_per_a=1e-6), []
    plan = SamplingConfig(steps=[step], keep_starts=True)
    assert len(run_sampling([molecule("CH4")], plan, {"teacher": Emt()}, notes=notes)) == 1
    assert "has no frames: the greatest force is" in notes[0]
    with pytest.raises(InputError, match="normal modes are sampled for molecules only; got pbc"):
        sample(bulk("Cu"), step, teacher=Emt())
