"""A teacher that is slower than when it was timed, or becomes so: fewer trajectories, but whole ones.

Time is a number that every evaluation moves on by what it costs at that moment; nothing waits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from limbeck.config import DistillConfig
from limbeck.core.labels import LabelledSet, Labels
from limbeck.core.potential import Capabilities, Potential
from limbeck.labelling.remote import WorkerPotential
from limbeck.planning import plan as planning
from limbeck.planning.plan import Costs
from limbeck.progress import no_progress
from limbeck.records.label_record import TeacherIdentity
from limbeck.records.label_store import LabelStore
from limbeck.records.run_folder import RunFolder, RunState
from limbeck.records.time_budget import TimeBudget
from limbeck.sampling import MD, SamplingConfig
from limbeck.workflows.run import Run
from limbeck.workflows.sample_and_label import LabelledSampling
from limbeck.workflows.training_data import LabelSource

PLANNED_S, SCOUT_S = 0.5, 2e-3
BEGAN = 1000.0
TEMPERATURES = (300.0, 600.0, 900.0, 1200.0)
#: 52 trajectories of 12 frames and 45 evaluations
TEST = SamplingConfig(
    steps=(
        MD(temperature_K=TEMPERATURES, starts=13, frames=12, every_fs=4, equilibrate_fs=40, timestep_fs=2),
    )
)
RUNS, FRAMES, EVALUATIONS = 52, 12, 45
BUDGET_S = 4000.0


class Lattice(Potential):
    """Every atom on a spring to the nearest site of the fcc lattice; each evaluation takes its time."""

    def __init__(self, name: str, now: list[float], cost_s: Callable[[float], float]) -> None:
        self.name, self.capabilities = name, Capabilities(stress=False)
        self.now, self.cost_s = now, cost_s
        self.killed_at, self.calls = np.inf, 0

    def evaluate(self, batch):
        energies, forces = [], []
        for atoms in batch.to_atoms():
            self.now[0] += self.cost_s(self.now[0])
            self.calls += 1
            if self.now[0] > self.killed_at:
                raise KeyboardInterrupt
            sites = np.round(2 * np.round(np.cbrt(len(atoms) / 4)))  # half the cubic cell's edge apart
            scaled = atoms.get_scaled_positions(wrap=False)
            away = (scaled - np.round(scaled * sites) / sites) @ atoms.cell.array
            energies.append((away**2).sum())
            forces.append(-2.0 * away)
        return Labels(np.array(energies), np.concatenate(forces))


class SlowTeacher(Lattice, WorkerPotential):
    thread_safe = False

    def __init__(self, now, cost_s) -> None:
        super().__init__("slow", now, cost_s)
        self.card, self.n_parameters, self.capabilities = None, None, Capabilities()
        self.identity = TeacherIdentity("slow", "1", "0" * 64)

    def stream(self, batch, stop=None):
        for s in range(len(batch)):
            if stop is not None and stop():
                return
            yield s, self.evaluate(batch.select([s]))


class Bench:
    """A run's sampling_and_labelling whose time is made up; plans as `distill` does, with a teacher of ``PLANNED_S``."""

    def __init__(self, monkeypatch, folder, cost_s, scout_cost_s=lambda now: SCOUT_S, **settings) -> None:
        self.now, self.folder = [BEGAN], RunFolder(folder)
        monkeypatch.setattr(time, "monotonic", lambda: self.now[0])
        steps = dict.fromkeys(("tiny", "ultra-tiny"), SCOUT_S)
        monkeypatch.setattr(planning, "measure", lambda *_: Costs(PLANNED_S, steps, 1))
        self.config = DistillConfig(bulk="Cu", presets=("tiny",), **settings)
        self.starts = [bulk("Cu", cubic=True)]
        self.plan = planning.plan(self.config, self.starts, None, TimeBudget(self.config.budget))
        self.teacher = SlowTeacher(self.now, cost_s)
        self.trained: set[int] = set()

        def interim(sampling_and_labelling, labelled, count, seconds):
            if count not in self.trained:
                self.now[0] += seconds
            self.trained.add(count)
            return Lattice(f"interim-{count}", self.now, scout_cost_s)

        monkeypatch.setattr(LabelledSampling, "_interim_student", interim)
        self.state = RunState(self.folder, self.config.budget, BEGAN)

    def collect(self, what: str = "collect") -> tuple[LabelledSet, list[str]]:
        """The set and the notes; what was interrupted goes on as in another process."""
        with LabelStore(self.folder.labels) as store:
            run = Run(self.config, self.folder, self.teacher, self.state, no_progress, lambda text: None)
            sampling_and_labelling = LabelledSampling(run, store)
            found = getattr(sampling_and_labelling, what)(self.starts, self.plan)
            return found.labelled if isinstance(found, LabelSource) else found, sampling_and_labelling.notes

    def again(self) -> None:
        """Killed, and called again later."""
        self.state.save()
        self.state = RunState(self.folder, self.config.budget, self.now[0])


def affordable(cost_s: Callable[[float], float], began_s: float, until_s: float) -> float:
    """Evaluations that fit between two moments of the run, from the cost alone."""
    times = np.linspace(began_s, until_s, 20_001)
    return float(np.trapezoid([1.0 / cost_s(BEGAN + t) for t in times], times))


@pytest.mark.parametrize("slowness", [1.0, 3.0, 6.0, 15.0])
def test_a_slow_teacher_leaves_training_half_of_its_plan(monkeypatch, tmp_path, slowness):
    bench = Bench(monkeypatch, tmp_path, lambda now: slowness * PLANNED_S, budget=900.0)
    test, notes = bench.collect("collect_test_set")
    plan, spent = bench.plan, bench.state.time.spent_s
    uncut, late = slowness * plan.test_set_s, plan.test_set_until_s
    assert late == pytest.approx(plan.test_set_s + 0.5 * sum(plan.training_s.values()))
    # beyond it are the evaluation at work, and the first labels, of which there are always some
    assert spent <= min(1.02 * uncut, late + slowness * PLANNED_S * planning.LEAST_LABELS)
    if uncut < late:
        assert (len(test), notes) == (plan.test_frames, [])
        return
    assert 0 < len(test) < plan.test_frames
    assert sum("there was time for" in note for note in notes) == 1
    assert notes[0].startswith("test md: ")
    # with one trajectory a temperature, each keeps frames; those from before the end of equilibration belong
    # to no temperature
    temperatures = plan.test.steps[-1].temperatures
    assert len(np.unique(test.group)) == len(temperatures)
    reached = set(test.temperature_k[~np.isnan(test.temperature_k)])
    assert reached == (set(temperatures) if slowness < 15 else set())


def test_without_a_budget_nothing_is_cut(monkeypatch, tmp_path):
    bench = Bench(monkeypatch, tmp_path, lambda now: 6 * PLANNED_S, training={"epochs": 5})
    test, notes = bench.collect("collect_test_set")
    assert bench.plan.test_set_until_s is None
    assert (len(test), notes) == (bench.plan.test_frames, [])
    assert bench.state.time.spent_s == pytest.approx(6.0 * bench.plan.test_set_s, rel=0.02)


COSTS = {
    "5 times slower": lambda now: 5 * PLANNED_S,
    "slower for a while": lambda now: PLANNED_S * (10 if 150 < now - BEGAN < 1200 else 1),
    "slower from a moment on": lambda now: PLANNED_S * (1 if now - BEGAN < 300 else 8),
    "slow at first": lambda now: PLANNED_S * (12 if now - BEGAN < 1000 else 1),
}


@pytest.mark.parametrize("cost_s", COSTS.values(), ids=COSTS)
def test_held_out_trajectories_are_fewer_and_whole(monkeypatch, tmp_path, cost_s):
    bench = Bench(monkeypatch, tmp_path, cost_s, budget=BUDGET_S, test=TEST)
    assert bench.plan.test_frames == RUNS * FRAMES
    test, notes = bench.collect("collect_test_set")
    share = affordable(cost_s, 0.0, bench.plan.test_set_until_s) / (RUNS * (EVALUATIONS + FRAMES))
    assert share < 0.8  # else there was nothing to choose
    assert 0.7 * share * RUNS * FRAMES <= len(test) <= share * RUNS * FRAMES + FRAMES
    assert bench.state.time.spent_s <= bench.plan.test_set_until_s + 12 * PLANNED_S
    # as many trajectories of each temperature, one more or less, and all whole but the last
    frames_of = Counter(test.group.tolist())
    runs_at = Counter(group.split("/md-")[1].split("K")[0] for group in frames_of)
    assert sorted(map(float, runs_at)) == list(TEMPERATURES)
    assert max(runs_at.values()) - min(runs_at.values()) <= 1
    assert sorted(frames_of.values())[1:] == [FRAMES] * (len(frames_of) - 1)
    told = f"test md: there was time for {len(frames_of)} of {RUNS} trajectories, "
    assert sum(note.startswith(told) for note in notes) == 1, notes
    assert not any("labelling stopped" in note for note in notes)


def test_interrupted_it_goes_on_and_loses_only_the_trajectory_at_work(monkeypatch, tmp_path):
    bench = Bench(monkeypatch, tmp_path, COSTS["5 times slower"], budget=BUDGET_S, test=TEST)
    kept: dict[Path, str] = {}
    for killed_at in (400.0, 900.0, 1400.0):
        bench.teacher.killed_at = BEGAN + killed_at
        with pytest.raises(KeyboardInterrupt):
            bench.collect("collect_test_set")
        bench.again()
        assert all(path.read_text() == text for path, text in kept.items())
        kept = {path: path.read_text() for path in bench.folder.sampling.glob("*.extxyz")}
    bench.teacher.killed_at = np.inf
    test, notes = bench.collect("collect_test_set")
    frames_of = Counter(test.group.tolist())
    assert set(frames_of.values()) == {FRAMES}
    assert len(frames_of) >= len(kept) >= 8
    # of each kill, the trajectory at work was in vain
    assert bench.teacher.calls <= len(frames_of) * (EVALUATIONS + FRAMES) + 3 * EVALUATIONS
    share = bench.plan.test_set_until_s / (5 * bench.plan.test_set_s)
    assert len(test) >= 0.7 * share * RUNS * FRAMES - 3 * FRAMES
    bench.again()
    bench.now[0] += 1e4
    again, said = bench.collect("collect_test_set")
    np.testing.assert_array_equal(again.structures.positions, test.structures.positions)
    np.testing.assert_array_equal(again.labels.energy, test.labels.energy)
    assert said[0] == notes[0]


SAMPLED = {"budget": 400.0, "temperatures_K": (300.0, 600.0)}


def sampled(bench: Bench) -> tuple[LabelledSet, list[str], Counter[str], dict[str, int]]:
    """What was collected, the notes, and step -> frames made and planned; the first step makes the cell."""
    labelled, notes = bench.collect()
    sampling = bench.plan.sampling
    parts = [
        sampling.model_copy(update={"steps": sampling.steps[:k]}) for k in range(1, 1 + len(sampling.steps))
    ]
    counts = [0, *(planning.count_frames(part, bench.starts) for part in parts[1:])]
    planned = dict(zip(sampling.names[1:], np.diff(counts).tolist(), strict=True))
    return labelled, notes, Counter(labelled.config_type.tolist()), planned


def test_each_step_and_temperature_of_a_sampling_keeps_its_share(monkeypatch, tmp_path):
    """Teacher and interim_students take five times as long as planned: before, still frames took all the time."""
    bench = Bench(monkeypatch, tmp_path, lambda now: 5 * PLANNED_S, lambda now: 5 * SCOUT_S, **SAMPLED)
    plan = bench.plan
    assert plan.interim_students == 2
    labelled, notes, made, planned = sampled(bench)
    share = (plan.labels_until_s - plan.interim_students * plan.interim_s) / (5 * plan.labelling_s)
    assert share < 0.4
    for step, frames in planned.items():
        if step.startswith("student"):
            assert made[step] >= 0.7 * share * frames, (step, made)
            assert set(labelled.temperature_k[labelled.config_type == step]) == {300.0, 600.0}
    assert len(labelled) >= 0.8 * share * plan.frames
    assert bench.state.time.spent_s <= plan.labels_until_s + 5 * PLANNED_S * planning.LEAST_LABELS
    assert sum("labelling stopped" in note for note in notes) == 1


def test_as_fast_as_planned_all_is_labelled(monkeypatch, tmp_path):
    bench = Bench(monkeypatch, tmp_path, lambda now: PLANNED_S, **SAMPLED)
    _, notes, made, planned = sampled(bench)
    # a teacher of springs gets the closest contacts wrong, which the audit sees
    assert made.pop("contacts") <= planned.pop("contacts")
    assert (dict(made), notes) == (planned, [])


def test_what_waited_for_a_slow_teacher_is_labelled_once_it_is_quick(monkeypatch, tmp_path):
    """Slow for the still frames only: they come last, when the others have their labels."""
    bench = Bench(monkeypatch, tmp_path, lambda now: PLANNED_S * (4 if now - BEGAN < 80 else 0.8), **SAMPLED)
    labelled, _, made, planned = sampled(bench)
    for step in ("student-md", "student-md-2"):
        assert made[step] == planned[step]
    assert 0.6 * bench.plan.frames < len(labelled)
