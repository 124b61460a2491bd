"""SIGKILL of a whole distillation, and damaged labels: nothing is lost, nothing is done twice."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.io import read

from limbeck.core.hashing import hash_structure
from limbeck.labelling import LabelStore

FRAMES, TEST = 72, 4
#: structures that a worker may have had at work or in its inbox when it died
IN_FLIGHT = 2


def _configuration(folder: Path) -> Path:
    values = {
        "bulk": "Cu",
        "teacher": {"name": "counting_emt:CountingEMT", "options": {"log": str(folder / "evaluations.log")}},
        "presets": ["ultra-tiny", "tiny"],
        "sampling": {
            "seed": 1,
            "steps": [
                {"kind": "rattle", "stdev_a": [0.05, 0.1], "n": 20},
                {
                    "kind": "md", "driver": "student", "temperature_K": [300, 600], "starts": 2, "frames": 8,
                    "every_fs": 12, "equilibrate_fs": 40, "timestep_fs": 4,
                },
            ],
        },
        "test": {
            "seed": 101,
            "steps": [{"kind": "md", "temperature_K": 300, "frames": TEST, "every_fs": 20, "equilibrate_fs": 40,
                       "timestep_fs": 4}],
        },
        "training": {"epochs": 25, "checkpoint_s": 0.2},
        "validation": {"onpolicy_frames": 2, "nve_fs": 50},
    }  # fmt: skip
    path = folder / "cu.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def _command(folder: Path) -> list[str]:
    path = folder / "cu.yaml"
    return [sys.executable, "-m", "limbeck.cli", "distill", str(path), "--out", str(folder / "run")]


def _kill_at(folder: Path, due: Callable[[str], bool], delay_s: float = 0.0) -> bool:
    """Start the command and kill it ``delay_s`` after the first line of output that is ``due``."""
    with subprocess.Popen(
        _command(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        if any(due(line) for line in process.stdout):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=delay_s)
            process.kill()
        process.stdout.read()
    return process.returncode == -signal.SIGKILL


def _check_labels(folder: Path, kills: int) -> None:
    """Every frame has one label, and no label was made twice but those in flight."""
    frames = []
    for name, count in (("labels", FRAMES), ("test", TEST)):
        with LabelStore(folder / "run" / name) as store:
            labelled = store.read()
        assert len(labelled) == count
        frames += labelled.structures.to_atoms()
    evaluated = Counter((folder / "evaluations.log").read_text().split())
    times = [evaluated[hash_structure(atoms)] for atoms in frames]
    assert min(times) >= 1
    assert sum(times) - len(times) <= IN_FLIGHT * kills


@pytest.mark.slow
@pytest.mark.ci
def test_killed_three_times_and_finished(importable_here, tmp_path):
    _configuration(tmp_path)
    # while labelling, while the interim student's dynamics run, while the second student trains
    for sign in ("labels: 0/40", "sampling: 0/", "training tiny"):
        assert _kill_at(tmp_path, lambda line, sign=sign: line.startswith(sign)), sign
    done = subprocess.run(_command(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "going on after" in done.stdout
    assert "training ultra-tiny" not in done.stderr  # finished and judged before
    _check_labels(tmp_path, kills=3)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert {"ultra-tiny", "tiny", "run"} == set(metrics)
    assert metrics["tiny"]["test"]["all"]["n_structures"] == TEST
    assert metrics["tiny"]["run"]["training"]["epochs"] == 25
    assert len(read(tmp_path / "run/test.extxyz", ":")) == TEST


@pytest.mark.slow
def test_killed_at_random_moments(importable_here, tmp_path):
    """Three kills, each up to two seconds after a line of output that chance picks."""
    _configuration(tmp_path)
    seed = int(np.random.SeedSequence().entropy % 2**32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    kills = sum(
        _kill_at(tmp_path, lambda line: rng.random() < 0.12, delay_s=float(rng.uniform(0, 2)))
        for _ in range(3)
    )
    done = subprocess.run(_command(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _check_labels(tmp_path, kills)
    assert {"ultra-tiny", "tiny", "run"} == set(json.loads((tmp_path / "run/metrics.json").read_text()))


def test_a_damaged_shard_is_labelled_again(importable_here, run, tmp_path):
    config = yaml.safe_load(_configuration(tmp_path).read_text())
    config["sampling"]["steps"] = config["sampling"]["steps"][:1]
    config |= {
        "presets": ["ultra-tiny"],
        "training": {"epochs": 2},
        "validation": {"onpolicy_frames": 0, "nve_fs": 0},
    }
    (tmp_path / "cu.yaml").write_text(yaml.safe_dump(config))
    code, _, err = run("distill", tmp_path / "cu.yaml", "--out", tmp_path / "run")
    assert code == 0, err
    with LabelStore(tmp_path / "run/labels") as store:
        whole = store.read()
    shard = next((tmp_path / "run/labels").glob("shard-*.lbk"))
    blob = bytearray(shard.read_bytes())
    blob[len(blob) // 2] ^= 0xFF
    shard.write_bytes(blob)
    with pytest.warns(UserWarning, match="damaged label shard .* other labels are used"):
        code, _, err = run("distill", tmp_path / "cu.yaml", "--out", tmp_path / "run")
    assert code == 0, err
    with LabelStore(tmp_path / "run/labels") as store:
        again = store.read()
    assert len(again) == len(whole) == 40
    assert np.sort(again.labels.energy) == pytest.approx(np.sort(whole.labels.energy), rel=1e-12)
    evaluated = Counter((tmp_path / "evaluations.log").read_text().split())
    frames = again.structures.to_atoms()
    assert sorted(evaluated[hash_structure(atoms)] for atoms in frames) == [1] * 39 + [2]
