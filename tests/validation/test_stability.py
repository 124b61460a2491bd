"""Dynamics that lasts, fails, is objected to; what is kept of it."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule

from limbeck.core.frames import TrajectoryCache
from limbeck.core.labels import Labels
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.validation.stability import run_stability, strained_starts
from tests.validation.toys import emt


class Collapsing(Potential):
    """Atoms that attract each other ever more: no dynamics lasts."""

    name = "collapsing"
    capabilities = emt().capabilities

    def evaluate(self, batch: StructureBatch) -> Labels:
        forces = np.zeros_like(batch.positions)
        for s in range(len(batch)):
            own = slice(batch.offsets[s], batch.offsets[s + 1])
            forces[own] = 5.0 * (batch.positions[own].mean(axis=0) - batch.positions[own])
        return Labels(np.zeros(len(batch)), forces)


@pytest.fixture
def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.info["group"] = "Cu"
    return atoms


def runs_of(potential, starts, **options):
    settings = {"temperature_k": 300.0, "duration_ps": 0.1, "timestep_fs": 2.0, "seed": 3} | options
    return run_stability(potential, starts, **settings)


def test_starts_are_plain_compressed_and_stretched_by_turns(copper):
    starts = strained_starts([copper], 4, 0.03)
    ratio = [a.get_volume() / copper.get_volume() for a in starts]
    assert ratio == pytest.approx([1.0, 0.97**3, 1.03**3, 1.0])
    assert len({a.info["group"] for a in starts}) == 4
    water = strained_starts([molecule("H2O")], 2, 0.03)
    assert water[1].positions == pytest.approx(molecule("H2O").positions)


def test_a_sound_potential_lasts(copper):
    (run,) = runs_of(emt(), [copper])
    assert run.stable
    assert run.reached_ps == pytest.approx(0.1)
    assert len(run.frames) == 5
    assert run.last(3) == []
    assert run.spread_out(2) == [run.frames[1], run.frames[4]]
    assert {f.info["temperature_K"] for f in run.frames} == {300.0}


def test_a_collapse_ends_the_run(copper):
    (run,) = runs_of(Collapsing(), [copper], duration_ps=1.0)
    assert not run.stable
    assert run.reached_ps < 1.0
    assert "Å apart" in run.reason or "temperature" in run.reason


def test_an_objection_ends_the_run_and_keeps_its_frame(copper):
    seen = []

    def objection(frame):
        seen.append(frame)
        return "too suspicious" if len(seen) == 3 else None

    (run,) = runs_of(emt(), [copper], objection=objection)
    assert not run.stable
    assert run.reached_ps == pytest.approx(0.06)
    assert run.reason.endswith("too suspicious")
    assert run.last(2) == run.frames[1:]
    assert run.spread_out(9) == run.frames[:2]


def test_finished_runs_are_kept_and_time_ends_the_others(copper, tmp_path):
    cache, starts = TrajectoryCache(tmp_path), strained_starts([copper], 3, 0.02)
    steps = []
    first = runs_of(
        emt(), starts, cache=cache, key="a", on_step=lambda: steps.append(1), stop=lambda: len(steps) > 60
    )
    assert len(first) == 1  # 50 steps a run: the second was given up
    steps.clear()
    again = runs_of(emt(), starts, cache=cache, key="a", on_step=lambda: steps.append(1))
    assert len(again) == 3
    assert len(steps) == 100
    assert again[0].frames[-1].positions == pytest.approx(first[0].frames[-1].positions)
