"""What a small error on test frames does not show: energy drift, and errors where the student goes.

A student is evaluated on frames of its own molecular dynamics, labelled by the teacher: regions that it
alone finds attractive are not in any test trajectory of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from limbeck.core.labels import Labels
from limbeck.core.nve import EVALUATION_ERRORS, count_steps
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.core.trajectory import Constant, run_trajectory
from limbeck.errors import InputError, WorkerDied
from limbeck.records.metrics import Errors
from limbeck.validation.metrics import compute_metrics
from limbeck.validation.run import predict


@dataclass(frozen=True)
class OnPolicyReport:
    """Errors of a student against its teacher on frames of the student's own dynamics.

    Attributes
    ----------
    errors: None where no frame could be labelled; ``metrics``: the same as metrics.json has them.
    n_frames: frames compared. stable: every run reached its end and the teacher labelled every frame.
    reason: what went wrong first ("" where stable).
    """

    errors: Errors | None
    n_frames: int
    stable: bool
    reason: str

    @property
    def metrics(self) -> dict[str, float | int | None] | None:
        return None if self.errors is None else self.errors.to_json()


def on_policy_error(
    student: Potential,
    teacher: Potential,
    starts: Sequence[Atoms],
    *,
    temperature_k: float,
    frames: int,
    every_fs: float,
    timestep_fs: float,
    equilibrate_fs: float,
    seed: int,
) -> OnPolicyReport:
    """Langevin dynamics with the student from each start; errors against the teacher on its frames.

    ``frames`` are shared among ``starts``, ``every_fs`` apart after ``equilibrate_fs``. A run that
    explodes gives the frames it reached.

    Raises
    ------
    InputError: no starts, no frames, times that are not positive.
    """
    if not starts or frames < 1:
        raise InputError(
            "on-policy error needs starts and frames",
            got=f"{len(starts)} starts, {frames} frames",
            wanted="at least one of each",
        )
    count_steps(every_fs, timestep_fs, temperature_k, minimum=1)
    collected: list[Atoms] = []
    reasons: list[str] = []
    shares = [len(part) for part in np.array_split(np.arange(frames), len(starts))]
    for k, (start, share) in enumerate(zip(starts, shares, strict=True)):
        if not share:
            continue
        course = Constant("md", share, timestep_fs, every_fs, equilibrate_fs)
        rng = np.random.default_rng([seed, k])
        try:
            trajectory = run_trajectory(start, student, course, temperature_k, rng, f"start {k}")
        except EVALUATION_ERRORS as error:
            reasons.append(f"start {k}: the student failed: {type(error).__name__}: {error}")
            continue
        collected += trajectory.frames
        if trajectory.stopped is not None:
            reasons.append(trajectory.stopped)
    return _compare(student, teacher, collected, reasons)


def _compare(
    student: Potential, teacher: Potential, collected: list[Atoms], reasons: list[str]
) -> OnPolicyReport:
    kept: list[Atoms] = []
    truth: list[Labels] = []
    for k, frame in enumerate(collected):
        try:
            labels = predict(teacher, StructureBatch.from_atoms([frame]))
        except WorkerDied:
            raise  # no frame's fault: evaluated again when the run goes on
        except EVALUATION_ERRORS as error:
            reasons.append(f"the teacher failed on frame {k}: {error}")
            continue
        if not (np.isfinite(labels.energy).all() and np.isfinite(labels.forces).all()):
            reasons.append(f"the teacher's labels of frame {k} are not finite")
            continue
        kept.append(frame)
        truth.append(labels)
    reason = reasons[0] if reasons else ""
    if not kept:
        return OnPolicyReport(None, 0, stable=False, reason=reason or "no frame was reached")
    batch = StructureBatch.from_atoms(kept)
    stresses = [labels.stress for labels in truth if labels.stress is not None]
    reference = Labels(
        energy=np.concatenate([labels.energy for labels in truth]),
        forces=np.concatenate([labels.forces for labels in truth]),
        stress=np.concatenate(stresses) if len(stresses) == len(truth) else None,
    )
    errors = compute_metrics(batch, reference, predict(student, batch))
    return OnPolicyReport(errors, len(kept), stable=not reasons, reason=reason)
