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
KEYS = set(
    "energy_mae_mev_per_atom energy_rmse_mev_per_atom force_mae_mev_per_a force_rmse_mev_per_a force_r2 "
    "force_cosine stress_mae_mev_per_a3 n_structures n_atoms".split()
)
COPPER = yaml.safe_load(f"""
bulk: Cu
teacher: {EMT}
presets: [ultra-tiny]
sampling:
  seed: 1
  steps:
    - {{kind: strain, max: 0.03, n: 6}}
    - {{kind: rattle, from: strain, stdev_a: [0.05, 0.1], n: 6}}
test:
  seed: 101
  steps:
    - {{kind: md, temperature_K: [300, 600], starts: 1, frames: 5, every_fs: 20, equilibrate_fs: 60,
       timestep_fs: 4, from_relaxed: true}}
training: {{epochs: 60}}
validation: {{onpolicy_frames: 4, nve_fs: 100}}
""")


def test_copper_from_emt(run, done, tmp_path, monkeypatch):
    # on a busy machine the teacher's long range would not be measured
    monkeypatch.setattr("limbeck.workflows.evaluation.SECONDS_BY_EPOCHS", 1e6)
    config, out = tmp_path / "cu.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump({"name": "copper", **COPPER}))
    command = f"distill {config} --out {out} --json {tmp_path}/figures.json"
    printed = done(command)
    assert "frames to label: 78 of 4 atoms" in printed
    assert "in the validation set, 10 in the test set" in printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == json.loads((tmp_path / "figures.json").read_text())
    assert set(metrics) == {"ultra-tiny", "run"}
    evaluated, about = metrics["ultra-tiny"], metrics["run"]
    teacher, facts = about["teacher"], evaluated["run"]
    assert (about["name"], teacher["name"], about["speed_atoms"]) == ("copper", EMT, 4)
    near, far = teacher["long_range"]
    assert (near["radius_a"], far["radius_a"]) == (5.0, 10.0)
    # EMT's forces end between the two
    assert near["force_rms_mev_per_a"] > 1.0
    assert far["force_rms_mev_per_a"] < 1e-3
    assert near["reason"] == far["reason"] == ""
    assert set(evaluated) == {"validation", "test", "on_policy", "run"}
    for split in ("validation", "test"):
        assert set(evaluated[split]["all"]) == KEYS
        assert {"by_element", "by_config_type"} <= set(evaluated[split])
    assert set(evaluated["test"]["by_temperature"]) == {"300", "600"}
    assert evaluated["test"]["all"]["n_structures"] == 10
    # trained on rattled crystals alone, tried on dynamics
    assert evaluated["test"]["all"]["force_r2"] > 0.99
    assert evaluated["on_policy"]["all"]["n_structures"] == 4
    assert facts["on_policy"] == {"temperature_k": 600.0, "stable": True, "reason": ""}
    assert facts["training"]["epochs"] == 60
    assert teacher["threads"] == facts["threads"] == available_threads()
    assert min(teacher["atoms_per_s"], facts["atoms_per_s"], facts["speedup"]) > 0
    assert abs(facts["nve"]["drift_mev_per_atom_per_ps"]) < 5.0
    # the command for files says the same of the file
    student = out / "ultra-tiny.safetensors"
    for split in ("validation", "test"):
        done(f"validate {student} {out}/{split}.extxyz --json {tmp_path}/again.json")
        again = json.loads((tmp_path / "again.json").read_text())["ultra-tiny"]["data"]["all"]
        assert again == pytest.approx(evaluated[split]["all"], rel=1e-3)
    # and the student is of use
    atoms = read(out / "test.extxyz", -1)
    truth = atoms.get_forces()
    atoms.calc = limbeck.Calculator(student)
    assert np.sqrt(np.mean((atoms.get_forces() - truth) ** 2)) < 0.3 * np.sqrt(np.mean(truth**2))
    card = limbeck.Student.load(student).card
    assert card["metrics"]["test"] == evaluated["test"]["all"]
    assert card["metrics"]["on_policy"] == evaluated["on_policy"] | facts["on_policy"]
    assert card["limits"]["receptive_field_a"] == 10.0
    assert card["limits"]["long_range"].startswith("teacher's forces beyond 10.0 Å: ")
    assert card["limits"]["long_range"] in printed
    assert card["run"] == {"name": "copper", "command": f"limbeck {command}"}
    # called again, it says that it is finished, and its results
    before = student.read_bytes()
    code, repeated, err = run(f"distill {config} --out {out}")
    assert code == 0, err
    lines = repeated.splitlines()
    assert lines[0].startswith(f"note: the run in {out} is finished")
    # speeds are measured anew, so only what rows are about is compared, and no note of a busy machine
    rows, first = (
        [line[:25] for line in text if not line.startswith("note: ")]
        for text in (lines, printed.splitlines())
    )
    assert {"model", EMT, "ultra-tiny"} <= {row.split()[0] for row in rows if row}
    assert rows == first[-len(rows) :]
    assert not any(word in err for word in ("labels", "training"))
    assert student.read_bytes() == before
    # but not another one
    code, _, err = run(f"distill {config} --seed 5 --out {out}")
    assert code == 2
    assert err.startswith(
        f"error: {out}: the run folder belongs to another configuration; got other values of seed;"
    )


def test_dry_run_prints_the_plan_and_writes_nothing(done, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = (
        f"distill --bulk Cu --teacher {EMT} --preset ultra-tiny --budget 10m --dry-run --out {tmp_path}/run"
    )
    printed = done(command)
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


@pytest.mark.parametrize("form", ["dict", "path", "model"])
def test_distill_from_python(form, tmp_path):
    values = {**COPPER, "training": {}, "out": str(tmp_path / "run"), "budget": "5m"}
    path = tmp_path / "cu.yaml"
    path.write_text(yaml.safe_dump(values))
    config = {"dict": values, "path": path, "model": DistillConfig(**values)}[form]
    said: list[str] = []
    outcome = limbeck.distill(config, dry_run=True, say=said.append)
    assert (outcome["plan"]["frames"], outcome["plan"]["test_frames"]) == (78, 10)
    assert said[0].startswith("budget: 5 min 00 s")
    assert said[1].startswith("system: crystal; 1 structure of 4 atoms")


def test_distill_from_python_says_what_is_wrong():
    with pytest.raises(InputError, match="^unknown key 'bugdet'; wanted 'budget'$"):
        limbeck.distill({"bulk": "Cu", "teacher": EMT, "bugdet": "5m"})
    with pytest.raises(InputError, match="nowhere.yaml: no such file; wanted a YAML configuration"):
        limbeck.distill("nowhere.yaml")


def test_epochs_go_before_a_files_budget_and_the_command_line_before_the_file(done, refused, tmp_path):
    path = tmp_path / "cu.yaml"
    path.write_text(yaml.safe_dump({**COPPER, "training": {}, "budget": "5m"}))
    printed = done(f"distill {path} --epochs 7 --dry-run")
    assert printed.startswith(
        "note: training ends after 7 epochs, which take the place of the configuration's "
    )
    assert "training: by epochs" in printed
    assert "budget: " not in printed
    path.write_text(yaml.safe_dump(COPPER))
    note, budget = done(f"distill {path} --budget 4m --dry-run").splitlines()[:2]
    assert note == "note: the budget takes the place of the configuration's 60 epochs"
    assert budget.startswith("budget: 4 min 00 s")
    for ends in (
        "--budget 5m --epochs 3",
        "--set budget=5m --epochs 3",
        "--budget 5m --set training.epochs=3",
    ):
        text = refused(f"distill {path} {ends} --dry-run")
        assert text.startswith("both a budget and a number of epochs are given; got 5m and 3;")


@pytest.mark.slow
@pytest.mark.ci
def test_a_real_teacher_becomes_a_student(tmp_path):
    """SO3LR on ethanol: rattled frames and dynamics driven by an interim student, two minutes of training at most."""
    pytest.importorskip("so3krates_torch")
    pytest.importorskip("rdkit")
    path, out = tmp_path / "ethanol.yaml", tmp_path / "run"
    path.write_text("""
smiles: CCO
n_conformers: 1
teacher: so3lr
presets: [ultra-tiny]
sampling:
  seed: 1
  steps:
    - {kind: rattle, stdev_a: [0.03, 0.06, 0.1], n: 14}
    - {kind: md, driver: student, temperature_K: [300, 500], starts: 2, frames: 10, every_fs: 10,
       equilibrate_fs: 50, timestep_fs: 0.5, from_relaxed: true}
test:
  seed: 101
  start_index: [0]
  steps:
    - {kind: md, temperature_K: 400, starts: 1, frames: 6, every_fs: 10, equilibrate_fs: 40, timestep_fs: 1,
       from_relaxed: true}
training: {epochs: 150}
validation: {onpolicy_frames: 2, nve_fs: 50}
""")
    command = [sys.executable, "-m", "limbeck.cli", "distill", path, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    test = json.loads((out / "metrics.json").read_text())["ultra-tiny"]["test"]["all"]
    assert test["n_structures"] == 6
    assert test["force_r2"] > 0.96
    assert test["energy_mae_mev_per_atom"] < 8.0
