"""From starting structures to labelled sets: sampling, labelling, and the scout that drives MD."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
from limbeck.pipeline.costs import SCOUT_PRESET
from limbeck.pipeline.defaults import is_crystal
from limbeck.pipeline.planning import LEAST_LABELS, Plan, is_scouted
from limbeck.pipeline.students import Lesson, save_student, train_student
from limbeck.progress import Progress
from limbeck.runtime.student import Student
from limbeck.sampling.config import SamplingConfig
from limbeck.sampling.run import run_sampling
from limbeck.sampling.starts import bulk_structure, read_structures, smiles_conformers
from limbeck.training.loop import Stop

Say = Callable[[str], None]


def starting_structures(config: DistillConfig) -> list[Atoms]:
    """The structures a run begins with, checked."""
    if config.source == "structures":
        path = config.structures
        assert path is not None
        starts = read_structures(path)
        where = str(path)
    elif config.source == "smiles":
        starts = smiles_conformers(str(config.smiles), config.n_conformers, config.seed)
        where = f"SMILES {config.smiles}"
    else:
        starts = [bulk_structure(str(config.bulk))]
        where = f"bulk {config.bulk}"
    check_structures(starts, where)
    if all(len(a) == 1 and not is_crystal(a) for a in starts):
        raise InputError(
            "a single atom has no forces to learn from",
            where=where,
            got=starts[0].get_chemical_formula(),
            wanted="a molecule or a crystal",
        )
    return starts


@dataclass
class Collector:
    """Samples and labels one run; every piece of work is keyed, so a second call repeats nothing.

    Attributes
    ----------
    dropped: labels that the audit refused. notes: trajectories that ended early, failed labels,
    labelling that the budget cut short; each once.
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

    def collect(self, starts: Sequence[Atoms], plan: Plan) -> LabelledSet:
        """Frames of the plan, labelled; before each scout-driven step a scout learns from the rest."""
        sampling, until = plan.sampling, plan.labels_until_s
        potentials: dict[str, Potential] = {"teacher": self.teacher}
        scouted = [k for k, step in enumerate(sampling.steps) if is_scouted(step)]
        for count, k in enumerate(scouted):
            before = sampling.model_copy(update={"steps": sampling.steps[:k]})
            if not any(step.kind != "supercell" for step in before.steps):
                raise InputError(
                    "the first sampling step is driven by a scout, which has nothing to learn from",
                    wanted="a rattle, strain or teacher-driven md step before it",
                )
            labelled = self._label(self._frames(starts, before, potentials, ""), f"labels-{count}", until)
            potentials[sampling.names[k]] = self._scout(labelled, count, plan.scout_s)
        return self._label(self._frames(starts, sampling, potentials, ""), "labels", until)

    def collect_heldout(self, starts: Sequence[Atoms], sampling: SamplingConfig) -> LabelledSet:
        """Frames and labels of the held-out set, from trajectories of their own."""
        return self._label(self._frames(starts, sampling, {"teacher": self.teacher}, "heldout/"), "heldout")

    def _frames(
        self, starts: Sequence[Atoms], sampling: SamplingConfig, potentials: dict[str, Potential], prefix: str
    ) -> list[Atoms]:
        def tick(task: str, done: int, total: int | None = None, text: str = "") -> None:
            self.clock.tick()
            self.progress(f"{prefix.rstrip('/')} {task}".strip(), done, total, text)

        notes: list[str] = []
        frames = run_sampling(
            starts,
            sampling,
            potentials,
            tick,
            cache_dir=self.folder / "sampling",
            parallel=self.config.labelling.workers,
            prefix=prefix,
            notes=notes,
        )
        for note in notes:
            self._note(note)
        check_structures(frames, "sampled frames")
        return frames

    def _label(self, frames: Sequence[Atoms], name: str, until_s: float | None = None) -> LabelledSet:
        """Labels of ``frames``, in their order; those not begun when ``until_s`` is spent go without.

        How far it came is a fact of the run: interrupted and called again, it labels the same frames.
        """

        def tick(task: str, done: int, total: int | None = None, text: str = "") -> None:
            self.clock.tick()
            self.progress(f"heldout {task}" if name == "heldout" else task, done, total, text)

        # In random order where time may end before the frames do: every step keeps its share.
        order = np.arange(len(frames))
        if until_s is not None:
            order = np.random.default_rng(self.config.seed).permutation(len(frames))
        left_out = self.clock.get(name)
        deadline_s = None
        if left_out is not None:
            order = np.setdiff1d(order, left_out)
        elif until_s is not None:
            least = [frames[int(k)] for k in order[:LEAST_LABELS]]
            label(least, self.teacher, self.store, progress=tick)
            deadline_s = max(0.0, until_s - self.clock.spent_s)
        report = label(
            [frames[int(k)] for k in order], self.teacher, self.store, progress=tick, deadline_s=deadline_s
        )
        key_of = dict(zip(order.tolist(), report.keys, strict=True))
        failed = {int(order[f.index]): f.reason for f in report.failed}
        if left_out is None:
            left_out = [k for k, key in key_of.items() if key not in self.store and k not in failed]
            self.clock.put(name, sorted(left_out))
        if left_out:
            done = f"{len(frames) - len(left_out)} of {len(frames)} frames"
            self._note(f"labelling stopped at its share of the budget: {done} have labels")
        for k, reason in sorted(failed.items()):
            self._note(f"the teacher failed on frame {k}: {reason}")
        present = list(dict.fromkeys(key_of[k] for k in sorted(key_of) if key_of[k] in self.store))
        labelled = self.store.read(present)
        kept, dropped = audit(labelled, max_force_ev_per_a=self.config.labelling.max_force_ev_per_a)
        self.dropped += [d for d in dropped if d not in self.dropped]
        if not len(kept):
            raise LimbeckError(
                "no label survived the audit",
                got=f"{len(dropped)} labels dropped"
                + (f", the first: {dropped[0].reason}" if dropped else ""),
                remedy="look at the structures, or raise labelling.max_force_ev_per_a",
            )
        return labelled.select(kept)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _scout(self, labelled: LabelledSet, count: int, seconds: float) -> Student:
        digest = hashlib.sha256(
            labelled.labels.forces.tobytes()
            + labelled.labels.energy.tobytes()
            + str(self.config.seed).encode()
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
                progress=lambda task, done, total=None, text="": self.progress(
                    f"scout {task}", done, total, text
                ),
            )
            save_student(path, record)
            self.say(
                f"scout {count + 1}: {len(train)} labels, force RMSE "
                f"{trained.validation['force_rmse_mev_per_a']:.0f} meV/Å on {len(validation)} others"
            )
        scout = Student.load(path)
        scout.name = path.stem  # holds the hash of what it learned from, so trajectories are keyed by it
        return scout
