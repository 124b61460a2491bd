"""Starts relaxed by a Potential: energy falls, forces and stress vanish, interruptions repeat nothing."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from limbeck.core.hashing import hash_structure
from limbeck.core.potential import AsePotential, Capabilities
from limbeck.errors import InputError, LimbeckError
from limbeck.sampling import SamplingConfig, TimeLimit, bulk_structure, count_evaluations, run_sampling


class Counting(AsePotential):
    """EMT that counts and can be told to fail."""

    thread_safe = True

    def __init__(
        self, stress: bool = True, fail_after: int | None = None, error: type = RuntimeError
    ) -> None:
        super().__init__(EMT(), Capabilities(stress=stress), "emt")
        self.calls, self.fail_after, self.error = 0, fail_after, error

    def evaluate(self, batch):
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise self.error("killed")
        return AsePotential(EMT(), self.capabilities, self.name).evaluate(batch)


def rattled(n: int = 2) -> list[Atoms]:
    starts = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.15, seed=k)
        atoms.info["group"] = f"Cu#{k}"
        starts.append(atoms)
    return starts


def energy(atoms: Atoms) -> float:
    atoms = atoms.copy()
    atoms.calc = EMT()
    return atoms.get_potential_energy()


def largest_force(atoms: Atoms) -> float:
    atoms = atoms.copy()
    atoms.calc = EMT()
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())


RELAX = {"kind": "relax", "fmax_ev_per_a": 0.02, "steps": 100}


def test_energy_falls_to_where_forces_vanish():
    starts, told = rattled(), []
    config = SamplingConfig(steps=[RELAX])

    def progress(task, done, total=None, text=""):
        told.append((done, total))

    potential = Counting()
    frames = run_sampling(starts, config, {"teacher": potential}, progress)
    for start, frame in zip(starts, frames, strict=True):
        assert energy(frame) < energy(start) - 0.1
        assert largest_force(frame) <= 0.02 < largest_force(start)
        assert frame.info["group"] == start.info["group"]
        assert np.array_equal(frame.cell.array, start.cell.array)
    assert count_evaluations(config, 2) == 2 * 101 >= potential.calls
    assert told[-1] == (202, 202)


def test_cell_relaxes_to_the_lattice_constant_of_emt():
    """3.5899 Å by a scan of EMT's energy, done here once more."""
    edges = np.linspace(3.57, 3.61, 9)
    wanted = np.polynomial.Polynomial.fit(edges, [energy(bulk("Cu", a=a)) for a in edges], 4).deriv().roots()
    wanted = float(min(wanted.real, key=lambda a: abs(a - 3.59)))
    start = bulk("Cu", a=3.75, cubic=True)
    (frame,) = run_sampling(
        [start],
        SamplingConfig(steps=[{**RELAX, "fmax_ev_per_a": 0.001, "cell": True}]),
        {"teacher": Counting()},
    )
    assert frame.cell.cellpar() == pytest.approx([wanted] * 3 + [90] * 3, abs=2e-3)


def test_limit_of_steps_is_told():
    notes: list[str] = []
    config = SamplingConfig(steps=[{**RELAX, "steps": 2}])
    potential = Counting()
    run_sampling(rattled(1), config, {"teacher": potential}, notes=notes)
    assert potential.calls == 3
    (note,) = notes
    assert note.startswith("Cu#0 relaxed for 2 steps: the largest force is ")
    assert note.endswith(" eV/Å, wanted were 0.02")


def test_interrupted_relaxation_is_not_repeated(tmp_path):
    starts, config = rattled(3), SamplingConfig(steps=[RELAX])
    first = Counting()
    whole = [hash_structure(f) for f in run_sampling(starts, config, {"teacher": first})]
    with pytest.raises(RuntimeError, match="killed"):
        run_sampling(starts, config, {"teacher": Counting(fail_after=first.calls - 1)}, cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2
    second = Counting()
    frames = run_sampling(starts, config, {"teacher": second}, cache_dir=tmp_path, prefix="test/")
    assert [hash_structure(f) for f in frames] == whole
    assert frames[0].info["group"] == "test/Cu#0"
    assert 0 < second.calls < first.calls
    again = Counting()
    run_sampling(starts, config, {"teacher": again}, cache_dir=tmp_path)
    assert again.calls == 0
    run_sampling(
        starts, SamplingConfig(steps=[{**RELAX, "steps": 50}]), {"teacher": again}, cache_dir=tmp_path
    )
    assert again.calls > 0


def test_side_by_side_is_the_same():
    starts, config = rattled(3), SamplingConfig(steps=[RELAX])
    serial = run_sampling(starts, config, {"teacher": Counting()})
    parallel = run_sampling(starts, config, {"teacher": Counting()}, parallel=3)
    assert list(map(hash_structure, serial)) == list(map(hash_structure, parallel))


def test_time_that_is_up_ends_it():
    potential = Counting()
    frames = run_sampling(
        rattled(2),
        SamplingConfig(steps=[RELAX]),
        {"teacher": potential},
        limit=TimeLimit(lambda: 3.0 - potential.calls),
    )
    assert len(frames) == 2
    assert potential.calls == 3  # half of the time for the first, what is left for the second


def test_later_steps_begin_from_the_relaxed_structure():
    steps = [RELAX, {"kind": "rattle", "stdev_a": 0.001, "n": 1}]
    (frame,) = run_sampling(rattled(1), SamplingConfig(steps=steps), {"teacher": Counting()})
    assert largest_force(frame) < 0.1


@pytest.mark.parametrize(
    ("start", "step", "potential", "message"),
    [
        (rattled(1)[0], {**RELAX, "cell": True}, Counting(stress=False), "step relax, start Cu#0: the cell cannot relax: the teacher gives no stress; got emt"),
        (molecule("H2O"), {**RELAX, "cell": True}, Counting(), "only a cell that is periodic in three directions can relax; got pbc [False, False, False]"),
        (rattled(1)[0], RELAX, Counting(fail_after=2, error=LimbeckError), "step relax, start Cu#0: cannot relax the structure: killed"),
    ],
)  # fmt: skip
def test_what_cannot_be_relaxed(start, step, potential, message):
    with pytest.raises(LimbeckError) as caught:
        run_sampling([start], SamplingConfig(steps=[step]), {"teacher": potential})
    assert message in str(caught.value)


def test_without_a_teacher():
    with pytest.raises(
        InputError, match="step relax: no Potential for the driver of a step; got driver teacher"
    ):
        run_sampling([bulk_structure("Cu")], SamplingConfig(steps=[RELAX]), {})


def test_far_from_the_minimum():
    """Two argon atoms at 0.75 of their distance, 340 times the energy of the well up the wall, come apart."""
    potential = AsePotential(
        LennardJones(sigma=3.4, epsilon=0.0104, rc=12.0), Capabilities(stress=False), "argon"
    )
    start = Atoms("Ar2", [(0, 0, 0), (0, 0, 2.55)])
    (frame,) = run_sampling(
        [start], SamplingConfig(steps=[{**RELAX, "fmax_ev_per_a": 1e-4}]), {"teacher": potential}
    )
    assert frame.get_distance(0, 1) == pytest.approx(2 ** (1 / 6) * 3.4, abs=0.01)
