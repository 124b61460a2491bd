"""From starting structures to labelled sets: sampling, labelling, and the scout that drives MD."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.config.models import DistillConfig
from limbeck.core.checks import check_structures
from limbeck.core.labels import LabelledSet
from limbeck.core.potential import Potential
from limbeck.dataset.split import split
from limbeck.errors import InputError, LimbeckError
from limbeck.labelling.audit import Dropped, audit
from limbeck.labelling.remote import WorkerPotential
from limbeck.labelling.run import label
from limbeck.labelling.store import LabelStore
from limbeck.pipeline.clock import RunClock
from limbeck.pipeline.students import Lesson, save_student, train_student
from limbeck.progress import Progress
from limbeck.runtime.student import Student
from limbeck.sampling.config import MD, SamplingConfig
from limbeck.sampling.run import run_sampling
from limbeck.sampling.starts import bulk_structure, read_structures, smiles_conformers
from limbeck.training.loop import Stop

Say = Callable[[str], None]
SCOUT_PRESET = "tiny"


def starting_structures(config: DistillConfig) -> list[Atoms]:
    """The structures a run begins with, checked."""
    if config.source == "structures":
        path = config.structures
        assert path is not None  # noqa: S101  (said by ``source``)
        starts = read_structures(path)
        where = str(path)
    elif config.source == "smiles":
        starts = smiles_conformers(str(config.smiles), config.n_conformers, config.seed)
        where = f"SMILES {config.smiles}"
    else:
        starts = [bulk_structure(str(config.bulk))]
        where = f"bulk {config.bulk}"
    check_structures(starts, where)
    return starts


@dataclass
class Collector:
    """Samples and labels one run; every piece of work is keyed, so a second call repeats nothing.

    Attributes
    ----------
    dropped: labels that the audit refused. notes: trajectories that ended early, failed labels.
    """

    config: DistillConfig
    folder: Path
    teacher: WorkerPotential
    store: LabelStore
    clock: RunClock
    progress: Progress
    say: Say
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def collect(self, starts: Sequence[Atoms], sampling: SamplingConfig, *, scout_s: float) -> LabelledSet:
        """Frames of ``sampling``, labelled; before each scout-driven step a scout learns from the rest."""
        potentials: dict[str, Potential] = {"teacher": self.teacher}
        scouted = [k for k, step in enumerate(sampling.steps) if isinstance(step, MD) and step.driver == "scout"]
        if scouted and scouted[0] == 0:
            raise InputError(
                "the first sampling step is driven by a scout, which has nothing to learn from",
                wanted="a rattle, strain or teacher-driven md step before it",
            )
        for count, k in enumerate(scouted):
            before = sampling.model_copy(update={"steps": sampling.steps[:k]})
            labelled = self._label(self._frames(starts, before, potentials, ""))
            potentials[sampling.names[k]] = self._scout(labelled, count, scout_s)
        return self._label(self._frames(starts, sampling, potentials, ""))

    def collect_heldout(self, starts: Sequence[Atoms], sampling: SamplingConfig) -> LabelledSet:
        """Frames and labels of the held-out set, from trajectories of their own."""
        return self._label(self._frames(starts, sampling, {"teacher": self.teacher}, "heldout/"))

    def _frames(
        self, starts: Sequence[Atoms], sampling: SamplingConfig, potentials: dict[str, Potential], prefix: str
    ) -> list[Atoms]:
        def tick(task: str, done: int, total: int | None = None, text: str = "") -> None:
            self.clock.tick()
            self.progress(f"{prefix.rstrip('/')} {task}".strip(), done, total, text)

        frames = run_sampling(
            starts,
            sampling,
            potentials,
            tick,
            cache_dir=self.folder / "sampling",
            parallel=self.config.labelling.workers,
            prefix=prefix,
            notes=self.notes,
        )
        check_structures(frames, "sampled frames")
        return frames

    def _label(self, frames: Sequence[Atoms]) -> LabelledSet:
        def tick(task: str, done: int, total: int | None = None, text: str = "") -> None:
            self.clock.tick()
            self.progress(task, done, total, text)

        report = label(frames, self.teacher, self.store, progress=tick)
        for failure in report.failed:
            self.notes.append(f"the teacher failed on frame {failure.index}: {failure.reason}")
        present = list(dict.fromkeys(key for key in report.keys if key in self.store))
        labelled = self.store.read(present)
        kept, dropped = audit(labelled, max_force_ev_per_a=self.config.labelling.max_force_ev_per_a)
        self.dropped += [d for d in dropped if d not in self.dropped]
        if not len(kept):
            raise LimbeckError(
                "no label survived the audit",
                got=f"{len(dropped)} labels dropped, the first because: {dropped[0].reason if dropped else 'none'}",
                remedy="look at the structures, or raise labelling.max_force_ev_per_a",
            )
        return labelled.select(kept)

    def _scout(self, labelled: LabelledSet, count: int, seconds: float) -> Student:
        digest = hashlib.sha256(
            labelled.labels.forces.tobytes() + labelled.labels.energy.tobytes() + str(self.config.seed).encode()
        ).hexdigest()[:12]
        path = self.folder / "sampling" / f"scout-{count}-{digest}.safetensors"
        if not path.exists():
            parts = split(labelled, 0.1, self.config.seed)
            train, validation = parts.parts(labelled)
            lesson = Lesson(train, validation, None, parts.how, {"name": self.teacher.name})
            settings = self.config.training.model_copy(update={"epochs": None, "checks": 5})
            record, trained = train_student(
                SCOUT_PRESET,
                lesson,
                settings,
                Stop(budget_s=self.clock.once(f"scout_{count}_s", seconds)),
                self.folder / "sampling" / f"scout-{count}-{digest}",
                seed=self.config.seed,
                progress=lambda task, done, total=None, text="": self.progress(f"scout {task}", done, total, text),
            )
            save_student(path, record)
            self.say(
                f"scout {count + 1}: {len(train)} labels, force RMSE "
                f"{trained.validation['force_rmse_mev_per_a']:.0f} meV/Å on {len(validation)} others"
            )
        scout = Student.load(path)
        scout.name = path.stem  # holds the hash of what it learned from, so trajectories are keyed by it
        return scout


def label_seconds(teacher: Potential, frame: Atoms, workers: int) -> float:
    """Seconds one label takes, measured: one call to warm up, then ``workers`` at a time."""
    import time

    from limbeck.core.structures import StructureBatch

    teacher.evaluate(StructureBatch.from_atoms([frame]))
    moved = []
    for k in range(2 * workers):
        copy = frame.copy()
        copy.positions += np.random.default_rng(k).normal(scale=1e-3, size=copy.positions.shape)
        moved.append(copy)
    began = time.monotonic()
    teacher.evaluate(StructureBatch.from_atoms(moved))
    return (time.monotonic() - began) / len(moved)


def temperature_of(sampling: SamplingConfig) -> float | None:
    """Highest temperature that the MD steps sample, K."""
    values: list[float] = []
    for step in sampling.steps:
        if isinstance(step, MD):
            values += [*step.temperatures, *([step.ramp_to_K] if step.ramp_to_K else [])]
    return max(values, default=None)


def describe(labelled: LabelledSet) -> dict[str, Any]:
    """Counts for the plan and the summary."""
    return {"n_structures": len(labelled), "n_atoms": labelled.structures.n_atoms}
