"""Trajectories at constant volume and pressure and along schedules: exact ensembles are the oracle."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from pydantic import ValidationError
from tests.sampling.support import Counting, copper, sample

from limbeck.core.integrators import Condition, LangevinHoover
from limbeck.core.labels import Labels
from limbeck.core.potential import AsePotential, Capabilities, Potential
from limbeck.core.trajectory import _unphysical, run_trajectory
from limbeck.errors import InputError
from limbeck.sampling import MD, Melt, SamplingConfig, count_evaluations, count_frames
from limbeck.units import GPA


class Einstein(Potential):
    """Independent harmonic oscillators: <x²> = kT / k is known exactly."""

    name = "einstein"
    capabilities = Capabilities(stress=False)

    def __init__(self, origin: np.ndarray, k: float) -> None:
        self.origin, self.k = origin, k

    def evaluate(self, batch):
        x = batch.positions - self.origin
        return Labels(energy=np.array([0.5 * self.k * (x**2).sum()]), forces=-self.k * x)


class ElasticBox(Potential):
    """Atoms that do not see each other in a box of energy (k/2) (V - V0)² / V0."""

    name = "elastic box"
    capabilities = Capabilities()

    def __init__(self, volume: float, stiffness: float) -> None:
        self.v0, self.k = volume, stiffness

    def energy(self, volume):
        return 0.5 * self.k * (volume - self.v0) ** 2 / self.v0

    def evaluate(self, batch):
        slope = self.k * (batch.volume - self.v0) / self.v0
        return Labels(
            self.energy(batch.volume), np.zeros((batch.n_atoms, 3)), slope[:, None, None] * np.eye(3)
        )


class Faulty(Calculator):
    """Pulls atoms together, or returns NaN, or heats."""

    implemented_properties = ("energy", "forces")

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.calls = fault, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        forces = np.zeros((len(atoms), 3))
        if self.fault == "nan" and self.calls > 30:
            forces[0, 0] = np.nan
        if self.fault == "collapse":
            pull = atoms.get_distance(0, 1, mic=True, vector=True)
            forces[0], forces[1] = pull * 2, -pull * 2
        if self.fault == "heat":
            forces = 5.0 * np.sign(np.random.default_rng(0).normal(size=(len(atoms), 3)))
        self.results = {"energy": 0.0, "forces": forces}


def grid(n: int, spacing: float) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) * spacing


def gas(n: int) -> Atoms:
    return Atoms(f"Ar{n**3}", positions=grid(n, 4.0), cell=[4.0 * n] * 3, pbc=True)


@pytest.mark.parametrize("relaxed", [False, True])
def test_einstein_crystal_has_the_spreads_of_its_ensemble(relaxed, monkeypatch):
    """<x²> = kT/k and kT/2 of kinetic energy for each of 3N - 3 oscillators (the centre of mass is held)."""
    n, k, kelvin, watched = 64, 5.0, 300.0, []

    class Watched(Langevin):
        def step(self, forces=None):
            out = super().step(forces)
            watched.append(self.atoms.get_temperature())
            return out

    monkeypatch.setattr("limbeck.core.integrators.Langevin", Watched)
    origin, freedom = grid(4, 3.0), 3 * n - 3
    step = MD(
        temperature_K=kelvin, frames=60, every_fs=60, equilibrate_fs=400, timestep_fs=4, friction_per_ps=20,
        from_relaxed=relaxed,
    )  # fmt: skip
    frames = sample(Atoms(f"Al{n}", origin), step, teacher=Einstein(origin, k), seed=3)
    assert len(watched) == step.steps
    x = np.array([f.positions for f in frames]) - origin  # (T, N, 3)
    assert np.abs(x.mean(axis=1)).max() < 1e-6
    measured = (x**2).sum() / (len(frames) * freedom)
    # 60 frames of 189 squares with relative spread sqrt(2): 2% at four standard errors of 0.013.
    assert measured == pytest.approx(units.kB * kelvin / k, rel=4 * np.sqrt(2 / (60 * freedom)) * 1.5)
    sampled = np.array(watched[step.equilibration_steps :])
    blocks = sampled.reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(len(blocks))
    # Friction 20/ps decorrelates kinetic energy in 25 fs.
    assert error < 2.5 * kelvin * np.sqrt(2 / freedom / 60)
    assert abs(sampled.mean() - kelvin) < 4 * error + 0.01 * kelvin
    assert sampled.std() == pytest.approx(kelvin * np.sqrt(2 / freedom), rel=0.35)


def test_relaxed_start_begins_hot_and_ends_at_the_target():
    """A harmonic start at its minimum has half of its final energy missing; 2T puts it there."""
    origin, early = grid(4, 3.0), []
    for relaxed in (False, True):
        step = MD(temperature_K=300, frames=12, every_fs=10, equilibrate_fs=100, timestep_fs=2,
                  friction_per_ps=0.1, from_relaxed=relaxed)  # fmt: skip
        frames = sample(Atoms("Al64", origin), step, teacher=Einstein(origin, 5.0), seed=1)
        x = np.array([f.positions for f in frames]) - origin
        early.append((x**2).mean() * 5.0 / (units.kB * 300))
    assert early[0] == pytest.approx(0.5, abs=0.15)
    assert early[1] == pytest.approx(1.0, abs=0.2)


SHORT = {"every_fs": 10, "equilibrate_fs": 10, "timestep_fs": 5}


def test_temperatures_pressures_and_ramps():
    frames = sample(copper(), MD(temperature_K=300, ramp_to_K=700, frames=4, **SHORT), teacher=Counting())
    assert [f.info["temperature_K"] for f in frames] == pytest.approx([400, 500, 600, 700])
    assert {f.info["group"] for f in frames} == {"Cu#0/md-300-700K-s0"}
    step = MD(temperature_K=[300, 500], pressure_gpa=[0, 10], starts=1, ramp_to_K=700, ramp_to_gpa=20, frames=2,
              **SHORT)  # fmt: skip
    frames, plan = sample(copper(), step, teacher=Counting()), SamplingConfig(steps=[step])
    assert len(frames) == count_frames(plan, 1) == 8
    assert count_evaluations(plan, 1) == 4 * (2 + 4 + 1)
    assert [f.info["group"] for f in frames[::2]] == [
        f"Cu#0/md-{t}-700K-{p}-20GPa-s0" for t in (300, 500) for p in (0, 10)
    ]
    assert [f.info["temperature_K"] for f in frames[:2]] == [500.0, 700.0]
    assert len({round(f.get_volume(), 6) for f in frames}) == 8
    assert [step.target(n, step.conditions[1]).pressure_gpa for n in (0, 4, 6)] == [10.0, 15.0, 20.0]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("nan", "positions or forces are not finite"),
        ("collapse", r"atom 0 \(Cu\) and atom 1 \(Cu\) are \d\.\d\d Å apart"),
        ("heat", r"the temperature is \d+ K at a target of 300 K"),
    ],
)
def test_unphysical_trajectories_end(fault, cause):
    potential = AsePotential(Faulty(fault), Capabilities(stress=False), fault)
    # a strong thermostat takes the heat of a collapse away, so that the contact is seen first
    friction = {"collapse": 200}.get(fault, 1)
    config = MD(
        temperature_K=300, frames=40, every_fs=10, equilibrate_fs=0, timestep_fs=2, friction_per_ps=friction
    )
    start, rng = copper(2, 2, 2), np.random.default_rng(0)
    made = run_trajectory(start, potential, config, 300.0, rng, "Cu#0/md-300K-s0")
    assert made.stopped is not None
    assert len(made.frames) < 40
    told = rf"Cu#0/md-300K-s0 ended at step \d+ of 200 with {len(made.frames)} of 40 frames: {cause}$"
    assert re.match(told, made.stopped), made.stopped
    assert all(np.isfinite(frame.positions).all() for frame in made.frames)


def test_what_was_hot_may_give_off_its_heat_on_the_way_to_a_low_temperature():
    """Random displacements hold the energy of some 2,000 K; half of it becomes kinetic at once."""
    start = copper(2, 2, 1, group="Cu#0/hot")
    start.rattle(0.25, seed=0)
    config = MD(temperature_K=100, frames=4, every_fs=20, equilibrate_fs=600, timestep_fs=2)

    def made() -> int:
        rng = np.random.default_rng(1)
        return len(run_trajectory(start, Counting(), config, 100.0, rng, "hot").frames)

    assert made() == 0  # as it comes from a user, it is suspicious
    start.info["temperature_K"] = 2000.0
    assert made() == 4


@pytest.mark.parametrize(("steps", "temperature"), [(3, None), (7, 300.0)])
def test_a_frame_from_before_equilibration_belongs_to_no_temperature(steps, temperature):
    """Cut in the middle: before or after the 5 steps of equilibration."""
    config = MD(temperature_K=300.0, frames=4, every_fs=10.0, equilibrate_fs=5.0, timestep_fs=1.0)
    taken = []
    made = run_trajectory(
        copper(), Counting(), config, 300.0, np.random.default_rng(0), "Cu#0/md-300K-s0",
        on_step=lambda: taken.append(1), stop=lambda: len(taken) == steps,
    )  # fmt: skip
    assert made.cut
    assert [frame.info.get("temperature_K") for frame in made.frames] == [temperature]


# ---- constant pressure --------------------------------------------------------------------------


@pytest.mark.parametrize("barostat", ["isotropic", "lengths"])
def test_an_elastic_box_has_the_volumes_of_its_ensemble(barostat):
    """p(V) ~ V^N exp(-(U + PV) / kT) of N ideal atoms, times the (ln V)² / 2 ways to cut V into lengths."""
    start, kelvin, pressure = gas(2), 600.0, 0.3
    v0 = start.get_volume()
    box = ElasticBox(v0, 1.2e-2)
    start.calc = box.make_calculator()
    start.set_momenta(np.random.default_rng(0).normal(size=(8, 3)))
    integrator = LangevinHoover(
        start, Condition(kelvin, pressure), 4, 30, np.random.default_rng(5), 60, barostat == "lengths"
    )
    volumes, kinetic, cell = [], [], []
    for n in range(9_000):
        integrator.advance()
        assert start.get_volume() < 10 * v0
        if n >= 500:
            volumes.append(start.get_volume())
            kinetic.append(start.get_kinetic_energy())
            cell.append(integrator.momentum**2 / integrator.mass)
    grid = np.linspace(0.2, 2.5, 20_001) * v0
    weight = np.exp(8 * np.log(grid / v0) - (box.energy(grid) + pressure * GPA * grid) / (units.kB * kelvin))
    weight /= weight.sum()
    mean = (grid * weight).sum()
    spread = np.sqrt(((grid - mean) ** 2 * weight).sum())
    blocks = np.array(volumes).reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(len(blocks))
    assert error < 0.15 * spread
    assert np.mean(volumes) == pytest.approx(mean, abs=4 * error)
    assert np.std(volumes) == pytest.approx(spread, rel=0.15)
    assert np.mean(kinetic) == pytest.approx(1.5 * 8 * units.kB * kelvin, rel=0.03)
    assert np.mean(cell) == pytest.approx(units.kB * kelvin, rel=0.08)


@pytest.mark.parametrize("barostat", ["isotropic", "lengths"])
def test_without_friction_the_extended_energy_is_kept(barostat):
    """Its error is of second order in the time step, so a quarter at half of it."""

    def deviation(timestep_fs: float) -> float:
        atoms = copper(2, 1, 1)
        atoms.rattle(0.05, seed=1)
        atoms.calc = EMT()
        atoms.set_momenta(2.0 * np.random.default_rng(3).normal(size=(8, 3)))
        lengths, rng = barostat == "lengths", np.random.default_rng(0)
        npt = LangevinHoover(atoms, Condition(300.0, 5.0), timestep_fs, 10, rng, 300, lengths)
        npt.friction = npt.cell_friction = 0.0
        kept = []
        for _ in range(round(200 / timestep_fs)):
            npt.advance()
            assert 0.5 < atoms.get_volume() / (8 * 3.61**3 / 4) < 2.0
            cell = (npt.momentum**2).sum() / (2 * npt.mass) + npt.pressure * atoms.get_volume()
            kept.append(atoms.get_total_energy() + cell)
        assert np.ptp(atoms.cell.lengths() / [7.22, 3.61, 3.61]) > 0.003 or barostat == "isotropic"
        return float(np.std(kept))

    coarse, fine = deviation(4.0), deviation(2.0)
    assert coarse < 0.02
    assert coarse / fine == pytest.approx(4.0, rel=0.25)


@pytest.mark.parametrize("barostat", ["isotropic", "lengths"])
def test_an_ideal_gas_has_its_volume(barostat, monkeypatch):
    """<V> = (N + 1) kT / P with a relative spread of 1 / sqrt(N + 1)."""
    start, kelvin = gas(3), 1000.0
    pressure = (len(start) + 1) * units.kB * kelvin / start.get_volume() / GPA
    # nothing keeps the atoms of a gas apart, which is no fault here
    monkeypatch.setattr("limbeck.core.trajectory.closest_contact", lambda *_: None)
    config = MD(
        temperature_K=kelvin, pressure_gpa=pressure, barostat=barostat, barostat_fs=100, friction_per_ps=50,
        frames=60, every_fs=250, equilibrate_fs=1000, timestep_fs=10,
    )  # fmt: skip
    rng = np.random.default_rng(4)
    made = run_trajectory(start, ElasticBox(1.0, 0.0), config, config.conditions[0], rng, "gas")
    assert made.stopped is None
    volume = np.array([f.get_volume() for f in made.frames]) / start.get_volume()
    blocks = volume.reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(len(blocks))
    assert error < 0.06
    assert volume.mean() == pytest.approx(1.0, abs=4 * error)
    assert volume.std() == pytest.approx(1 / np.sqrt(len(start) + 1), rel=0.35)
    lengths = np.array([f.cell.lengths() for f in made.frames])
    assert np.array([f.cell.angles() for f in made.frames]) == pytest.approx(90.0)
    assert (np.ptp(lengths[:, 0] / lengths[:, 1]) > 0.05) == (barostat == "lengths")


def test_copper_stays_near_its_volume_and_shrinks_under_pressure():
    """EMT copper at 300 K: a few per cent above its zero-pressure volume, and smaller by P / B at 20 GPa."""
    start = copper(2, 2, 1)

    def volume(pressure: float) -> float:
        step = MD(
            temperature_K=300, pressure_gpa=pressure, barostat_fs=200, from_relaxed=True, frames=20, every_fs=25,
            equilibrate_fs=400, timestep_fs=5,
        )  # fmt: skip
        frames = sample(start, step, teacher=Counting(), seed=2)
        return float(np.mean([f.get_volume() for f in frames])) / start.get_volume()

    zero = volume(0.0)
    # EMT's lattice constant is 3.59 Å at 0 K (ASE's start has 3.61), and copper expands by 1% in volume to 300 K
    assert zero == pytest.approx((3.59 / 3.61) ** 3 * 1.012, abs=0.015)
    # its bulk modulus is 135 GPa and grows by about 5 P under pressure: V/V0 = (1 + 5 P / B)**(-1/5)
    assert volume(20.0) / zero == pytest.approx((1 + 5 * 20 / 135) ** -0.2, abs=0.02)


def test_a_cell_that_boils_ends():
    config = MD(
        temperature_K=1000, pressure_gpa=-5, barostat_fs=50, frames=40, equilibrate_fs=0, timestep_fs=2
    )
    rng = np.random.default_rng(0)
    made = run_trajectory(gas(2), ElasticBox(512.0, 0.0), config, Condition(1000.0, -5.0), rng, "gas")
    assert made.stopped is not None
    assert re.search(r"the volume is 2\.6\d of that of the start$", made.stopped)
    assert all(f.get_volume() <= 2.5 * 8.0**3 for f in made.frames)


@pytest.mark.parametrize(
    ("start", "stress", "barostat", "message"),
    [
        (copper(), False, "isotropic", "a pressure needs a driver with stress"),
        (molecule("H2O"), True, "isotropic", "a pressure needs a structure that is periodic in three"),
        (bulk("Cu"), True, "lengths", "barostat: lengths needs an orthogonal cell along x, y and z"),
    ],
)
def test_what_has_no_pressure_is_refused(start, stress, barostat, message):
    step = MD(temperature_K=300, pressure_gpa=0, barostat=barostat, frames=1)
    with pytest.raises(InputError, match=message) as caught:
        sample(start, step, teacher=Counting(stress))
    assert "remedy" in str(caught.value)


# ---- melts --------------------------------------------------------------------------------------

MELT = {"melt_K": 2000, "quench_to_K": 500, "heat_fs": 50, "hold_fs": 50, "cool_fs": 100, "timestep_fs": 5,
        "friction_per_ps": 100}  # fmt: skip


def test_melt_follows_its_schedule():
    step = Melt(**MELT, frames=8, starts=2, pressure_gpa=0)
    frames, plan = sample(copper(), step, teacher=Counting()), SamplingConfig(steps=[step])
    assert len(frames) == count_frames(plan, 1) == 16
    assert count_evaluations(plan, 1) == 2 * 41
    expected = [1250, 2000, 2000, 2000, 1625, 1250, 875, 500]
    assert [f.info["temperature_K"] for f in frames] == pytest.approx(expected * 2)
    assert [f.info["group"] for f in frames[::8]] == [f"Cu#0/melt-2000-500K-0GPa-s{k}" for k in (0, 1)]
    fixed = step.model_copy(update={"pressure_gpa": None})
    cells = {f.get_volume() for f in sample(copper(), fixed, teacher=Counting(stress=False))}
    assert cells == {copper().get_volume()}


def test_a_melt_keeps_its_volume_until_it_has_cooled():
    step = Melt(**MELT, settle_fs=50, frames=10, pressure_gpa=-0.5, pressure_below_K=1250)
    frames = sample(copper(), step, teacher=Counting())
    kelvin = np.array([f.info["temperature_K"] for f in frames])
    volume = np.array([f.get_volume() for f in frames]) / copper().get_volume()
    assert kelvin == pytest.approx([1250, 2000, 2000, 2000, 1625, 1250, 875, 500, 500, 500])
    assert volume[:5] == pytest.approx(1.0, abs=1e-12)
    assert (np.abs(volume[6:] - 1) > 1e-4).all()
    assert volume[-1] > 1.0  # it is pulled at


def test_the_thermostat_follows_the_schedule(monkeypatch):
    set_to = []

    class Watched(Langevin):
        def step(self, forces=None):
            set_to.append(self.temp / units.kB)
            return super().step(forces)

    monkeypatch.setattr("limbeck.core.integrators.Langevin", Watched)
    step = Melt(melt_K=1000, quench_to_K=200, heat_fs=20, hold_fs=10, cool_fs=40, frames=1, timestep_fs=5)
    sample(copper(), step, teacher=Counting())
    heating, cooling = [400, 600, 800, 1000], [900, 800, 700, 600, 500, 400, 300, 200]
    assert set_to == pytest.approx([*heating, 1000, 1000, *cooling])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"kind": "md", "temperature_K": 300, "ramp_to_gpa": 5}, "ramp_to_gpa 5 without pressure_gpa"),
        ({"kind": "melt", "melt_K": 200}, "wanted melt_K above quench_to_K"),
        ({"kind": "melt", "melt_K": 2000, "pressure_below_K": 200}, "wanted pressure_below_K at quench_to_K"),
        ({"kind": "melt", "melt_K": 2000, "frames": 10**6}, "wanted at most one in each of 5000 steps"),
        ({"kind": "contacts", "name": "close"}, "wanted one that begins with 'contacts'"),
        ({"kind": "rattle", "stdev_a": 0.1, "name": "contacts-b"}, "a name for steps of kind contacts"),
        ({"kind": "contacts", "shortest_a": 0.1}, "greater than or equal to 0.2"),
    ],
)
def test_bad_steps(step, message):
    with pytest.raises(ValidationError) as caught:
        SamplingConfig(steps=[step])
    assert message in str(caught.value)


def test_the_pressure_acts_at_its_temperature_and_below():
    step = Melt(**MELT, settle_fs=50, frames=10, pressure_gpa=-0.5, pressure_below_K=1250)
    targets = [step.target(n, Condition(500, -0.5)) for n in range(step.steps // 2, step.steps + 1)]
    at = [target.pressure_gpa for target in targets if target.temperature_K == 1250]
    assert at == [-0.5]


@pytest.mark.parametrize(("over", "ends"), [(0.97, False), (1.03, True)])
def test_a_trajectory_ends_beyond_three_times_its_temperature_and_fluctuations(over, ends):
    """Three times the target, and three deviations sqrt(2 / freedom) of a canonical kinetic energy."""
    atoms = copper(1, 1, 1)
    limit = 3.0 * (1.0 + 3.0 * np.sqrt(2.0 / 9.0)) * 300.0
    atoms.set_momenta(np.random.default_rng(0).normal(size=(4, 3)))
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(over * limit / atoms.get_temperature()))
    assert (_unphysical(atoms, np.zeros((4, 3)), 300.0, False, None) is not None) == ends
