"""`limbeck distill`: plan, sample, label, split, train, judge, tell."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.benchmark.speed import atoms_per_second
from limbeck.config import DistillConfig, resolved_yaml
from limbeck.core.files import write_whole
from limbeck.core.labels import LabelledSet
from limbeck.core.structures import StructureBatch
from limbeck.dataset.read import read_labelled
from limbeck.dataset.split import split
from limbeck.errors import InputError
from limbeck.labelling.isolated import isolated_atom_energies
from limbeck.labelling.remote import WorkerPotential, open_teacher
from limbeck.labelling.store import LabelStore
from limbeck.pipeline.clock import RunClock
from limbeck.pipeline.defaults import default_heldout, default_sampling, timestep_fs
from limbeck.pipeline.sampling import Collector, label_seconds, starting_structures, temperature_of
from limbeck.pipeline.students import TIME_SHARE, Lesson, save_student, train_student
from limbeck.pipeline.table import format_table
from limbeck.progress import Progress, format_seconds, no_progress
from limbeck.runtime.student import Student
from limbeck.sampling.config import MD, SamplingConfig
from limbeck.sampling.frames import write_frames
from limbeck.sampling.run import count_evaluations, count_frames, run_sampling
from limbeck.teachers.support import check_supported
from limbeck.training.loop import Stop
from limbeck.validation.onpolicy import nve_drift, on_policy_error
from limbeck.validation.run import validate

Say = Callable[[str], None]
_LEAST_TRAINING_S = 5.0


@dataclass(frozen=True)
class Plan:
    """How a run's time and disk are shared; all times are expectations in seconds.

    Attributes
    ----------
    sampling, heldout: what will be sampled. frames, heldout_frames: how many frames come of it.
    label_s: measured time of one label. labelling_s: labels and teacher-driven steps.
    scout_s: training time of each scout. scouts: how many. training_s: by preset. checking_s: what
    follows training. disk_mb: labels and checkpoints.
    """

    sampling: SamplingConfig
    heldout: SamplingConfig
    frames: int
    heldout_frames: int
    atoms: int
    label_s: float
    labelling_s: float
    heldout_s: float
    scout_s: float
    scouts: int
    training_s: dict[str, float]
    checking_s: float
    disk_mb: float
    budget_s: float | None

    def lines(self) -> list[str]:
        """The plan for people."""
        train = ", ".join(f"{k} {format_seconds(v)}" for k, v in self.training_s.items())
        lines = [
            f"frames to label: {self.frames} of {self.atoms} atoms, {self.label_s:.3g} s each: "
            f"{format_seconds(self.labelling_s)}",
            f"held-out frames: {self.heldout_frames} from the teacher's own dynamics: "
            f"{format_seconds(self.heldout_s)}",
        ]
        if self.scouts:
            lines.append(f"scouts that drive sampling: {self.scouts}, {format_seconds(self.scout_s)} each")
        lines += [
            f"training: {train or 'by epochs'}",
            f"checks after training: {format_seconds(self.checking_s)}",
            f"disk: about {self.disk_mb:.0f} MB",
        ]
        if self.budget_s is not None:
            lines.insert(0, f"budget: {format_seconds(self.budget_s)}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        fields = asdict(self)
        fields["sampling"] = self.sampling.model_dump(mode="json", by_alias=True)
        fields["heldout"] = self.heldout.model_dump(mode="json", by_alias=True)
        return fields


def plan(config: DistillConfig, starts: list[Atoms], teacher: WorkerPotential, spent_s: float = 0.0) -> Plan:
    """Share the budget. The teacher is timed on one structure of the size to be labelled.

    Raises
    ------
    InputError: the budget leaves no time to train, or there is neither budget nor epochs.
    """
    budget = config.budget
    if budget is None and config.training.epochs is None:
        raise InputError(
            "no budget given", wanted="a time or a number of epochs", remedy="add --budget 20m or --epochs 100"
        )
    probe = _probe(config, starts)
    seconds = label_seconds(teacher, probe, config.labelling.workers)
    wanted = 600.0 if budget is None else 0.22 * budget / seconds
    labels = int(np.clip(wanted, 24, 4000))
    sampling = config.sampling or default_sampling(starts, labels, config.seed)
    heldout = config.heldout or default_heldout(
        starts, int(np.clip(0.1 * (budget or 600) / seconds / 28, 9, 60)), config.seed
    )
    n_held = len(heldout.start_index) if heldout.start_index else len(starts)
    n_starts = len(sampling.start_index) if sampling.start_index else len(starts)
    frames, held = count_frames(sampling, n_starts), count_frames(heldout, n_held)
    driven = _teacher_steps(sampling, n_starts)
    scouts = sum(isinstance(s, MD) and s.driver == "scout" for s in sampling.steps)
    scout_s = float(np.clip(0.04 * (budget or 900), 4, 60)) if scouts else 0.0
    labelling_s = (frames + driven) * seconds
    heldout_s = (held + count_evaluations(heldout, n_held)) * seconds
    checking = len(config.presets) * ((config.validation.onpolicy_frames + 4) * seconds * 1.5 + 10)
    training: dict[str, float] = {}
    if budget is not None:
        scout_md = 1e-3 * (count_evaluations(sampling, n_starts) - driven) if scouts else 0.0
        left = budget - spent_s - labelling_s - heldout_s - scouts * scout_s - scout_md - checking
        if left < _LEAST_TRAINING_S * len(config.presets):
            needed = budget - left + _LEAST_TRAINING_S * len(config.presets)
            raise InputError(
                "the budget allows no epoch",
                got=format_seconds(budget),
                wanted=f"at least {format_seconds(needed)} for {frames} labels, {held} held-out frames and training",
                remedy="raise --budget, or sample fewer frames",
            )
        share = sum(TIME_SHARE[p] for p in config.presets)
        training = {p: left * TIME_SHARE[p] / share for p in config.presets}
    atoms = len(probe)
    return Plan(
        sampling=sampling, heldout=heldout, frames=frames, heldout_frames=held, atoms=atoms, label_s=seconds,
        labelling_s=labelling_s, heldout_s=heldout_s, scout_s=scout_s, scouts=scouts, training_s=training,
        checking_s=checking, disk_mb=1 + (frames + held) * atoms * 3 * 80 / 1e6 + 12 * len(config.presets),
        budget_s=budget,
    )  # fmt: skip


def _probe(config: DistillConfig, starts: list[Atoms]) -> Atoms:
    """A structure of the size that will be labelled."""
    from limbeck.sampling.config import Supercell

    steps = (config.sampling or default_sampling(starts, 24, 0)).steps
    cells = tuple(s for s in steps if isinstance(s, Supercell))
    return run_sampling(starts[:1], SamplingConfig(steps=cells, keep_starts=True), {})[0]


def _teacher_steps(sampling: SamplingConfig, n_starts: int) -> int:
    """Evaluations of the teacher that drive dynamics."""
    scouted = {s.name or k for k, s in zip(sampling.names, sampling.steps, strict=True) if _is_scout(s)}
    total = count_evaluations(sampling, n_starts)
    for name, step in zip(sampling.names, sampling.steps, strict=True):
        if isinstance(step, MD) and name in scouted:
            total -= (step.steps + 1) * len(step.temperatures) * (step.starts or n_starts)
    return max(total, 0)


def _is_scout(step: object) -> bool:
    return isinstance(step, MD) and step.driver == "scout"


def distill(
    config: DistillConfig,
    out: Path | str | None = None,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress = no_progress,
    say: Say = print,
) -> dict[str, Any]:
    """Distil a teacher into students; returns what metrics.json holds (or the plan, for a dry run).

    Interrupted at any moment, the same call in the same folder goes on.

    Raises
    ------
    InputError: the structures, teacher, budget or folder do not fit. LimbeckError: work failed.
    """
    folder = Path(out) if out is not None else config.run_folder()
    spec = config.required_teacher()
    starts = starting_structures(config)
    if not dry_run:
        prepare_folder(folder, resolved_yaml(config), overwrite=overwrite)
    with open_teacher(
        spec.name,
        options=spec.options,
        workers=config.labelling.workers,
        threads=config.labelling.threads,
        device=config.labelling.device,
    ) as teacher:
        if teacher.card is not None:
            check_supported(teacher.card, StructureBatch.from_atoms(starts))
        if dry_run:
            dry = plan(config, starts, teacher)
            for line in dry.lines():
                say(line)
            return {"plan": dry.to_dict()}
        return _run(config, folder, starts, teacher, progress, say)


def _run(
    config: DistillConfig,
    folder: Path,
    starts: list[Atoms],
    teacher: WorkerPotential,
    progress: Progress,
    say: Say,
) -> dict[str, Any]:
    clock = RunClock(folder)
    first = clock.once("plan", None)
    if first is None:
        chosen = plan(config, starts, teacher, clock.spent_s)
        for line in chosen.lines():
            say(line)
        sampling, heldout, scout_s = chosen.sampling, chosen.heldout, chosen.scout_s
        clock.replace("plan", chosen.to_dict())
        checking_s = chosen.checking_s
    else:
        say(f"going on after {format_seconds(clock.spent_s)}")
        sampling, heldout = SamplingConfig(**first["sampling"]), SamplingConfig(**first["heldout"])
        scout_s, checking_s = float(first["scout_s"]), float(first["checking_s"])
    write_frames(folder / "structures.extxyz", starts)
    with LabelStore(folder / "labels") as store:
        collector = Collector(config, folder, teacher, store, clock, progress, say)
        heldout_set = collector.collect_heldout(starts, heldout)
        labelled = collector.collect(starts, sampling, scout_s=scout_s)
    lesson = _make_lesson(config, labelled, teacher)
    for note in collector.notes:
        say(f"note: {note}")
    for drop in collector.dropped:
        say(f"dropped label {drop.index}: {drop.reason}")
    say(f"{len(lesson.train)} labels to train on, {len(lesson.validation)} to validate, {len(heldout_set)} held out")
    write_frames(folder / "validation.extxyz", lesson.validation.to_atoms())
    write_frames(folder / "heldout.extxyz", heldout_set.to_atoms())
    metrics = _train_and_judge(
        config, folder, lesson, heldout_set, teacher, sampling, clock, checking_s, progress, say
    )
    clock.save()
    return metrics


def _make_lesson(config: DistillConfig, labelled: LabelledSet, teacher: WorkerPotential) -> Lesson:
    val = read_labelled(config.val) if isinstance(config.val, Path) else float(config.val)
    parts = split(labelled, val, config.seed)
    train, validation = parts.parts(labelled)
    identity = asdict(teacher.identity)
    if teacher.card is not None:
        identity |= {"licence": teacher.card.licence, "citation": teacher.card.citation}
    elements = sorted({int(z) for z in labelled.structures.numbers})
    return Lesson(train, validation, isolated_atom_energies(teacher, elements), parts.how, identity)


def _train_and_judge(
    config: DistillConfig,
    folder: Path,
    lesson: Lesson,
    heldout: LabelledSet,
    teacher: WorkerPotential,
    sampling: SamplingConfig,
    clock: RunClock,
    checking_s: float,
    progress: Progress,
    say: Say,
) -> dict[str, Any]:
    budgets: dict[str, float] = {}
    if config.training.epochs is None:
        left = max(float(config.budget or 0) - clock.spent_s - checking_s, _LEAST_TRAINING_S * len(config.presets))
        share = sum(TIME_SHARE[p] for p in config.presets)
        budgets = clock.once("training_s", {p: left * TIME_SHARE[p] / share for p in config.presets})
    metrics: dict[str, Any] = {}
    hottest = config.validation.temperature_K or temperature_of(sampling) or 300.0
    for preset in config.presets:
        path = folder / f"{preset}.safetensors"

        def tick(task: str, done: int, total: int | None = None, text: str = "") -> None:
            clock.tick()
            progress(task, done, total, text)

        record, trained = train_student(
            preset,
            lesson,
            config.training,
            Stop(epochs=config.training.epochs, budget_s=budgets.get(preset)),
            folder / "train" / preset,
            seed=config.seed,
            progress=tick,
        )
        save_student(path, record)
        student = Student.load(path)
        judged = _judge(student, lesson, heldout, teacher, config, hottest)
        judged["training"] = {
            "seconds": trained.progress.spent_s,
            "epochs": trained.progress.epoch,
            "labels_seen": trained.progress.labels_seen,
        }
        save_student(path, record, _card_metrics(judged))
        judged["summary"] |= {"file_kb": path.stat().st_size / 1e3}
        metrics[preset] = judged
    rates = _rates(config, folder, heldout, teacher)
    teacher_parameters = _teacher_parameters(teacher)
    rows = [{"model": teacher.name, "parameters": teacher_parameters, "atoms_per_s": rates[teacher.name]}]
    for preset in config.presets:
        summary = metrics[preset]["summary"]
        summary["atoms_per_s"] = rates[preset]
        summary["speedup"] = rates[preset] / rates[teacher.name]
        if teacher_parameters:
            summary["compression"] = teacher_parameters / summary["parameters"]
        rows.append({"model": preset, **summary})
    metrics["teacher"] = {
        "name": teacher.name,
        "parameters": teacher_parameters,
        "atoms_per_s": rates[teacher.name],
    }
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=1))
    say("")
    say(format_table(rows))
    say(
        f"(errors on {len(heldout)} held-out frames of the teacher's own dynamics; on-policy: frames of the "
        f"student's own dynamics at {hottest:g} K, labelled by the teacher)"
    )
    for preset in config.presets:
        if metrics[preset]["on_policy"].get("reason"):
            say(f"{preset}: {metrics[preset]['on_policy']['reason']}")
    say(f"results in {folder}: " + ", ".join(f"{p}.safetensors" for p in config.presets) + ", metrics.json")
    return metrics


def _judge(
    student: Student,
    lesson: Lesson,
    heldout: LabelledSet,
    teacher: WorkerPotential,
    config: DistillConfig,
    hottest: float,
) -> dict[str, Any]:
    """Held-out and validation errors, errors on the student's own dynamics, drift without thermostat."""
    settings = config.validation
    starts = _heldout_starts(heldout)
    step = settings.timestep_fs or min(1.0, timestep_fs(starts))
    result: dict[str, Any] = {
        "validation": validate(student, lesson.validation).metrics,
        "heldout": validate(student, heldout).metrics,
        "on_policy": {},
    }
    summary: dict[str, Any] = {"parameters": student.n_parameters}
    summary |= {
        k: result["heldout"]["all"][k] for k in ("force_rmse_mev_per_a", "force_r2", "energy_mae_mev_per_atom")
    }
    if settings.onpolicy_frames:
        report = on_policy_error(
            student,
            teacher,
            starts[-2:],
            temperature_k=hottest,
            frames=settings.onpolicy_frames,
            every_fs=settings.onpolicy_every_fs,
            timestep_fs=step,
            equilibrate_fs=settings.onpolicy_equilibrate_fs,
            seed=config.seed + 7,
        )
        result["on_policy"] = {
            "all": report.metrics,
            "n_frames": report.n_frames,
            "stable": report.stable,
            "reason": report.reason,
            "temperature_k": hottest,
        }
        if report.metrics:
            summary["on_policy_force_rmse_mev_per_a"] = report.metrics["force_rmse_mev_per_a"]
    if settings.nve_fs:
        drift = nve_drift(
            student,
            starts[-1],
            temperature_k=hottest,
            timestep_fs=step / 2,
            duration_fs=settings.nve_fs,
            seed=config.seed + 8,
        )
        result["nve"] = asdict(drift) | {"temperature_k": hottest, "timestep_fs": step / 2}
        summary["drift_mev_per_atom_per_ps"] = drift.drift_mev_per_atom_per_ps
    result["summary"] = summary
    return result


def _heldout_starts(heldout: LabelledSet) -> list[Atoms]:
    """The last frame of each held-out trajectory, coolest first."""
    last = {family: k for k, family in enumerate(heldout.family)}
    order = sorted(last.values(), key=lambda k: np.nan_to_num(heldout.temperature_k[k]))
    return heldout.structures.select(order).to_atoms()


def _rates(config: DistillConfig, folder: Path, heldout: LabelledSet, teacher: WorkerPotential) -> dict[str, float]:
    students = [Student.load(folder / f"{p}.safetensors") for p in config.presets]
    atoms = heldout.structures.select([0]).to_atoms()[0]
    values = atoms_per_second([teacher, *students], atoms)
    return dict(zip([teacher.name, *config.presets], values, strict=True))


def _teacher_parameters(teacher: WorkerPotential) -> int | None:
    count = getattr(teacher, "n_parameters", None)
    return int(count) if count else None


def _card_metrics(judged: dict[str, Any]) -> dict[str, Any]:
    """What the card keeps of the judgement."""
    keep = {k: judged[k]["all"] for k in ("validation", "heldout")}
    keep["heldout_by_temperature"] = judged["heldout"].get("by_temperature", {})
    keep["on_policy"] = judged["on_policy"]
    keep["nve"] = judged.get("nve")
    return keep


def prepare_folder(folder: Path, resolved: str, *, overwrite: bool) -> None:
    """Make the run folder, or check that it belongs to this configuration.

    Raises
    ------
    InputError: another configuration's results are there, or the place is a file.
    LimbeckError: it cannot be written.
    """
    import shutil

    marker = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise InputError("the run folder is a file", where=folder, wanted="a folder", remedy="choose another --out")
    if marker.exists() and marker.read_text(encoding="utf-8") != resolved:
        if not overwrite:
            raise InputError(
                "the run folder belongs to another configuration",
                where=folder,
                wanted="the same configuration, to go on with it",
                remedy="choose another --out, or --overwrite to replace it",
            )
        shutil.rmtree(folder)
    elif folder.exists() and not marker.exists() and any(os.scandir(folder)):
        raise InputError(
            "the run folder holds files of something else",
            where=folder,
            wanted="an empty or new folder",
            remedy="choose another --out",
        )
    write_whole(marker, resolved)
