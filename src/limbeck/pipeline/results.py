"""metrics.json and the table that a run ends with.

metrics.json is keyed preset -> split -> ``all`` | ``by_*``. Facts that are no errors on a split stand
under ``run``, which is the name of no preset and no split: those of a preset (parameters, times,
stability and drift of its dynamics, speed) in ``metrics[preset]["run"]``, those of the whole run (its
name and command, the teacher) in ``metrics["run"]``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.benchmark.rows import speedup
from limbeck.benchmark.speed import time_in_turns
from limbeck.core.files import write_whole
from limbeck.core.machine import describe_machine, usable_cores
from limbeck.pipeline.judging import RUN, Trial
from limbeck.pipeline.table import format_table
from limbeck.pipeline.telling import Say
from limbeck.runtime.student import Student
from limbeck.validation.size import NoBetter, Sized, no_better

#: test errors this many times those on validation structures are remarked on
_FAR = 3.0
#: average load over cores; training alone comes to 1
_BUSY = 1.3
_ERRORS = ("force_rmse_mev_per_a", "force_r2", "energy_mae_mev_per_atom")


def about_run(name: str | None, folder: Path, command: str | None) -> dict[str, Any]:
    """Name of a run (its folder's unless the configuration has one) and the command that made it."""
    return {"name": name or folder.absolute().name} | ({"command": command} if command else {})


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Write metrics.json whole."""
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=1))


def add_speeds(metrics: dict[str, Any], folder: Path, presets: Sequence[str], trial: Trial) -> None:
    """Measure teacher and students in turns on a test structure; their rates and ratios.

    All have as many threads as a worker of the teacher.
    """
    teacher, threads = trial.teacher, trial.teacher.threads
    students = [Student.load(folder / f"{p}.safetensors", threads=threads) for p in presets]
    atoms = trial.test.structures.select([0]).to_atoms()[0]
    slow, *timings = time_in_turns([teacher, *students], atoms)
    load = describe_machine()["load"]
    for preset, timing in zip(presets, timings, strict=True):
        facts = metrics[preset][RUN]
        facts |= {
            "atoms_per_s": len(atoms) / timing.median_s,
            "speedup": speedup(slow.rounds, timing.rounds),
            "threads": threads,
        }
        if teacher.n_parameters:
            facts["compression"] = teacher.n_parameters / facts["parameters"]
    metrics[RUN]["teacher"] = {
        "name": teacher.name,
        "parameters": teacher.n_parameters,
        "atoms_per_s": len(atoms) / slow.median_s,
        "threads": threads,
        "device": teacher.device,
    }
    metrics[RUN] |= {"load": load, "speed_atoms": len(atoms)}


def say_results(
    metrics: dict[str, Any], folder: Path, presets: Sequence[str], trial: Trial, say: Say
) -> None:
    """The table of teacher and students, and what went wrong in a student's own dynamics."""
    teacher = metrics[RUN]["teacher"]
    rows = [{"model": teacher["name"], **teacher}] + [_row(preset, metrics[preset]) for preset in presets]
    say("")
    say(format_table(rows))
    say(
        f"(errors on the test set, {len(trial.test)} frames of MD driven by the teacher; on-policy: "
        f"frames of MD driven by the student at {trial.hottest_k:g} K, labelled by the teacher; drift of the "
        f"total energy without a thermostat; speed of an MD step of {metrics[RUN]['speed_atoms']} atoms)"
    )
    load, cores = metrics[RUN].get("load"), usable_cores()
    if load is not None and load > _BUSY * cores:
        say(
            f"note: the machine was busy while speeds were measured (load {load:.1f} on {cores} cores); "
            "remedy: limbeck bench, when nothing else runs"
        )
    for preset in presets:
        reason = metrics[preset][RUN].get("on_policy", {}).get("reason")
        if reason:
            say(f"{preset}: {reason}")
        rough = _far_from_validation(metrics[preset])
        if rough:
            say(f"warning: {preset}: {rough}")
    for found in _no_better(metrics, presets):
        say(f"note: {found.text()}")
    say(f"results in {folder}: " + ", ".join(f"{p}.safetensors" for p in presets) + ", metrics.json")


def _far_from_validation(judged: dict[str, Any]) -> str | None:
    """What to say where test errors are far above those on validation structures."""
    held, own = (judged[split]["all"]["force_rmse_mev_per_a"] for split in ("test", "validation"))
    if held <= _FAR * own:
        return None
    return (
        f"forces are off by {held:.0f} meV/Å held out and by {own:.0f} on validation structures: the labels "
        "do not cover the teacher's dynamics; remedy: a larger --budget, or md steps under sampling"
    )


def _no_better(metrics: dict[str, Any], presets: Sequence[str]) -> list[NoBetter]:
    """Presets that are no more accurate on the test set than a smaller one."""
    return no_better(
        [
            Sized(
                preset,
                metrics[preset][RUN]["parameters"],
                metrics[preset]["test"]["all"]["force_rmse_mev_per_a"],
                metrics[preset][RUN].get("training", {}).get("training_loss"),
            )
            for preset in presets
        ]
    )


def _row(preset: str, judged: dict[str, Any]) -> dict[str, Any]:
    facts = judged[RUN]
    row = {"model": preset, **facts} | {key: judged["test"]["all"][key] for key in _ERRORS}
    if "on_policy" in judged:
        row["on_policy_force_rmse_mev_per_a"] = judged["on_policy"]["all"]["force_rmse_mev_per_a"]
    if "nve" in facts:
        row["drift_mev_per_atom_per_ps"] = facts["nve"]["drift_mev_per_atom_per_ps"]
    return row
