"""Each student against its teacher, and metrics.json with the table that a run ends with.

metrics.json is keyed preset -> split -> ``all`` | ``by_*``. Facts that are no errors on a split stand
under ``run``, which is the name of no preset and no split: those of a preset (parameters, times,
stability and drift of its dynamics, speed) in ``metrics[preset]["run"]``, those of the whole run (its
name and command, the teacher) in ``metrics["run"]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.config import DistillConfig, ValidationConfig
from limbeck.core.labels import LabelledSet
from limbeck.core.machine import describe_machine, usable_cores
from limbeck.core.nve import nve_drift
from limbeck.core.potential import Potential
from limbeck.core.timing import break_even_steps, speedup, time_in_turns
from limbeck.labelling.remote import WorkerPotential
from limbeck.planning.plan import break_even_text
from limbeck.planning.recipes import timestep_fs
from limbeck.progress import Say, format_seconds
from limbeck.records.metrics import LongRangeReport
from limbeck.records.run_folder import RUN, RunFolder
from limbeck.records.time_budget import TimeBudget
from limbeck.report.recommendation import PresetRow, no_better
from limbeck.runtime.student import Student
from limbeck.students.specification import preset_architecture
from limbeck.validation.longrange import MOST_ATOMS, long_range_force
from limbeck.validation.onpolicy import on_policy_error
from limbeck.validation.run import validate
from limbeck.workflows.students import receptive_field_a
from limbeck.workflows.table import format_table

#: test errors this many times those on validation structures are remarked on
_FAR = 3.0
#: average load over cores; training alone comes to 1
_BUSY = 1.3
_ERRORS = ("force_rmse_mev_per_a", "force_r2", "energy_mae_mev_per_atom")
REACH_SHARE = 0.02  #: of a budget goes to measuring how far the teacher reaches
SECONDS_BY_EPOCHS = 36.0  #: where training ends by epochs
#: kB of memory that an evaluation may take for each atom; a teacher that runs out of it ends the run
_KB_AN_ATOM = 6000


@dataclass(frozen=True)
class EvaluationData:
    """What students are evaluated on.

    Attributes
    ----------
    validation, test: labelled sets. hottest_k: temperature of MD driven by a student.
    """

    validation: LabelledSet
    test: LabelledSet
    teacher: WorkerPotential
    hottest_k: float
    seed: int


def evaluate_student(
    student: Student, evaluation: EvaluationData, settings: ValidationConfig
) -> dict[str, Any]:
    """A preset's part of metrics.json: its splits, and under ``run`` how its own dynamics went.

    The split ``on_policy`` is absent where no frame of that dynamics could be compared.
    """
    starts, hottest = _test_starts(evaluation.test), evaluation.hottest_k
    timestep = settings.timestep_fs or min(1.0, timestep_fs(starts))
    facts: dict[str, Any] = {"parameters": student.n_parameters}
    found: dict[str, Any] = {
        "validation": validate(student, evaluation.validation).metrics,
        "test": validate(student, evaluation.test).metrics,
        RUN: facts,
    }
    if settings.onpolicy_frames:
        report = on_policy_error(
            student,
            evaluation.teacher,
            starts[-2:],
            temperature_k=hottest,
            frames=settings.onpolicy_frames,
            every_fs=settings.onpolicy_every_fs,
            timestep_fs=timestep,
            equilibrate_fs=settings.onpolicy_equilibrate_fs,
            seed=evaluation.seed + 7,
        )
        if report.metrics:
            found["on_policy"] = {"all": report.metrics}
        facts["on_policy"] = {"temperature_k": hottest, "stable": report.stable, "reason": report.reason}
    if settings.nve_fs:
        how = {"temperature_k": hottest, "timestep_fs": timestep / 2, "duration_fs": settings.nve_fs}
        facts["nve"] = asdict(nve_drift(student, starts[-1], seed=evaluation.seed + 8, **how)) | how
    return found


def _test_starts(test: LabelledSet) -> list[Atoms]:
    """The last frame of each test trajectory, coolest first."""
    last = {group: k for k, group in enumerate(test.group)}
    order = sorted(last.values(), key=lambda k: np.nan_to_num(test.temperature_k[k]))
    return test.structures.select(order).to_atoms()


def card_metrics(evaluated: dict[str, Any]) -> dict[str, Any]:
    """What the card keeps of the evaluation: errors over each split, drift."""
    facts = evaluated[RUN]
    keep = {split: evaluated[split]["all"] for split in ("validation", "test")}
    keep["test_by_temperature"] = evaluated["test"].get("by_temperature", {})
    if "on_policy" in facts:
        keep["on_policy"] = evaluated.get("on_policy", {}) | facts["on_policy"]
    if "nve" in facts:
        keep["nve"] = facts["nve"]
    return keep


def measure_reach(
    config: DistillConfig, teacher: Potential, test: LabelledSet, time: TimeBudget
) -> list[dict[str, Any]]:
    """The teacher's forces from beyond the students' cutoff and receptive fields, by radius, as dicts.

    Measured on the last frame of the hottest test trajectory. The smallest receptive field comes
    first, then the cutoff, then larger fields, while the share of the budget lasts.
    """
    elements = tuple(int(z) for z in np.unique(test.structures.numbers))
    cutoff = config.training.cutoff
    architectures = [preset_architecture(p, elements, cutoff=cutoff) for p in config.presets]
    fields = sorted(map(receptive_field_a, architectures))
    warm = np.nan_to_num(test.temperature_k)
    hottest = int(np.flatnonzero(warm == warm.max())[-1])
    structures = test.structures.select([hottest]).to_atoms()
    allowed = SECONDS_BY_EPOCHS
    if time.budget_s is not None:
        allowed = min(REACH_SHARE * time.budget_s, max(time.left_s(), 0.0))
    own, most = time.part(allowed), _atoms_that_fit()
    reports: dict[float, LongRangeReport] = {}
    for radius in dict.fromkeys([fields[0], cutoff, *fields]):
        left = max(own.left_s(), 0.0)
        reports[radius] = long_range_force(
            teacher, structures, radius, seed=config.seed, budget_s=left, max_atoms=most
        )
    return [asdict(reports[radius]) for radius in sorted(reports)]


def _atoms_that_fit() -> int:
    """The most atoms whose evaluation memory holds, where the system reports it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return MOST_ATOMS
    free = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return min([MOST_ATOMS, *(kb // _KB_AN_ATOM for kb in free)])


def about_run(name: str | None, folder: RunFolder, command: str | None) -> dict[str, Any]:
    """Name of a run (its folder's unless the configuration has one) and the command that made it."""
    return {"name": name or folder.path.absolute().name} | ({"command": command} if command else {})


def add_speeds(
    metrics: dict[str, Any],
    folder: RunFolder,
    presets: Sequence[str],
    evaluation: EvaluationData,
    spent_s: float,
) -> None:
    """Measure teacher and students in turns on a test structure; their rates and ratios.

    All have as many threads as a worker of the teacher.
    """
    teacher, threads = evaluation.teacher, evaluation.teacher.threads
    students = [Student.load(folder.student(p), threads=threads) for p in presets]
    atoms = evaluation.test.structures.select([0]).to_atoms()[0]
    slow, *timings = time_in_turns([teacher, *students], atoms)
    load = describe_machine()["load"]
    for preset, timing in zip(presets, timings, strict=True):
        facts = metrics[preset][RUN]
        facts["atoms_per_s"] = len(atoms) / timing.median_s
        facts |= {"speedup": speedup(slow.rounds, timing.rounds), "threads": threads}
        facts["break_even_steps"] = break_even_steps(spent_s, slow.median_s, timing.median_s)
        if teacher.n_parameters:
            facts["compression"] = teacher.n_parameters / facts["parameters"]
    metrics[RUN]["teacher"] = {
        "name": teacher.name,
        "parameters": teacher.n_parameters,
        "atoms_per_s": len(atoms) / slow.median_s,
        "threads": threads,
        "device": teacher.device,
    }
    metrics[RUN] |= {"load": load, "speed_atoms": len(atoms), "spent_s": spent_s}


def say_results(
    metrics: dict[str, Any], folder: RunFolder, presets: Sequence[str], evaluation: EvaluationData, say: Say
) -> None:
    """The table of teacher and students, and what went wrong in a student's own dynamics."""
    about, teacher = metrics[RUN], metrics[RUN]["teacher"]
    say("")
    say(format_table([{"model": teacher["name"], **teacher}, *(_row(p, metrics[p]) for p in presets)]))
    say(
        f"(errors on the test set, {len(evaluation.test)} frames of MD driven by the teacher; on-policy: "
        f"frames of MD driven by the student at {evaluation.hottest_k:g} K, labelled by the teacher; drift "
        f"of the total energy without a thermostat; speed of an MD step of {about['speed_atoms']} atoms)"
    )
    known = {p: metrics[p][RUN].get("break_even_steps") for p in presets}
    if paid := break_even_text(known):
        spent = format_seconds(about["spent_s"])
        say(f"the run took {spent} and pays off after {paid} MD steps of {about['speed_atoms']} atoms")
    load, cores = about.get("load"), usable_cores()
    if load is not None and load > _BUSY * cores:
        say(
            f"note: the machine was busy while speeds were measured (load {load:.1f} on {cores} cores); "
            "remedy: limbeck bench, when nothing else runs"
        )
    sizes = []
    for preset in presets:
        facts = metrics[preset][RUN]
        held, own = (
            metrics[preset][split]["all"]["force_rmse_mev_per_a"] for split in ("test", "validation")
        )
        if reason := facts.get("on_policy", {}).get("reason"):
            say(f"{preset}: {reason}")
        if held > _FAR * own:
            say(
                f"warning: {preset}: forces are off by {held:.0f} meV/Å on the test set and by {own:.0f} on "
                "validation structures: the labels do not cover the teacher's dynamics; remedy: a larger "
                "--budget, or md steps under sampling"
            )
        loss = facts.get("training", {}).get("training_loss")
        sizes.append(PresetRow(preset, parameters=facts["parameters"], force_rmse=held, training_loss=loss))
    for found in no_better(sizes):
        say(f"note: {found.text()}")
    say(f"results in {folder.path}: " + ", ".join(f"{p}.safetensors" for p in presets) + ", metrics.json")


def _row(preset: str, evaluated: dict[str, Any]) -> dict[str, Any]:
    facts = evaluated[RUN]
    row = {"model": preset, **facts} | {key: evaluated["test"]["all"][key] for key in _ERRORS}
    if "on_policy" in evaluated:
        row["on_policy_force_rmse_mev_per_a"] = evaluated["on_policy"]["all"]["force_rmse_mev_per_a"]
    if "nve" in facts:
        row["drift_mev_per_atom_per_ps"] = facts["nve"]["drift_mev_per_atom_per_ps"]
    return row
