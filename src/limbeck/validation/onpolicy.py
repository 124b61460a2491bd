"""What a small error on test frames does not show: energy drift, and errors where the student goes.

A student is judged on frames of its own molecular dynamics, labelled by the teacher: regions that it
alone finds attractive are not in any test trajectory of the teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from limbeck.core.charge import copy_charge
from limbeck.core.labels import Labels
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError, WorkerDied
from limbeck.sampling.dynamics import MD, run_trajectory
from limbeck.units import EV_TO_MEV, FS
from limbeck.validation.metrics import Metrics, compute_metrics
from limbeck.validation.run import predict

DRIFT_SAMPLES = 2000  #: total energies kept at most
HOT_FACTOR, HOT_OFFSET_K = 10.0, 2000.0  #: kinetic temperature beyond which a run has exploded
#: what potentials raise on structures that no longer make sense
EVALUATION_ERRORS = (LimbeckError, RuntimeError, ValueError, ArithmeticError)


@dataclass(frozen=True)
class DriftReport:
    """Conservation of the total energy at constant volume without a thermostat.

    Attributes
    ----------
    drift_mev_per_atom_per_ps: slope of a straight line through the total energy; None where the run
        ended before three samples.
    energy_std_mev_per_atom: standard deviation of the total energy about that line; None likewise.
    completed: the run reached its duration. reason: why not ("" where it did).
    """

    drift_mev_per_atom_per_ps: float | None
    energy_std_mev_per_atom: float | None
    completed: bool
    reason: str


@dataclass(frozen=True)
class OnPolicyReport:
    """Errors of a student against its teacher on frames of the student's own dynamics.

    Attributes
    ----------
    metrics: as `limbeck.validation.metrics.compute_metrics`, None where no frame could be labelled.
    n_frames: frames compared. stable: every run reached its end and the teacher labelled every frame.
    reason: what went wrong first ("" where stable).
    """

    metrics: Metrics | None
    n_frames: int
    stable: bool
    reason: str


class _Unstable(Exception):
    """A trajectory left what can be simulated; the text says how."""


def nve_drift(
    potential: Potential,
    start: Atoms,
    *,
    temperature_k: float,
    timestep_fs: float,
    duration_fs: float,
    seed: int,
) -> DriftReport:
    """Velocity-Verlet run from ``start`` with momenta drawn at ``temperature_k``; drift of its energy.

    ``start`` is not changed. An explosion or an error of the potential ends the run and is reported.

    Raises
    ------
    InputError: a duration of fewer than three steps, a timestep or temperature that is not positive.
    """
    steps = _count_steps(duration_fs, timestep_fs, temperature_k)
    stride = max(1, steps // DRIFT_SAMPLES)
    atoms = _thermalized(potential, start, temperature_k, np.random.default_rng(seed))
    dynamics = VelocityVerlet(atoms, timestep=timestep_fs * FS)
    times, energies, reason = [], [], ""
    try:
        for step in _run(dynamics, atoms, steps, temperature_k):
            if step % stride == 0:
                times.append(step * timestep_fs / 1000.0)
                energies.append(atoms.get_total_energy() / len(atoms) * EV_TO_MEV)
    except _Unstable as unstable:
        reason = str(unstable)
    if len(times) < 3:
        return DriftReport(None, None, completed=False, reason=reason)
    time, energy = np.array(times), np.array(energies)
    # Offsets are taken off first: squares of large total energies would cost digits.
    time, energy = time - time.mean(), energy - energy.mean()
    slope = float((time * energy).sum() / (time**2).sum())
    return DriftReport(slope, float((energy - slope * time).std()), completed=not reason, reason=reason)


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
    _count_steps(every_fs, timestep_fs, temperature_k, minimum=1)
    collected: list[Atoms] = []
    reasons: list[str] = []
    shares = [len(part) for part in np.array_split(np.arange(frames), len(starts))]
    for k, (start, share) in enumerate(zip(starts, shares, strict=True)):
        if not share:
            continue
        config = MD(
            temperature_K=temperature_k,
            frames=share,
            every_fs=every_fs,
            timestep_fs=timestep_fs,
            equilibrate_fs=equilibrate_fs,
        )
        rng = np.random.default_rng([seed, k])
        try:
            trajectory = run_trajectory(start, student, config, temperature_k, rng, f"start {k}")
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
            raise  # no frame's fault: judged again when the run goes on
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
    stress = None
    if all(labels.stress is not None for labels in truth):
        stress = np.concatenate([labels.stress for labels in truth])
    reference = Labels(
        energy=np.concatenate([labels.energy for labels in truth]),
        forces=np.concatenate([labels.forces for labels in truth]),
        stress=stress,
    )
    metrics = compute_metrics(batch, reference, predict(student, batch))
    return OnPolicyReport(metrics, len(kept), stable=not reasons, reason=reason)


def _thermalized(potential: Potential, start: Atoms, temperature_k: float, rng: np.random.Generator) -> Atoms:
    atoms = _bare_copy(start)
    thermalize_momenta(atoms, temperature_K=temperature_k, rng=rng)
    if len(atoms) > 1:
        Stationary(atoms)
    atoms.calc = potential.make_calculator()
    return atoms


def _bare_copy(atoms: Atoms) -> Atoms:
    """Structure, charge and spin alone: no calculator, constraints or momenta."""
    copy = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    copy_charge(atoms, copy)
    return copy


def _run(dynamics: MolecularDynamics, atoms: Atoms, steps: int, temperature_k: float) -> Iterator[int]:
    """Step numbers 0..steps as they are done.

    Raises
    ------
    _Unstable: not finite, far too hot, or the potential failed.
    """
    # Kinetic temperatures scatter by sqrt(2 / 3N); ten times the target is no fluctuation.
    hottest = HOT_FACTOR * temperature_k * (1 + np.sqrt(2 / (3 * len(atoms)))) + HOT_OFFSET_K
    timestep_fs = dynamics.dt / FS
    step = 0
    try:
        for step, _ in enumerate(dynamics.irun(steps)):
            if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.get_momenta()).all()):
                raise _Unstable(f"positions were not finite after {step * timestep_fs:g} fs")
            kelvin = atoms.get_temperature()
            if kelvin > hottest:
                raise _Unstable(f"temperature rose to {kelvin:.0f} K after {step * timestep_fs:g} fs")
            yield step
    except EVALUATION_ERRORS as error:
        what = f"{type(error).__name__}: {error}"
        raise _Unstable(f"the potential failed after {step * timestep_fs:g} fs: {what}") from error


def _count_steps(duration_fs: float, timestep_fs: float, temperature_k: float, minimum: int = 3) -> int:
    if not (timestep_fs > 0 and temperature_k > 0 and round(duration_fs / timestep_fs) >= minimum):
        raise InputError(
            "times and temperature of a dynamics run must be positive",
            got=f"{duration_fs:g} fs in steps of {timestep_fs:g} fs at {temperature_k:g} K",
            wanted=f"at least {minimum} steps",
        )
    return round(duration_fs / timestep_fs)
