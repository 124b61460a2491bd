from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.morse import MorsePotential

from limbeck.core.labels import Labels
from limbeck.core.nve import nve_drift
from limbeck.core.potential import AsePotential, Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.validation.onpolicy import on_policy_error

from .toys import Springs

GRID = np.stack(np.meshgrid(*[np.arange(3) * 3.0] * 3), axis=-1).reshape(-1, 3)


def oscillators() -> Atoms:
    return Atoms("C27", positions=GRID)


class Leaky(Springs):
    """Springs with a force along the velocity: work of known power, no potential at all."""

    def __init__(self, anchors: np.ndarray, growth: float) -> None:
        super().__init__(anchors)
        self.growth, self.calls = growth, 0

    def evaluate(self, batch: StructureBatch) -> Labels:
        labels = super().evaluate(batch)
        # The energy that is reported climbs by a fixed amount a step; the motion stays harmonic.
        self.calls += 1
        return Labels(labels.energy + self.growth * self.calls, labels.forces)


class Scaled(Potential):
    """Another potential with forces and energies multiplied."""

    name = "scaled"
    capabilities = Capabilities(periodic=False, stress=False)

    def __init__(self, inner: Potential, factor: float) -> None:
        self.inner, self.factor = inner, factor

    def evaluate(self, batch: StructureBatch) -> Labels:
        labels = self.inner.evaluate(batch)
        return Labels(labels.energy * self.factor, labels.forces * self.factor)


def drift(potential: Potential, **settings):
    settings = {"temperature_k": 300, "timestep_fs": 1.0, "duration_fs": 500, "seed": 1} | settings
    return nve_drift(potential, settings.pop("start", oscillators()), **settings)


def test_harmonic_oscillators_do_not_drift():
    report = drift(Springs(GRID), duration_fs=2000)
    assert report.completed
    assert report.reason == ""
    assert abs(report.drift_mev_per_atom_per_ps) < 0.02
    # Verlet's energy oscillates as (w dt)^2 / 8 of the potential energy: second order in the step.
    coarse = drift(Springs(GRID), timestep_fs=2.0, duration_fs=2000)
    assert coarse.energy_std_mev_per_atom == pytest.approx(4 * report.energy_std_mev_per_atom, rel=0.05)


def test_planted_leak_is_found():
    # 0.01 meV an atom each femtosecond
    leak = drift(Leaky(GRID, growth=27 * 1e-5))
    assert leak.drift_mev_per_atom_per_ps == pytest.approx(10.0, abs=0.1)


def test_same_seed_same_drift_and_start_is_untouched():
    start = oscillators()
    a, b, c = (drift(Springs(GRID), start=start, seed=seed, duration_fs=50) for seed in (3, 3, 4))
    assert a == b != c
    assert np.array_equal(start.positions, GRID)
    assert start.calc is None
    assert not start.get_momenta().any()


class Broken(Springs):
    def evaluate(self, batch: StructureBatch) -> Labels:
        if np.abs(batch.positions.reshape(-1, 27, 3) - GRID).max() > 0.02:
            raise LimbeckError("element unknown")
        return super().evaluate(batch)


class Blank(Springs):
    def evaluate(self, batch: StructureBatch) -> Labels:
        return Labels(np.full(len(batch), np.nan), np.full((batch.n_atoms, 3), np.nan))


@pytest.mark.parametrize(
    ("potential", "settings", "reason"),
    [
        (Scaled(Springs(GRID), -5.0), {"timestep_fs": 5, "duration_fs": 5000}, "temperature rose to"),
        (Broken(GRID), {}, "LimbeckError: element unknown"),
        (Blank(GRID), {"duration_fs": 50}, "not finite"),
    ],
)
def test_explosion_and_failure_are_reported_not_raised(potential, settings, reason):
    report = drift(potential, seed=0, **settings)
    assert not report.completed
    assert reason in report.reason
    assert not isinstance(potential, Blank) or report.drift_mev_per_atom_per_ps is None


def test_on_policy_error_of_a_known_student():
    teacher = Springs(GRID, k=2.0)
    student = Scaled(teacher, 0.9)
    report = on_policy_error(
        student,
        teacher,
        [oscillators(), oscillators()],
        temperature_k=500,
        frames=30,
        every_fs=20,
        timestep_fs=2.0,
        equilibrate_fs=400,
        seed=5,
    )
    assert report.stable
    assert report.reason == ""
    assert report.n_frames == 30
    # Forces are 0.9 of the teacher's everywhere: R2 = 1 - 0.1^2, up to the mean force.
    assert report.errors.force_r2 == pytest.approx(0.99, abs=1e-4)
    assert report.errors.force_cosine == pytest.approx(1.0)
    # Equipartition with the student's spring: mean square force 1.8 kT a component, error a ninth.
    expected = 1000 / 9 * np.sqrt(1.8 * 8.617333e-5 * 500)
    assert report.errors.force_rmse_mev_per_a == pytest.approx(expected, rel=0.1)


def test_on_policy_reports_collapse_and_teacher_failure():
    sticky = AsePotential(MorsePotential(epsilon=3.0, r0=0.4, rcut1=12, rcut2=14), Capabilities(), "sticky")
    start = Atoms("C2", positions=[[0, 0, 0], [0.7, 0, 0]])
    arguments = {"temperature_k": 300, "every_fs": 5, "timestep_fs": 0.5, "equilibrate_fs": 5, "seed": 0}
    report = on_policy_error(sticky, sticky, [start], frames=4, **arguments)
    assert not report.stable
    assert report.reason.startswith("start 0 ")
    assert "ended at step" in report.reason

    class Picky(Springs):
        def evaluate(self, batch: StructureBatch) -> Labels:
            raise LimbeckError("will not have it")

    report = on_policy_error(Springs(GRID), Picky(GRID), [oscillators()], frames=2, **arguments)
    assert report.metrics is None
    assert report.n_frames == 0
    assert not report.stable
    assert report.reason == "the teacher failed on frame 0: will not have it"


def test_on_policy_with_a_cell_has_stress():
    morse = AsePotential(
        MorsePotential(epsilon=0.3, r0=2.5, rho0=4, rcut1=1.3, rcut2=1.8), Capabilities(), "m"
    )
    start = bulk("Cu", cubic=True)
    report = on_policy_error(
        morse, morse, [start], temperature_k=300, frames=3, every_fs=10, timestep_fs=2,
        equilibrate_fs=10, seed=0,
    )  # fmt: skip
    assert report.errors.stress_mae_mev_per_a3 == pytest.approx(0.0, abs=1e-9)
    assert report.errors.force_r2 == pytest.approx(1.0)


def test_refusals():
    with pytest.raises(InputError, match="invalid duration, time step or temperature"):
        drift(Springs(GRID), duration_fs=1)
    with pytest.raises(InputError, match="on-policy error needs starts and frames; got 0 starts, 3 frames"):
        on_policy_error(
            Springs(GRID), Springs(GRID), [], temperature_k=300, frames=3, every_fs=1,
            timestep_fs=1, equilibrate_fs=0, seed=0,
        )  # fmt: skip
