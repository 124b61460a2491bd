"""What a label, a step of dynamics and the checks of a student cost, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ase import Atoms

from limbeck.benchmark.speed import ENOUGH_S, ROUNDS, seconds_per_label, seconds_per_step
from limbeck.config import DistillConfig, ValidationConfig
from limbeck.core.potential import Potential
from limbeck.pipeline.recipes import timestep_fs
from limbeck.pipeline.students import untrained_student

INTERIM_PRESET = "tiny"
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
    for preset in {*config.presets, INTERIM_PRESET}:
        student = untrained_student(preset, probe, config.training.cutoff)
        steps[preset] = seconds_per_step(student, probe) + DYNAMICS_OVERHEAD_S
    workers = config.labelling.workers
    return Costs(seconds_per_label(teacher, probe, 2 * workers), steps, workers)


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


def speeds_s(costs: Costs, presets: int) -> float:
    """Seconds that teacher and students take to be timed at the end."""
    # a student's blocks are 50 ms and a call; a slow teacher is called three times
    return ENOUGH_S + 3 * costs.label_s * costs.workers + 0.06 * ROUNDS * presets


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
