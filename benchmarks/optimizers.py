"""SOAP against AdamW: the same labels, the same start, the same seconds, by turns.

    limbeck distill examples/licl.yaml --out runs/licl
    python benchmarks/optimizers.py runs/licl runs/water [--presets tiny] [--seconds 60 240] [--threads 2]

Students learn from a run's own labels and are judged on its held-out frames, which no training saw. Trainings
of one length take turns, so that what else the machine does falls on both; each has its schedule to itself
(the learning rate falls to its end within the time). Rows that are in the results already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limbeck.core.files import write_whole
from limbeck.core.labels import LabelledSet
from limbeck.dataset.read import read_labelled
from limbeck.labelling.store import LabelStore
from limbeck.pipeline.lessons import Lesson, audited, make_lesson
from limbeck.pipeline.students import train_student
from limbeck.pipeline.telling import say_nothing
from limbeck.progress import LineProgress
from limbeck.runtime.student import Student
from limbeck.training.config import TrainingConfig
from limbeck.training.loop import Stop
from limbeck.validation.run import validate

RESULTS = Path(__file__).parent / "results" / "optimizers.json"
#: what is best for each in equal time; the learning rate is best for both at its default
BATCH_ATOMS = {"soap": 256, "adamw": 128}
ERRORS = ("force_rmse_mev_per_a", "force_mae_mev_per_a", "force_r2", "energy_mae_mev_per_atom")


def lesson_of(run: Path) -> tuple[Lesson, LabelledSet]:
    """A run's labels without its held-out trajectories, and its held-out frames."""
    heldout = read_labelled(run / "heldout.extxyz")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(run / "labels", Path(folder) / "labels")  # a store is locked while it is open
        with LabelStore(Path(folder) / "labels") as store:
            labelled = store.read()
    held = set(np.round(heldout.labels.energy, 6))
    rest = [k for k, energy in enumerate(labelled.labels.energy) if round(energy, 6) not in held]
    return make_lesson(
        audited(labelled.select(rest), say_nothing), 0.1, 0, {}, {"name": "benchmark"}
    ), heldout


def train(lesson: Lesson, heldout: LabelledSet, preset: str, config: TrainingConfig, seconds: float) -> dict:
    """Train one student and judge it on the held-out frames."""
    with tempfile.TemporaryDirectory() as folder:
        record, trained = train_student(
            preset, lesson, config, Stop(budget_s=seconds), Path(folder), progress=LineProgress()
        )
    errors = validate(Student(record), heldout).metrics["all"]
    return {**{key: round(errors[key], 5) for key in ERRORS}, "steps": trained.progress.step}


def main() -> None:
    options = arguments()
    results: dict[str, Any] = {"runs": []}
    if options.out.exists():
        results = json.loads(options.out.read_text(encoding="utf-8"))
    results["machine"] = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    for run in options.runs:
        lesson, heldout = lesson_of(run)
        for preset in options.presets:
            for seconds in options.seconds:
                for optimizer, batch_atoms in BATCH_ATOMS.items():
                    config = TrainingConfig(
                        optimizer=optimizer, batch_atoms=batch_atoms, threads=options.threads
                    )
                    key = {
                        "run": run.name, "preset": preset, "optimizer": optimizer, "seconds": seconds,
                        "threads": options.threads, "labels": len(lesson.train), "heldout": len(heldout),
                        "batch_atoms": batch_atoms,
                    }  # fmt: skip
                    if any(key.items() <= row.items() for row in results["runs"]):
                        continue
                    results["runs"].append(key | train(lesson, heldout, preset, config, seconds))
                    print(json.dumps(results["runs"][-1]), flush=True)
                    write_whole(options.out, json.dumps(results, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of `limbeck distill`")
    parser.add_argument("--presets", nargs="+", default=["tiny"])
    parser.add_argument("--seconds", nargs="+", type=float, default=[60.0, 240.0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
