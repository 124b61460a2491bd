"""The whole job: from copper and EMT, and from a real teacher, to student files and metrics.json."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from ase.io import read

import limbeck
from limbeck.config import DistillConfig
from limbeck.core.machine import available_threads
from limbeck.errors import InputError

EMT = "ase.calculators.emt:EMT"
KEYS = {
    "energy_mae_mev_per_atom",
    "energy_rmse_mev_per_atom",
    "force_mae_mev_per_a",
    "force_rmse_mev_per_a",
    "force_r2",
    "force_cosine",
    "stress_mae_mev_per_a3",
    "n_structures",
    "n_atoms",
}
COPPER = {
    "bulk": "Cu",
    "teacher": EMT,
    "presets": ["ultra-tiny"],
    "sampling": {
        "seed": 1,
        "steps": [
            {"kind": "strain", "max": 0.03, "n": 6},
            {"kind": "rattle", "from": "strain", "stdev_a": [0.05, 0.1], "n": 6},
        ],
    },
    "test": {
        "seed": 101,
        "steps": [
            {
                "kind": "md", "temperature_K": [300, 600], "starts": 1, "frames": 5, "every_fs": 20,
                "equilibrate_fs": 60, "timestep_fs": 4, "from_relaxed": True,
            }
        ],
    },
    "training": {"epochs": 60},
    "validation": {"onpolicy_frames": 4, "nve_fs": 100},
}  # fmt: skip


def test_copper_from_emt(run, tmp_path, monkeypatch):
    # on a busy machine the teacher's long range would not be measured
    monkeypatch.setattr("limbeck.pipeline.evaluation.SECONDS_BY_EPOCHS", 1e6)
    config, out = tmp_path / "cu.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump({"name": "copper", **COPPER}))
    code, printed, err = run("distill", config, "--out", out, "--json", tmp_path / "figures.json")
    assert code == 0, err
    assert "frames to label: 78 of 4 atoms" in printed
    assert "in the validation set, 10 in the test set" in printed
    table = [line.split() for line in printed.splitlines() if line.startswith(("model", EMT, "ultra-tiny"))]
    assert [row[0] for row in table] == ["model", EMT, "ultra-tiny"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == json.loads((tmp_path / "figures.json").read_text())
    assert set(metrics) == {"ultra-tiny", "run"}
    assert metrics["run"]["name"] == "copper"
    assert metrics["run"]["teacher"]["name"] == EMT
    near, far = metrics["run"]["teacher"]["long_range"]
    assert (near["radius_a"], far["radius_a"]) == (5.0, 10.0)
    # EMT's forces end between the two
    assert near["force_rms_mev_per_a"] > 1.0
    assert far["force_rms_mev_per_a"] < 1e-3
    assert near["reason"] == far["reason"] == ""
    assert "teacher's forces beyond 10.0 Å: " in printed
    evaluated = metrics["ultra-tiny"]
    assert set(evaluated) == {"validation", "test", "on_policy", "run"}
    for split in ("validation", "test"):
        assert set(evaluated[split]["all"]) == KEYS
        assert {"by_element", "by_config_type"} <= set(evaluated[split])
    assert set(evaluated["test"]["by_temperature"]) == {"300", "600"}
    assert evaluated["test"]["all"]["n_structures"] == 10
    # trained on rattled crystals alone, tried on dynamics
    assert evaluated["test"]["all"]["force_r2"] > 0.99
    assert evaluated["on_policy"]["all"]["n_structures"] == 4
    facts = evaluated["run"]
    assert facts["on_policy"] == {"temperature_k": 600.0, "stable": True, "reason": ""}
    assert facts["training"]["epochs"] == 60
    teacher = metrics["run"]["teacher"]
    assert teacher["threads"] == facts["threads"] == available_threads()
    assert min(teacher["atoms_per_s"], facts["atoms_per_s"], facts["speedup"]) > 0
    assert metrics["run"]["speed_atoms"] == 4
    assert abs(facts["nve"]["drift_mev_per_atom_per_ps"]) < 5.0
    # the command for files says the same of the file
    for split in ("validation", "test"):
        done = run(
            "validate",
            out / "ultra-tiny.safetensors",
            out / f"{split}.extxyz",
            "--json",
            tmp_path / "again.json",
        )
        assert done[0] == 0, done[2]
        again = json.loads((tmp_path / "again.json").read_text())["ultra-tiny"]["data"]["all"]
        assert again == pytest.approx(evaluated[split]["all"], rel=1e-3)
    # and the student is of use
    atoms = read(out / "test.extxyz", -1)
    truth = atoms.get_forces()
    atoms.calc = limbeck.Calculator(out / "ultra-tiny.safetensors")
    assert np.sqrt(np.mean((atoms.get_forces() - truth) ** 2)) < 0.3 * np.sqrt(np.mean(truth**2))
    card = limbeck.Student.load(out / "ultra-tiny.safetensors").card
    assert card["metrics"]["test"] == evaluated["test"]["all"]
    assert card["metrics"]["on_policy"] == evaluated["on_policy"] | facts["on_policy"]
    assert card["limits"]["receptive_field_a"] == 10.0
    assert card["limits"]["long_range"] in printed
    # called again, it says that it is finished, and its results
    code, repeated, err = run("distill", config, "--out", out)
    assert code == 0, err
    lines = repeated.splitlines()
    assert lines[0].startswith(f"note: the run in {out} is finished")
    # speeds are measured anew, so only what rows are about is compared, and no note of a busy machine
    rows, before = (
        [line[:25] for line in text if not line.startswith("note: ")]
        for text in (lines[1:], printed.splitlines())
    )
    assert len(rows) >= 5
    assert rows == before[-len(rows) :]
    assert "to train on" not in repeated
    assert "labels" not in err
    assert card["run"]["name"] == "copper"
    assert card["run"]["command"] == f"limbeck distill {config} --out {out} --json {tmp_path}/figures.json"
    # the same command finds everything done
    before = (out / "ultra-tiny.safetensors").read_bytes()
    code, printed, err = run("distill", config, "--out", out)
    assert code == 0, err
    assert "training" not in err
    assert (out / "ultra-tiny.safetensors").read_bytes() == before
    # but not another one
    code, _, err = run("distill", config, "--seed", 5, "--out", out)
    assert (code, err) == (
        2,
        f"error: {out}: the run folder belongs to another configuration; got other values of seed; wanted the same "
        "configuration, to go on with it; remedy: choose another --out, or --overwrite to replace it\n",
    )


def test_dry_run_prints_the_plan_and_writes_nothing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed, err = run(
        "distill", "--bulk", "Cu", "--teacher", EMT, "--preset", "ultra-tiny", "--budget", "10m", "--dry-run"
    )
    assert code == 0, err
    words = (
        "budget: 10 min 00 s",
        "system: crystal; 1 structure of 4 atoms; cell 3.61 x 3.61 x 3.61 Å; recipe crystal at 300, 600, 900, ",
        "test set: ",
        "frames to label:",
        "training: ultra-tiny",
        "disk: about",
    )
    assert [word for word in words if word not in printed] == []
    assert list(tmp_path.iterdir()) == []
    code, _, err = run(
        "distill", "--bulk", "Cu", "--teacher", EMT, "--budget", "10m", "--dry-run", "--out", tmp_path / "run"
    )
    assert code == 0, err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["dict", "path", "model"])
def test_distill_from_python(form, tmp_path):
    values = {**COPPER, "training": {}, "out": str(tmp_path / "run"), "budget": "5m"}
    path = tmp_path / "cu.yaml"
    path.write_text(yaml.safe_dump(values))
    config = {"dict": values, "path": path, "model": DistillConfig(**values)}[form]
    said: list[str] = []
    outcome = limbeck.distill(config, dry_run=True, say=said.append)
    assert outcome["plan"]["frames"] == 78
    assert outcome["plan"]["test_frames"] == 10
    assert said[0].startswith("budget: 5 min 00 s")
    assert said[1].startswith("system: crystal; 1 structure of 4 atoms")


def test_epochs_go_before_a_files_budget_and_the_command_line_before_the_file(run, refused, tmp_path):
    path = tmp_path / "cu.yaml"
    path.write_text(yaml.safe_dump({**COPPER, "training": {}, "budget": "5m"}))
    code, printed, err = run("distill", path, "--epochs", 7, "--dry-run")
    assert code == 0, err
    assert printed.splitlines()[0] == (
        "note: training ends after 7 epochs, which take the place of the configuration's budget of 5m"
    )
    assert "training: by epochs" in printed
    assert "budget: " not in printed
    path.write_text(yaml.safe_dump(COPPER))
    code, printed, err = run("distill", path, "--budget", "4m", "--dry-run")
    assert code == 0, err
    assert printed.splitlines()[:2] == [
        "note: the budget takes the place of the configuration's 60 epochs",
        *[line for line in printed.splitlines() if line.startswith("budget: 4 min 00 s")],
    ]
    text = "both a budget and a number of epochs are given; got 5m and 3; wanted one of --budget and --epochs"
    for ends in (
        ("--budget", "5m", "--epochs", 3),
        ("--set", "budget=5m", "--epochs", 3),
        ("--budget", "5m", "--set", "training.epochs=3"),
    ):
        assert refused("distill", path, *ends, "--dry-run") == text


def test_distill_from_python_says_what_is_wrong():
    with pytest.raises(InputError) as caught:
        limbeck.distill({"bulk": "Cu", "teacher": EMT, "bugdet": "5m"})
    assert str(caught.value) == "unknown key 'bugdet'; wanted 'budget'"
    with pytest.raises(InputError, match="nowhere.yaml: no such file; wanted a YAML configuration"):
        limbeck.distill("nowhere.yaml")


@pytest.mark.slow
@pytest.mark.ci
def test_a_real_teacher_becomes_a_student(tmp_path):
    """SO3LR on ethanol: rattled frames and dynamics driven by an interim student, two minutes of training at most."""
    pytest.importorskip("so3krates_torch")
    pytest.importorskip("rdkit")
    config = {
        "smiles": "CCO", "n_conformers": 1, "teacher": "so3lr", "presets": ["ultra-tiny"], "seed": 0,
        "sampling": {"seed": 1, "steps": [
            {"kind": "rattle", "stdev_a": [0.03, 0.06, 0.1], "n": 14},
            {"kind": "md", "driver": "student", "temperature_K": [300, 500], "starts": 2, "frames": 10,
             "every_fs": 10, "equilibrate_fs": 50, "timestep_fs": 0.5, "from_relaxed": True},
        ]},
        "test": {"seed": 101, "start_index": [0], "steps": [
            {"kind": "md", "temperature_K": 400, "starts": 1, "frames": 6, "every_fs": 10, "equilibrate_fs": 40,
             "timestep_fs": 1, "from_relaxed": True},
        ]},
        "training": {"epochs": 150},
        "validation": {"onpolicy_frames": 2, "nve_fs": 50},
    }  # fmt: skip
    path, out = tmp_path / "ethanol.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "limbeck.cli", "distill", path, "--out", out], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    test = json.loads((out / "metrics.json").read_text())["ultra-tiny"]["test"]["all"]
    assert test["n_structures"] == 6
    assert test["force_r2"] > 0.96
    assert test["energy_mae_mev_per_atom"] < 8.0
