"""What a run says at its end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ase.build import bulk

from limbeck.benchmark.rows import Timing
from limbeck.core.machine import usable_cores
from limbeck.core.structures import StructureBatch
from limbeck.records.run_folder import RunFolder
from limbeck.workflows import evaluation
from limbeck.workflows.evaluation import add_speeds, say_results


def test_rates_ratios_and_threads_of_teacher_and_students(tmp_path, monkeypatch):
    def load(path, threads):
        assert threads == 3
        return path.name.removesuffix(".safetensors")

    def timings(potentials, atoms):
        assert potentials == [teacher, "tiny", "ultra-tiny"]
        assert len(atoms) == 8
        # a machine that is twice as slow in its second block slows all alike
        return [Timing(((s,), (2 * s,), (s,))) for s in (0.4, 0.001, 0.0005)]

    monkeypatch.setattr(evaluation, "Student", SimpleNamespace(load=load))
    monkeypatch.setattr(evaluation, "time_in_turns", timings)
    teacher = SimpleNamespace(name="emt", n_parameters=900, threads=3, device="cuda")
    frames = StructureBatch.from_atoms([bulk("Si", cubic=True), bulk("Si")])
    data = SimpleNamespace(teacher=teacher, test=SimpleNamespace(structures=frames))
    metrics = {"tiny": {"run": {"parameters": 90}}, "ultra-tiny": {"run": {"parameters": 30}}, "run": {}}
    add_speeds(metrics, RunFolder(tmp_path), ["tiny", "ultra-tiny"], data, 600.0)
    tiny, ultra, run = metrics["tiny"]["run"], metrics["ultra-tiny"]["run"], metrics["run"]
    assert (tiny["atoms_per_s"], ultra["atoms_per_s"]) == pytest.approx((8_000.0, 16_000.0))
    assert (tiny["speedup"], ultra["speedup"]) == pytest.approx((400.0, 800.0))
    assert tiny["threads"] == ultra["threads"] == run["teacher"]["threads"] == 3
    assert (tiny["compression"], run["teacher"]["device"], run["speed_atoms"]) == (10.0, "cuda", 8)
    assert run["teacher"]["atoms_per_s"] == pytest.approx(20.0)
    # 0.4 s a step saved but for a millisecond, or half of one
    assert (tiny["break_even_steps"], ultra["break_even_steps"], run["spent_s"]) == (1504, 1502, 600.0)


def _said(load: float = 0.0, **rmse: float) -> str:
    """What is said of presets with these errors; ``load`` is that of a core."""

    def evaluated(error: float, parameters: int) -> dict[str, Any]:
        errors = {"force_rmse_mev_per_a": error, "force_r2": 1.0, "energy_mae_mev_per_atom": 1.0}
        facts = {"parameters": parameters, "training": {"training_loss": 1e-5}}
        return {"test": {"all": errors}, "validation": {"all": errors}, "run": facts}

    about = {
        "teacher": {"name": "emt", "parameters": None, "atoms_per_s": 1.0},
        "load": load * usable_cores(),
        "speed_atoms": 1,
    }
    size = {"tiny": 70_000, "original": 400_000}
    metrics = {preset: evaluated(error, size[preset]) for preset, error in rmse.items()} | {"run": about}
    lines: list[str] = []
    evaluation = SimpleNamespace(test=[0], hottest_k=300.0)
    say_results(metrics, RunFolder("run"), list(rmse), evaluation, lines.append)
    return "\n".join(lines)


@pytest.mark.parametrize(("load", "noted"), [(0.9, False), (3.0, True)])
def test_speeds_of_a_busy_machine_are_remarked_on(load, noted):
    assert ("the machine was busy" in _said(load, tiny=1.0)) is noted


@pytest.mark.parametrize(("error", "noted"), [(11.5, True), (6.0, False)])
def test_a_larger_preset_that_is_no_better_is_remarked_on(error, noted):
    said = _said(tiny=8.0, original=error)
    assert ("original (400,000 parameters) is no more accurate than tiny" in said) is noted
    assert ("the number of labels limits it: use tiny" in said) is noted
