"""Do a teacher's atomic energies help a student? Equal labels and equal steps, several weights of the term.

    python benchmarks/atomic_energies.py --labels LABELS [--weights 0 0.01 0.1 1] [--seeds 0 1]

``LABELS/SYSTEM/train`` and ``LABELS/SYSTEM/heldout`` are label stores; what is missing is made first, with
LiCl by CHGNet and silicon by SevenNet-0: strained and rattled cells of 64 atoms, a scout that learns from
them, and its dynamics labelled by the teacher. The held-out frames come from trajectories of their own.
The number of epochs is fixed, so that other work on the machine changes nothing but the time. Runs that are
in the results already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk

from limbeck.core.files import write_whole
from limbeck.core.labels import LabelledSet
from limbeck.dataset.read import read_labelled
from limbeck.labelling import open_teacher
from limbeck.labelling.remote import WorkerPotential
from limbeck.labelling.run import label
from limbeck.labelling.store import LabelStore
from limbeck.pipeline.lessons import Lesson, make_lesson
from limbeck.pipeline.students import train_student
from limbeck.progress import LineProgress
from limbeck.runtime.student import Student
from limbeck.sampling.config import SamplingConfig
from limbeck.sampling.run import run_sampling
from limbeck.training.config import TrainingConfig
from limbeck.training.loop import Stop
from limbeck.validation.run import validate

RESULTS = Path(__file__).parent / "results" / "atomic_energies.json"
SCOUT_EPOCHS = 150
ERRORS = ("force_rmse_mev_per_a", "force_mae_mev_per_a", "force_r2", "energy_mae_mev_per_atom")
STATIC: list[dict[str, Any]] = [
    {"kind": "strain", "max": 0.05, "n": 5, "modes": ["uniaxial", "volumetric", "shear", "random"]},
    {"kind": "rattle", "from": "strain", "stdev_a": [0.05, 0.1], "n": 1},
]


@dataclass(frozen=True)
class System:
    """A flagship: its cell of 64 atoms, its teacher, temperatures in K, fs a step."""

    name: str
    teacher: str
    start: Atoms
    temperatures: tuple[float, ...]
    timestep_fs: float

    def sampling(self, *, heldout: bool) -> SamplingConfig:
        """Static cells and dynamics to learn from, or dynamics of other seeds and starts to judge by."""
        dynamics = {
            "kind": "md", "driver": "scout", "temperature_K": self.temperatures, "every_fs": 25.0,
            "timestep_fs": self.timestep_fs, "equilibrate_fs": 200.0, "from_relaxed": True,
        }  # fmt: skip
        if heldout:
            return SamplingConfig(seed=101, steps=[dynamics | {"frames": 15}])
        return SamplingConfig(
            seed=1, steps=[*STATIC, dynamics | {"from": "strain", "starts": 3, "frames": 15}]
        )


SYSTEMS = (
    System("licl", "chgnet", bulk("LiCl", "rocksalt", a=5.10, cubic=True) * (2, 2, 2), (300, 900, 1500), 2.0),
    System("silicon", "sevennet-0", bulk("Si", cubic=True) * (2, 2, 2), (300, 900, 1500), 2.5),
)


def make_labels(system: System, folder: Path) -> None:
    """The label stores of a system, where they are missing."""
    stores = {part: folder / system.name / part for part in ("train", "heldout")}
    if all((store / "done").exists() for store in stores.values()):
        return
    start = system.start.copy()
    start.info["family"] = system.name
    with open_teacher(system.teacher, workers=1, threads=1) as teacher:
        static = run_sampling([start], SamplingConfig(seed=1, steps=STATIC), {}, LineProgress())
        scout = train_scout(labelled(static, teacher, stores["train"]))
        for part, store in stores.items():
            heldout = part == "heldout"
            frames = run_sampling(
                [start],
                system.sampling(heldout=heldout),
                {"scout": scout},
                LineProgress(),
                cache_dir=folder / system.name / "sampling",
                prefix="heldout/" if heldout else "",
            )
            labelled(frames, teacher, store)
            (store / "done").touch()


def labelled(frames: list[Atoms], teacher: WorkerPotential, store: Path) -> LabelledSet:
    with LabelStore(store) as kept:
        label(frames, teacher, kept, progress=LineProgress())
        return kept.read()


def train_scout(static: LabelledSet) -> Student:
    lesson = make_lesson(static, 0.1, 0, {}, {"name": "scout"})
    config = TrainingConfig(epochs=SCOUT_EPOCHS, threads=1, checks=5)
    with tempfile.TemporaryDirectory() as folder:
        record, _ = train_student(
            "ultra-tiny", lesson, config, Stop(epochs=SCOUT_EPOCHS), Path(folder), progress=LineProgress()
        )
    return Student(record)


def run_one(lesson: Lesson, heldout: LabelledSet, preset: str, weight: float, seed: int, epochs: int) -> dict:
    """Train one student and judge it on the held-out frames."""
    config = TrainingConfig(epochs=epochs, threads=1, atom_energy_weight=weight, weight_decay=0.01)
    with tempfile.TemporaryDirectory() as folder:
        record, trained = train_student(
            preset, lesson, config, Stop(epochs=epochs), Path(folder), seed=seed, progress=LineProgress()
        )
    student = Student(record)
    errors = validate(student, heldout).metrics["all"]
    return {
        **{key: errors[key] for key in ERRORS},
        "atom_energy_rmse_mev": atomic_error(student, heldout),
        "steps": trained.progress.step,
        "seconds": round(trained.progress.spent_s, 1),
    }


def atomic_error(student: Student, heldout: LabelledSet) -> float:
    """Rms error of the atomic energies, meV, after the mean of each element, which is nobody's truth."""
    off = student.evaluate(heldout.structures).atom_energies - heldout.labels.atom_energies
    for z in np.unique(heldout.structures.numbers):
        off[heldout.structures.numbers == z] -= off[heldout.structures.numbers == z].mean()
    return float(1e3 * np.sqrt(np.mean(off**2)))


def main() -> None:
    options = arguments()
    chosen = [s for s in SYSTEMS if s.name in options.systems]
    for system in chosen:
        make_labels(system, options.labels)
    path = options.out
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": []}
    results["machine"] = {"processor": platform.processor() or platform.machine(), "threads": 1}
    for seed in options.seeds:
        for preset in options.presets:
            for system in chosen:
                train, heldout = (
                    read_labelled(options.labels / system.name / part) for part in ("train", "heldout")
                )
                lesson = make_lesson(train, 0.1, 0, {}, {"name": system.teacher})
                for weight in options.weights:
                    key = {
                        "system": system.name, "teacher": system.teacher, "preset": preset, "weight": weight,
                        "seed": seed, "epochs": options.epochs, "labels": len(lesson.train),
                        "heldout": len(heldout),
                    }  # fmt: skip
                    if any(key.items() <= run.items() for run in results["runs"]):
                        continue
                    run = key | run_one(lesson, heldout, preset, weight, seed, options.epochs)
                    print(json.dumps(run), flush=True)
                    results["runs"].append(run)
                    write_whole(path, json.dumps(results, indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=Path, required=True, help="folder of the label stores")
    parser.add_argument("--systems", nargs="+", default=[s.name for s in SYSTEMS])
    parser.add_argument("--presets", nargs="+", default=["ultra-tiny", "tiny"])
    parser.add_argument("--weights", nargs="+", type=float, default=[0.0, 0.01, 0.1, 1.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
