"""Starts relaxed by a Potential: energy falls, forces and stress vanish, interruptions repeat nothing."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones
from tests.sampling.support import Counting, copper, hashes, labels_of, largest_force, sample

from limbeck.core.potential import AsePotential, Capabilities
from limbeck.errors import LimbeckError
from limbeck.sampling import Rattle, Relax, SamplingConfig, TimeLimit, count_evaluations

RELAX = Relax(fmax_ev_per_a=0.02, steps=100)


def rattled(n: int = 2) -> list[Atoms]:
    starts = [copper(group=f"Cu#{k}") for k in range(n)]
    for k, atoms in enumerate(starts):
        atoms.rattle(0.15, seed=k)
    return starts


def test_energy_falls_to_where_forces_vanish():
    starts, told, potential = rattled(), [], Counting()

    def progress(task, done, total=None, text=""):
        told.append((done, total))

    frames = sample(starts, RELAX, teacher=potential, progress=progress)
    for start, frame in zip(starts, frames, strict=True):
        assert labels_of([frame]).energy[0] < labels_of([start]).energy[0] - 0.1
        assert largest_force(frame) <= 0.02 < largest_force(start)
        assert frame.info["group"] == start.info["group"]
        assert np.array_equal(frame.cell.array, start.cell.array)
    assert count_evaluations(SamplingConfig(steps=[RELAX]), 2) == 2 * 101 >= potential.calls
    assert told[-1] == (202, 202)
    (later,) = sample(rattled(1), RELAX, Rattle(stdev_a=0.001, n=1), teacher=potential)
    assert largest_force(later) < 0.1


def test_cell_relaxes_to_the_lattice_constant_of_emt():
    """3.5899 Å by a scan of EMT's energy, done here once more."""
    edges = np.linspace(3.57, 3.61, 9)
    energies = labels_of([bulk("Cu", a=a) for a in edges]).energy
    wanted = np.polynomial.Polynomial.fit(edges, energies, 4).deriv().roots()
    wanted = float(min(wanted.real, key=lambda a: abs(a - 3.59)))
    step = Relax(fmax_ev_per_a=0.001, cell=True)
    (frame,) = sample(bulk("Cu", a=3.75, cubic=True), step, teacher=Counting())
    assert frame.cell.cellpar() == pytest.approx([wanted] * 3 + [90] * 3, abs=2e-3)


def test_limit_of_steps_is_told():
    notes, potential = [], Counting()
    sample(rattled(1), Relax(fmax_ev_per_a=0.02, steps=2), teacher=potential, notes=notes)
    assert potential.calls == 3
    (note,) = notes
    assert note.startswith("Cu#0 relaxed for 2 steps: the largest force is ")
    assert note.endswith(" eV/Å, wanted were 0.02")


def test_interrupted_relaxation_is_not_repeated(tmp_path):
    starts, first = rattled(3), Counting()
    whole = hashes(sample(starts, RELAX, teacher=first))
    assert hashes(sample(starts, RELAX, teacher=Counting(), parallel=3)) == whole
    with pytest.raises(RuntimeError, match="killed"):
        sample(starts, RELAX, teacher=Counting(fail_after=first.calls - 1), cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2
    second = Counting()
    frames = sample(starts, RELAX, teacher=second, cache_dir=tmp_path, prefix="test/")
    assert hashes(frames) == whole
    assert frames[0].info["group"] == "test/Cu#0"
    assert 0 < second.calls < first.calls
    again = Counting()
    sample(starts, RELAX, teacher=again, cache_dir=tmp_path)
    assert again.calls == 0
    sample(starts, Relax(fmax_ev_per_a=0.02, steps=50), teacher=again, cache_dir=tmp_path)
    assert again.calls > 0


def test_time_that_is_up_ends_it():
    potential = Counting()
    limit = TimeLimit(lambda: 3.0 - potential.calls)
    assert len(sample(rattled(), RELAX, teacher=potential, limit=limit)) == 2
    assert potential.calls == 3  # half of the time for the first, what is left for the second


@pytest.mark.parametrize(
    ("start", "step", "teacher", "message"),
    [
        (rattled(1)[0], Relax(cell=True), Counting(stress=False), "step relax, start Cu#0: the cell cannot relax: the teacher gives no stress; got emt"),
        (molecule("H2O"), Relax(cell=True), Counting(), r"only a cell that is periodic in three directions can relax; got pbc \[False, False"),
        (rattled(1)[0], RELAX, Counting(fail_after=2, error=LimbeckError), "step relax, start Cu#0: cannot relax the structure: killed"),
        (rattled(1)[0], RELAX, None, "step relax: no Potential for the driver of a step; got driver teacher"),
    ],
)  # fmt: skip
def test_what_cannot_be_relaxed(start, step, teacher, message):
    with pytest.raises(LimbeckError, match=message):
        sample(start, step, teacher=teacher)


def test_far_from_the_minimum():
    """Two argon atoms at 0.75 of their distance, 340 times the energy of the well up the wall, come apart."""
    argon = LennardJones(sigma=3.4, epsilon=0.0104, rc=12.0)
    start, teacher = (
        Atoms("Ar2", [(0, 0, 0), (0, 0, 2.55)]),
        AsePotential(argon, Capabilities(stress=False), "Ar"),
    )
    (frame,) = sample(start, Relax(fmax_ev_per_a=1e-4), teacher=teacher)
    assert frame.get_distance(0, 1) == pytest.approx(2 ** (1 / 6) * 3.4, abs=0.01)
