"""What a label, a step of dynamics and the checks of a student cost, measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from limbeck.config import DistillConfig, ValidationConfig
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.pipeline.recipes import timestep_fs
from limbeck.pipeline.students import untrained_student

SCOUT_PRESET = "tiny"
DYNAMICS_OVERHEAD_S = 3e-4  # ASE's integrator and the checks of a step


@dataclass(frozen=True)
class Costs:
    """Measured seconds: a label, and by preset a step of dynamics with the student."""

    label_s: float
    step_s: dict[str, float]
    workers: int

    def teacher_steps_s(self, evaluations: int, trajectories: int) -> float:
        """Time of dynamics that the teacher drives: each trajectory keeps one worker busy."""
        return evaluations * self.label_s * self.workers / max(1, min(self.workers, trajectories))


def measure(config: DistillConfig, teacher: Potential, probe: Atoms) -> Costs:
    """Time a label and a step of dynamics with each student on ``probe``."""
    steps = {}
    for preset in {*config.presets, SCOUT_PRESET}:
        student = untrained_student(preset, probe, config.training.cutoff)
        steps[preset] = seconds_per_call(student, probe, 3) + DYNAMICS_OVERHEAD_S
    workers = config.labelling.workers
    return Costs(seconds_per_call(teacher, probe, 2 * workers, together=True), steps, workers)


def seconds_per_call(potential: Potential, frame: Atoms, calls: int, *, together: bool = False) -> float:
    """Seconds one structure takes after one call to warm up; ``together``: all given at once."""
    potential.evaluate(StructureBatch.from_atoms([frame]))
    moved = []
    for k in range(calls):
        copy = frame.copy()
        copy.positions += np.random.default_rng(k).normal(scale=1e-3, size=copy.positions.shape)
        moved.append(StructureBatch.from_atoms([copy]))
    began = time.monotonic()
    if together:
        potential.evaluate(StructureBatch.from_atoms([a for batch in moved for a in batch.to_atoms()]))
    else:
        for batch in moved:
            potential.evaluate(batch)
    return max((time.monotonic() - began) / calls, 1e-6)


def check_s(settings: ValidationConfig, starts: Sequence[Atoms], step_s: float, costs: Costs) -> float:
    """Seconds that the checks of one student take."""
    timestep = settings.timestep_fs or min(1.0, timestep_fs(starts))
    steps = settings.nve_fs / (timestep / 2)
    if settings.onpolicy_frames:
        runs = min(2, settings.onpolicy_frames)
        length = (
            runs * settings.onpolicy_equilibrate_fs + settings.onpolicy_frames * settings.onpolicy_every_fs
        )
        steps += length / timestep
    return steps * step_s + settings.onpolicy_frames * costs.label_s * costs.workers


def shortened(settings: ValidationConfig, factor: float) -> ValidationConfig:
    """Checks that take about ``factor`` of their time."""
    if factor >= 1.0:
        return settings
    changes: dict[str, float] = {"onpolicy_equilibrate_fs": round(factor * settings.onpolicy_equilibrate_fs)}
    if settings.onpolicy_frames:
        changes["onpolicy_frames"] = max(2, round(factor * settings.onpolicy_frames))
    if settings.nve_fs:
        changes["nve_fs"] = max(min(50.0, settings.nve_fs), round(factor * settings.nve_fs))
    return settings.model_copy(update=changes)
