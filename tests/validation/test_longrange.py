"""Forces beyond a radius, against potentials whose reach is known."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.lj import LennardJones
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.labels import Labels
from limbeck.core.potential import AsePotential, Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError, WorkerDied
from limbeck.validation.longrange import LongRangeReport, long_range_force, repeats

K = 14.399645


def lj(reach: float) -> Potential:
    return AsePotential(LennardJones(sigma=2.3, epsilon=0.1, rc=reach, smooth=True), Capabilities(), "lj")


def warm_copper(times: int = 2) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (times, times, times)
    atoms.rattle(0.1, seed=1)
    return atoms


class Coulomb(Potential):
    """Bare charges without a cell: +1 on Na, -1 on Cl; counts what it is asked."""

    name, capabilities = "coulomb", Capabilities(periodic=False, stress=False)

    def __init__(self) -> None:
        self.seen: list[Atoms] = []

    def evaluate(self, batch: StructureBatch) -> Labels:
        forces = []
        for atoms in batch.to_atoms():
            self.seen.append(atoms)
            q = np.where(atoms.numbers == 11, 1.0, -1.0)
            d = atoms.positions[:, None] - atoms.positions[None]
            r = np.linalg.norm(d, axis=2) + 1e30 * np.eye(len(atoms))
            forces.append((K * q[:, None, None] * q[None, :, None] * d / r[..., None] ** 3).sum(1))
        return Labels(energy=np.zeros(len(batch)), forces=np.concatenate(forces))


def test_a_teacher_that_ends_within_the_radius_has_exactly_none():
    report = long_range_force(lj(5.0), [warm_copper()], 6.0)
    assert report.force_rms_mev_per_a == 0.0
    assert report.share == 0.0
    assert report.n_atoms_probed == 7
    assert report.n_atoms == 256
    assert report.reason == ""
    assert "below 0.05 meV/Å" in report.text()


def test_a_teacher_that_reaches_beyond_is_measured():
    """The same structures through ASE's own Lennard-Jones, one pair sum at a time."""
    atoms, radius = warm_copper(), 4.0
    near, far = (long_range_force(lj(reach), [atoms], radius, seed=3) for reach in (4.0, 7.0))
    assert near.force_rms_mev_per_a == 0.0
    assert far.force_rms_mev_per_a > 1.0
    whole = lj(7.0).evaluate(StructureBatch.from_atoms([atoms])).forces  # the wide cell repeats it
    assert far.share == pytest.approx(far.force_rms_mev_per_a / (1e3 * np.sqrt(np.mean(whole**2))), rel=1e-9)
    wider = long_range_force(lj(7.0), [atoms], 5.5, seed=3)
    assert wider.force_rms_mev_per_a < far.force_rms_mev_per_a  # it falls with the distance


def test_coulomb_gives_the_value_of_the_pair_sum():
    """A row of two ions: one probe, one atom beyond it, so the change is known by hand."""
    atoms = Atoms("NaCl", [[0, 0, 0], [8.0, 0, 0]])
    teacher = Coulomb()
    report = long_range_force(teacher, [atoms], 6.0, seed=4, evaluations=3)
    before, *after = teacher.seen
    changes = []
    for frame in after:
        k = int(np.flatnonzero((frame.positions == before.positions).all(axis=1))[0])  # the probe stayed
        sign = -1.0 if k else 1.0
        change = 0.0
        for a, s in ((frame, 1.0), (before, -1.0)):
            d = a.positions[1] - a.positions[0]
            change = change - s * sign * -1.0 * K * d / np.linalg.norm(d) ** 3
        changes.append(change)
    assert len(after) == report.n_atoms_probed == 2
    assert report.force_rms_mev_per_a == pytest.approx(1e3 * np.sqrt(np.mean(np.square(changes))), rel=1e-9)
    assert report.force_rms_mev_per_a > 1.0


def test_within_the_radius_nothing_moves_and_nothing_comes_in():
    seen: list[Atoms] = []

    class Watched(Potential):
        name, capabilities = "watched", Capabilities()

        def evaluate(self, batch):
            seen.extend(batch.to_atoms())
            return Labels(np.zeros(len(batch)), np.ones((batch.n_atoms, 3)))

    radius = 5.0
    report = long_range_force(Watched(), [warm_copper(2)], radius, displacement_a=0.5)
    before, *after = seen
    assert min(np.linalg.norm(before.cell.array, axis=1)) >= 2 * radius
    assert len(after) == report.n_atoms_probed
    for frame in after:
        still = (frame.positions == before.positions).all(axis=1)
        centres = [
            k for k in np.flatnonzero(still)
            if still[before.get_distances(k, range(len(before)), mic=True) <= radius].all()
            and (frame.get_distances(k, np.flatnonzero(~still), mic=True) > radius).all()
        ]  # fmt: skip
        assert centres
        assert (~still).sum() > 0.3 * len(before)
    assert report.force_rms_mev_per_a == 0.0


def test_a_slab_is_widened_where_it_repeats():
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    slab.pbc = (True, True, False)
    slab.rattle(0.1, seed=2)
    times = repeats(slab, 12.0)
    assert times[2] == 1
    assert min(times[:2]) > 1
    report = long_range_force(lj(7.0), [slab], 6.0)
    assert report.force_rms_mev_per_a > 0.0


@given(st.integers(0, 10_000), st.floats(3.0, 30.0))
@settings(max_examples=50, deadline=None)
def test_repeats_are_the_fewest_that_are_wide_enough(seed, width):
    cell = np.diag([3.0, 4.0, 7.0]) + np.random.default_rng(seed).uniform(-1, 1, size=(3, 3))
    atoms = Atoms("Cu", cell=cell, pbc=True)
    times = repeats(atoms, width)

    def heights(n):
        c = cell * np.array(n)[:, None]
        volume = abs(np.linalg.det(c))
        return np.array([volume / np.linalg.norm(np.cross(c[(k + 1) % 3], c[(k + 2) % 3])) for k in range(3)])

    assert (heights(times) >= width - 1e-6).all()
    for k in range(3):
        fewer = list(times)
        fewer[k] -= 1
        assert fewer[k] == 0 or heights(fewer)[k] < width


@pytest.mark.parametrize(
    ("atoms", "settings", "reason"),
    [
        (molecule("CH3CH2OH"), {}, "the structure is no wider than 6.0 Å"),
        (Atoms("Cu"), {}, "the structure is no wider than 6.0 Å"),
        (warm_copper(), {"max_atoms": 100}, "it would take 256 atoms (a cell 12 Å wide), more than 100"),
        (warm_copper(), {"budget_s": 0.0}, "the budget leaves too little time: two evaluations of 256 atoms"),
    ],
)
def test_what_is_not_tested_says_why(atoms, settings, reason):
    report = long_range_force(lj(5.0), [atoms], 6.0, **settings)
    assert (report.force_rms_mev_per_a, report.share, report.n_atoms_probed) == (None, None, 0)
    assert report.reason.startswith(reason)
    assert report.text() == f"teacher's forces beyond 6.0 Å: not measured, {report.reason}"


def test_a_teacher_that_fails_does_no_harm():
    class Failing(Potential):
        name, capabilities = "failing", Capabilities()
        error: Exception = LimbeckError("too\nlarge")

        def evaluate(self, batch):
            raise self.error

    assert long_range_force(Failing(), [warm_copper()], 6.0).reason == "the teacher failed: too large"
    Failing.error = WorkerDied("gone")
    with pytest.raises(WorkerDied):
        long_range_force(Failing(), [warm_copper()], 6.0)


def test_the_line():
    report = LongRangeReport(10.0, 0.1, 3.14, 0.0213, 5, 512, "")
    assert report.text() == (
        "teacher's forces beyond 10.0 Å: 3.1 meV/Å rms when atoms there move by 0.1 Å (2.1% of the rms force)"
    )
