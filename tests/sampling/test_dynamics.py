"""Langevin trajectories: equipartition is the oracle, and unphysical ones must end."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin

from limbeck.core.labels import Labels
from limbeck.core.potential import AsePotential, Capabilities, Potential
from limbeck.sampling.dynamics import MD, run_trajectory, sample_md


class Einstein(Potential):
    """Independent harmonic oscillators: <x²> = kT / k is known exactly."""

    name = "einstein"
    capabilities = Capabilities(stress=False)

    def __init__(self, origin: np.ndarray, k: float) -> None:
        self.origin, self.k = origin, k

    def evaluate(self, batch):
        x = batch.positions - self.origin
        return Labels(energy=np.array([0.5 * self.k * (x**2).sum()]), forces=-self.k * x)


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


def emt() -> AsePotential:
    return AsePotential(EMT(), Capabilities(elements=frozenset({29})), "emt")


def test_copper_has_the_target_temperature(monkeypatch):
    """EMT copper at 600 K, momenta watched at every step, errors from block averages."""
    start = bulk("Cu", cubic=True) * (2, 2, 2)
    config = MD(
        temperature_K=600, frames=40, every_fs=50, equilibrate_fs=500, timestep_fs=5, friction_per_ps=20
    )
    watched: list[float] = []

    class Watched(Langevin):
        def step(self, forces=None):
            out = super().step(forces)
            watched.append(self.atoms.get_temperature())
            return out

    monkeypatch.setattr("limbeck.sampling.dynamics.Langevin", Watched)
    made = run_trajectory(start, emt(), config, 600.0, np.random.default_rng(11), "Cu#0/md-600K-s0")
    assert made.stopped is None
    assert len(watched) == config.steps
    sampled = np.array(watched[config.equilibration_steps :])
    freedom = 3 * 32 - 3
    blocks = sampled.reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(len(blocks))
    # Friction 20/ps decorrelates kinetic energy in 25 fs, so 2000 fs hold at least 40 samples.
    assert error < 2.5 * 600 * np.sqrt(2 / freedom / 40)
    assert abs(sampled.mean() - 600) < 4 * error + 0.01 * 600
    assert sampled.std() == pytest.approx(600 * np.sqrt(2 / freedom), rel=0.35)
    assert [f.info["config_type"] for f in made.frames] == ["md"] * 40
    assert {f.info["temperature_K"] for f in made.frames} == {600.0}
    assert {f.info["group"] for f in made.frames} == {"Cu#0/md-600K-s0"}


@pytest.mark.parametrize("relaxed", [False, True])
def test_einstein_crystal_spreads_as_kt_over_k(relaxed):
    """<x²> = kT/k for each of 3N - 3 oscillators (the centre of mass is held)."""
    n, k, temperature = 64, 5.0, 300.0
    origin = np.array([(x, y, z) for x in range(4) for y in range(4) for z in range(4)]) * 3.0
    start = Atoms(f"Al{n}", positions=origin)
    config = MD(
        temperature_K=temperature, frames=60, every_fs=60, equilibrate_fs=400, timestep_fs=4,
        friction_per_ps=20, from_relaxed=relaxed,
    )  # fmt: skip
    frames = sample_md(start, Einstein(origin, k), config, seed=3)
    x = np.array([f.positions for f in frames]) - origin  # (T, N, 3)
    assert np.abs(x.mean(axis=1)).max() < 1e-6
    measured = (x**2).sum() / (len(frames) * (3 * n - 3))
    # 60 frames of 189 squares with relative spread sqrt(2): 2% at four standard errors of 0.013.
    assert measured == pytest.approx(units.kB * temperature / k, rel=4 * np.sqrt(2 / (60 * 189)) * 1.5)


def test_relaxed_start_begins_hot_and_ends_at_the_target():
    """A harmonic start at its minimum has half of its final energy missing; 2T puts it there."""
    origin = np.array([(x, y, z) for x in range(4) for y in range(4) for z in range(4)]) * 3.0
    start = Atoms("Al64", positions=origin)
    early = []
    for relaxed in (False, True):
        config = MD(temperature_K=300, frames=12, every_fs=10, equilibrate_fs=100, timestep_fs=2,
                    friction_per_ps=0.1, from_relaxed=relaxed)  # fmt: skip
        x = np.array([f.positions for f in sample_md(start, Einstein(origin, 5.0), config, seed=1)]) - origin
        early.append((x**2).mean() * 5.0 / (units.kB * 300))
    assert early[0] == pytest.approx(0.5, abs=0.15)
    assert early[1] == pytest.approx(1.0, abs=0.2)


def test_temperatures_ramp_and_lists():
    start = bulk("Cu", cubic=True)
    start.info["group"] = "Cu#0"
    short = {"frames": 4, "every_fs": 10, "equilibrate_fs": 10, "timestep_fs": 5}
    ramp = sample_md(start, emt(), MD(temperature_K=300, ramp_to_K=700, **short), seed=1)
    assert [f.info["temperature_K"] for f in ramp] == pytest.approx([400, 500, 600, 700])
    assert {f.info["group"] for f in ramp} == {"Cu#0/md-300-700K-s0"}
    several = sample_md(start, emt(), MD(temperature_K=[300, 500], **short), seed=1)
    assert [f.info["group"] for f in several] == ["Cu#0/md-300K-s0"] * 4 + ["Cu#0/md-500K-s0"] * 4


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
    start = bulk("Cu", cubic=True) * (2, 2, 2)
    # a strong thermostat takes the heat of a collapse away, so that the contact is seen first
    friction = {"collapse": 200}.get(fault, 1)
    config = MD(
        temperature_K=300, frames=40, every_fs=10, equilibrate_fs=0, timestep_fs=2, friction_per_ps=friction
    )
    made = run_trajectory(start, potential, config, 300.0, np.random.default_rng(0), "Cu#0/md-300K-s0")
    assert made.stopped is not None
    assert len(made.frames) < 40
    assert made.stopped.startswith("Cu#0/md-300K-s0 ended at step ")
    assert re.search(rf"of 200 with {len(made.frames)} of 40 frames: {cause}$", made.stopped), made.stopped
    for frame in made.frames:
        assert np.isfinite(frame.positions).all()


def test_what_was_hot_may_give_off_its_heat_on_the_way_to_a_low_temperature():
    """Random displacements hold the energy of some 2,000 K; half of it becomes kinetic at once."""
    start = bulk("Cu", cubic=True) * (2, 2, 2)
    start.rattle(0.3, seed=0)
    start.info["group"] = "Cu#0/hot"
    config = MD(temperature_K=100, frames=4, every_fs=20, equilibrate_fs=600, timestep_fs=2)
    assert not sample_md(start, emt(), config, seed=1)  # as it comes from a user, it is strange
    start.info["temperature_K"] = 2000.0
    assert len(sample_md(start, emt(), config, seed=1)) == 4


@pytest.mark.parametrize(("steps", "temperature"), [(3, None), (7, 300.0)])
def test_a_frame_from_before_equilibration_belongs_to_no_temperature(steps, temperature):
    """Cut in the middle: before or after the 5 steps of equilibration."""
    config = MD(temperature_K=300.0, frames=4, every_fs=10.0, equilibrate_fs=5.0, timestep_fs=1.0)
    taken = []
    made = run_trajectory(
        bulk("Cu", cubic=True), emt(), config, 300.0, np.random.default_rng(0), "Cu#0/md-300K-s0",
        on_step=lambda: taken.append(1), stop=lambda: len(taken) == steps,
    )  # fmt: skip
    assert made.cut
    assert [frame.info.get("temperature_K") for frame in made.frames] == [temperature]
