"""Tests of training defaults: the same labels and initial weights with one setting changed.

    limbeck distill examples/licl.yaml --out runs/licl
    limbeck distill examples/surface.yaml --out runs/cu111
    python benchmarks/training_choices.py optimizer runs/licl runs/cu111 --seconds 60 240
    python benchmarks/training_choices.py few-labels runs/demo --presets tiny ultra-tiny original --epochs 120
    python benchmarks/training_choices.py few-labels 3bpa.xyz --labels 54 --presets tiny original --epochs 60

Students are trained on a run's labels and evaluated on its test set; for a labelled file, the last fifth of
the frames is the test set. ``optimizer`` gives SOAP and AdamW equal time, alternating, so that other load
on the machine affects both. ``few-labels`` compares initial radial filters (equal waves, waves that fall as
1/n, and smooth ones, the default) and weight decays. Each training has its own complete learning rate
schedule. Rows that are already in the results are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from limbeck.core.files import write_whole
from limbeck.core.labels import LabelledSet
from limbeck.dataset.read import read_labelled, split_isolated_atoms
from limbeck.progress import LineProgress, say_nothing
from limbeck.records.label_store import LabelStore
from limbeck.runtime.student import Student
from limbeck.students import specification
from limbeck.training.config import TrainingConfig
from limbeck.training.loop import Stop
from limbeck.validation.run import validate
from limbeck.workflows.students import train_student
from limbeck.workflows.training_data import TrainingSets, audited, make_training_sets

RESULTS = Path(__file__).parent / "results" / "training_choices.json"
ERRORS = ("force_rmse_mev_per_a", "force_mae_mev_per_a", "force_r2", "energy_mae_mev_per_atom")
#: settings compared; each optimiser with its default batch size
CHOICES: dict[str, list[dict[str, Any]]] = {
    "optimizer": [{"optimizer": "soap", "batch_atoms": 256}, {"optimizer": "adamw", "batch_atoms": 128}],
    "few-labels": [
        {"initial_waves": "equal", "weight_decay": 0.05},
        {"initial_waves": "falling", "weight_decay": 0.05},
        {"initial_waves": "falling", "weight_decay": 0.5},
        {"initial_waves": "smooth", "weight_decay": 0.05},
    ],
}


def other_amplitudes(waves: str, architecture: specification.Architecture) -> np.ndarray:
    """Initial amplitudes of ``equal`` waves, or of waves ``falling`` as 1/n."""
    size = np.arange(1, architecture.rbf + 1) ** (-1.0 if waves == "falling" else 0.0)
    return np.append(size * np.sqrt(architecture.rbf / (size**2).sum()), 1.0)


def starting(waves: str) -> AbstractContextManager[Any]:
    """Initial filters of ``equal``, ``falling`` or ``smooth`` waves, the last being the default."""
    if waves == "smooth":
        return nullcontext()
    return patch.object(specification, "initial_amplitudes", partial(other_amplitudes, waves))


def sets_of(run: Path, labels: int | None) -> tuple[TrainingSets, LabelledSet]:
    """Labels of a run without its test trajectories (``labels`` of them, or all), and its test set."""
    labelled, test = _of_file(run) if run.is_file() else _of_run(run)
    sets = make_training_sets(audited(labelled, say_nothing), 0.1, 0, {}, {"name": "benchmark"})
    if labels is not None and labels < len(sets.train):
        chosen = np.random.default_rng(0).choice(len(sets.train), labels, replace=False)
        sets = replace(sets, train=sets.train.select(np.sort(chosen)))
    return sets, test


def _of_file(path: Path) -> tuple[LabelledSet, LabelledSet]:
    labelled, _ = split_isolated_atoms(read_labelled(path))
    first = len(labelled) * 4 // 5
    return labelled.select(np.arange(first)), labelled.select(np.arange(first, len(labelled)))


def _of_run(run: Path) -> tuple[LabelledSet, LabelledSet]:
    test = read_labelled(run / "test.extxyz")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(run / "labels", Path(folder) / "labels")  # a store is locked while it is open
        with LabelStore(Path(folder) / "labels") as store:
            labelled = store.read()
    groups = set(test.group)
    return labelled.select([k for k, group in enumerate(labelled.group) if group not in groups]), test


def train(
    sets: TrainingSets, test: LabelledSet, preset: str, config: TrainingConfig, seed: int, stop: Stop
) -> dict[str, Any]:
    """Train one student and evaluate it on the test set."""
    with tempfile.TemporaryDirectory() as folder:
        record, trained = train_student(
            preset, sets, config, stop, Path(folder), seed=seed, progress=LineProgress()
        )
    errors = validate(Student(record), test).metrics["all"]
    return {**{key: round(errors[key], 5) for key in ERRORS}, "steps": trained.progress.step}


def main() -> None:
    options = arguments()
    results: dict[str, Any] = {"runs": []}
    if options.out.exists():
        results = json.loads(options.out.read_text(encoding="utf-8"))
    results["machine"] = {
        "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "torch": torch.__version__,
    }  # fmt: skip
    ends = [{"epochs": options.epochs}] if options.epochs else [{"seconds": s} for s in options.seconds]
    for run in options.runs:
        sets, test = sets_of(run, options.labels)
        cases = ((p, s, e, c) for p in options.presets for s in options.seeds for e in ends
                 for c in CHOICES[options.choice])  # fmt: skip
        for preset, seed, end, settings in cases:
            key = {
                "choice": options.choice, "run": run.stem if run.is_file() else run.name,
                "labels": len(sets.train), "test": len(test), "preset": preset, "seed": seed,
                "threads": options.threads, **end, **settings,
            }  # fmt: skip
            if any(key.items() <= row.items() for row in results["runs"]):
                continue
            own = {name: value for name, value in settings.items() if name != "initial_waves"}
            config = TrainingConfig(epochs=options.epochs, threads=options.threads, **own)
            stop = Stop(epochs=options.epochs, budget_s=end.get("seconds"))
            with starting(settings.get("initial_waves", "smooth")):
                results["runs"].append(key | train(sets, test, preset, config, seed, stop))
            print(json.dumps(results["runs"][-1]), flush=True)
            write_whole(options.out, json.dumps(results, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("choice", choices=list(CHOICES))
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or labelled files")
    parser.add_argument("--labels", type=int, help="number of labels to use (default: all)")
    parser.add_argument("--presets", nargs="+", default=["tiny"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--seconds", nargs="+", type=float, default=[60.0, 240.0], help="equal time")
    parser.add_argument("--epochs", type=int, help="equal steps instead")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
