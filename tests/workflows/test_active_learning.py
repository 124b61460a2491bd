"""Students that learn from where their own dynamics fails."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from limbeck.config import load_config

from .test_distill import COPPER

SETTINGS = {
    **COPPER,
    "presets": ["ultra-tiny", "tiny"],
    "training": {"epochs": 8},
    "validation": {"onpolicy_frames": 2, "nve_fs": 50},
    "active_learning": {
        "iterations": 2,
        "starts": 3,
        "duration_ps": 0.4,
        "temperature_K": 1500,
        "force_r2": 1.0,
    },
}


@pytest.mark.slow
@pytest.mark.ci
def test_iterations_add_labels_and_stand_in_the_metrics(done, tmp_path):
    config, out = tmp_path / "cu.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(SETTINGS))
    assert "active learning: up to 2" in done(f"distill {config} --out {out}")
    metrics = json.loads((out / "metrics.json").read_text())
    iterations = metrics["run"]["active_learning"]
    assert [r["number"] for r in iterations] == [0, 1, 2]
    assert iterations[0]["labels"] < iterations[1]["labels"] < iterations[2]["labels"]
    for student in (student for seen in iterations for student in seen["students"].values()):
        assert student["runs"] == 3
        assert student["on_policy"]["n_structures"] > 0
        assert 0.02 <= student["shortest_ps"] <= student["mean_ps"] <= 0.4 + 1e-9
    # the test figures of the last iteration are those of the student that the run leaves
    last = iterations[-1]["students"]["tiny"]["test"]["force_rmse_mev_per_a"]
    assert metrics["tiny"]["test"]["all"]["force_rmse_mev_per_a"] == pytest.approx(last)
    assert (out / "tiny.safetensors").read_bytes() != (
        out / "active_learning/0/tiny.safetensors"
    ).read_bytes()

    # Interrupted within the last iteration, it comes to the same end.
    for name in ("metrics.json", "tiny.safetensors", "ultra-tiny.safetensors"):
        (out / name).unlink()
    shutil.rmtree(out / "active_learning" / "2")
    shutil.rmtree(out / "train", ignore_errors=True)
    done(f"distill {config} --out {out}")
    assert json.loads((out / "metrics.json").read_text())["run"]["active_learning"] == iterations


def test_iterations_may_be_given_as_a_number(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("bulk: Cu\nteacher: ase.calculators.emt:EMT\nactive_learning: 3\n")
    assert load_config(path).active_learning.iterations == 3
    assert load_config(path, active_learning=1).active_learning.iterations == 1
    assert load_config(path, ["active_learning.starts=4"]).active_learning.starts == 4
