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

from limbeck.core.hashing import hash_structure
from limbeck.records.label_store import LabelStore

from .conftest import N_TEST, small_distillation

FRAMES = 72
#: structures that a worker may have had at work or in its inbox when it died
IN_FLIGHT = 2


def _command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "limbeck.cli", "distill", f"{folder}/cu.yaml", "--out", f"{folder}/run"]


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


def _evaluations(folder: Path, frames: list) -> list[int]:
    evaluated = Counter((folder / "evaluations.log").read_text().split())
    return sorted(evaluated[hash_structure(atoms)] for atoms in frames)


def _finish(folder: Path, kills: int) -> subprocess.CompletedProcess[str]:
    """Run to the end; every frame has one label, and none was made twice but those in flight."""
    done = subprocess.run(_command(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    frames = []
    for name, count in (("labels", FRAMES), ("test", N_TEST)):
        with LabelStore(folder / "run" / name) as store:
            labelled = store.read()
        assert len(labelled) == count
        frames += labelled.structures.to_atoms()
    times = _evaluations(folder, frames)
    assert min(times) >= 1
    assert sum(times) - len(times) <= IN_FLIGHT * kills
    return done


@pytest.fixture
def configured(importable_here, tmp_path) -> Path:
    """A folder with the configuration of a run of two presets and an interim student."""
    steps = [
        {"kind": "rattle", "stdev_a": [0.05, 0.1], "n": 20},
        {
            "kind": "md", "driver": "student", "temperature_K": [300, 600], "starts": 2, "frames": 8,
            "every_fs": 12, "equilibrate_fs": 40, "timestep_fs": 4,
        },
    ]  # fmt: skip
    small_distillation(
        tmp_path,
        presets=["ultra-tiny", "tiny"],
        sampling={"seed": 1, "steps": steps},
        training={"epochs": 25, "checkpoint_s": 0.2, "cutoff": 4.0},
        validation={"onpolicy_frames": 2, "nve_fs": 50},
    )
    return tmp_path


@pytest.mark.slow
@pytest.mark.ci
def test_killed_three_times_and_finished(configured):
    # while labelling, while the interim student's dynamics run, while the second student trains
    for sign in ("labels: 0/40", "sampling: 0/", "training tiny"):
        assert _kill_at(configured, lambda line, sign=sign: line.startswith(sign)), sign
    done = _finish(configured, kills=3)
    assert "going on after" in done.stdout
    assert "training ultra-tiny" not in done.stderr  # finished and evaluated before
    metrics = json.loads((configured / "run/metrics.json").read_text())
    assert {"ultra-tiny", "tiny", "run"} == set(metrics)
    assert metrics["tiny"]["test"]["all"]["n_structures"] == N_TEST
    assert metrics["tiny"]["run"]["training"]["epochs"] == 25


@pytest.mark.slow
def test_killed_at_random_moments(configured):
    """Three kills, each up to two seconds after a line of output that chance picks."""
    seed = int(np.random.SeedSequence().entropy % 2**32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    kills = sum(
        _kill_at(configured, lambda line: rng.random() < 0.12, delay_s=float(rng.uniform(0, 2)))
        for _ in range(3)
    )
    _finish(configured, kills)
    assert {"ultra-tiny", "tiny", "run"} == set(json.loads((configured / "run/metrics.json").read_text()))


def test_a_damaged_shard_is_labelled_again(importable_here, done, made, finished):
    with LabelStore(finished / "labels") as store:
        whole = store.read()
    before = _evaluations(made, whole.structures.to_atoms())
    shard = next((finished / "labels").glob("shard-*.lbk"))
    blob = bytearray(shard.read_bytes())
    blob[len(blob) // 2] ^= 0xFF
    shard.write_bytes(blob)
    with pytest.warns(UserWarning, match="damaged label shard .* other labels are used"):
        done(f"distill {made}/cu.yaml --out {finished}")
    with LabelStore(finished / "labels") as store:
        again = store.read()
    assert len(again) == len(whole) == 24
    assert np.sort(again.labels.energy) == pytest.approx(np.sort(whole.labels.energy), rel=1e-12)
    assert sum(_evaluations(made, again.structures.to_atoms())) == sum(before) + 1
