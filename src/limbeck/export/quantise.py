"""Weights in fewer bits: half precision, or bytes with a scale for each output channel, and what that costs.

Only storage shrinks: weights are widened in the graph and all arithmetic stays float32. Forces, dynamics
and speed are held against the student in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from limbeck.artifact.file import StudentArtifact
from limbeck.core.nve import nve_drift
from limbeck.errors import InputError
from limbeck.export.model import WeightStore
from limbeck.export.speed import Latency
from limbeck.progress import format_figure
from limbeck.runtime.student import Student
from limbeck.units import EV_TO_MEV

Quantisation = Literal["float16", "int8"]
QUANTISATIONS: tuple[Quantisation, ...] = ("float16", "int8")

#: meV/Å: float16 keeps 11 bits of each weight and must cost next to nothing
MOST_HALF = 1.0
#: meV/Å, and share of the student's own force error: what int8 may cost
MOST_COARSE, MOST_OF_OWN = 5.0, 0.1
#: int8 may not be slower than float32; best times taken alternating still scatter by so much
SLOWER = 1.05
_NVE_K, _NVE_FS = 300.0, 250.0


@dataclass(frozen=True)
class Stored:
    """A student's weights as a file keeps them.

    Attributes
    ----------
    store: what a graph is traced from.
    record: the student with the same weights, rounded, in its own precision: what the file computes.
    """

    store: WeightStore
    record: StudentArtifact
    dtype: torch.dtype


def store_weights(record: StudentArtifact, quantisation: Quantisation | None) -> Stored:
    """The weights as they are, or rounded.

    Biases and the last layer, a hundredth of the weights, stay as they are: rounded, they would shift
    every energy. int8 leaves the embedding too, and rounds the matrices of linear layers symmetrically,
    with one scale for each output channel.

    Raises
    ------
    InputError: another quantisation; weights beyond the range of float16.
    """
    dtype = torch.float64 if record.dtype == "float64" else torch.float32
    exact = {name: torch.as_tensor(np.array(value)).to(dtype) for name, value in record.weights.items()}
    if quantisation is None:
        return Stored(WeightStore(exact, {}, dtype), record, dtype)
    if quantisation not in QUANTISATIONS:
        raise InputError("unknown quantisation", got=repr(quantisation), wanted=" or ".join(QUANTISATIONS))
    kept, scales = dict(exact), dict[str, Tensor]()
    for name, value in exact.items():
        if value.ndim == 2 and quantisation == "float16":
            kept[name] = value.to(torch.float16)
        elif value.ndim == 2 and name != "embedding":
            kept[name], scales[name] = round_to_bytes(value)
    store = WeightStore(kept, scales, dtype)
    rounded = {name: value.numpy().copy() for name, value in store().items()}
    suspicious = [name for name, value in rounded.items() if not np.isfinite(value).all()]
    if suspicious:
        raise InputError(
            f"weight {suspicious[0]!r} is beyond the range of float16",
            wanted=f"at most {torch.finfo(torch.float16).max:g}",
            remedy="--quantize int8, or none",
        )
    return Stored(store, replace(record, weights=rounded), dtype)


def round_to_bytes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(inputs, outputs) -> int8 of that shape and the scale of each output, (outputs,)."""
    scale = weight.abs().amax(0) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.round(weight / scale).to(torch.int8), scale


def own_force_error(card: dict[str, Any]) -> float | None:
    """The student's force RMSE, meV/Å, test or else on validation structures, as its card says."""
    metrics = card.get("metrics") or {}
    for split in ("test", "validation"):
        figures = metrics.get(split) or {}
        value = figures.get("force_rmse_mev_per_a", (figures.get("all") or {}).get("force_rmse_mev_per_a"))
        if isinstance(value, (int, float)):
            return float(value)
    return None


@dataclass(frozen=True)
class Loss:
    """Rounded weights against float32, on the structures the student is for.

    Attributes
    ----------
    own_force_rmse_mev_per_a: the student's error against its teacher, from its card; None where unknown.
    drift_mev_per_atom_per_ps, float32_drift_mev_per_atom_per_ps: of a short NVE run; None
        where it ended early.
    nve_completed, float32_nve_completed: whether it reached its end. A generated start may be so far from
        equilibrium that float32 heats up in it as well, and then it says nothing of the rounding.
    """

    quantisation: Quantisation
    n_structures: int
    energy_rmse_mev_per_atom: float
    force_rmse_mev_per_a: float
    force_max_mev_per_a: float
    own_force_rmse_mev_per_a: float | None
    nve_completed: bool
    drift_mev_per_atom_per_ps: float | None
    float32_drift_mev_per_atom_per_ps: float | None
    float32_nve_completed: bool = True

    @property
    def limit_mev_per_a(self) -> float:
        """What the force RMSE may be."""
        own = self.own_force_rmse_mev_per_a
        if self.quantisation == "float16":
            return MOST_HALF
        return MOST_COARSE if own is None else min(MOST_COARSE, MOST_OF_OWN * own)

    def objection(self) -> str | None:
        """Why the weights must not be rounded so, or None."""
        if not self.force_rmse_mev_per_a <= self.limit_mev_per_a:
            own = self.own_force_rmse_mev_per_a
            error = "" if own is None else f" (the student's own error is {own:.3g})"
            return (
                f"force RMSE against float32 {self.force_rmse_mev_per_a:.3g} meV/Å, "
                f"at most {self.limit_mev_per_a:.3g}{error}"
            )
        if self.nve_completed or not self.float32_nve_completed:
            return None
        return "its dynamics does not hold, which it does in float32"

    def remedy(self) -> str:
        """What to do instead, or in spite of the objection."""
        other = "" if self.quantisation == "float16" else "--quantize float16, or "
        return f"{other}--force to keep it all the same"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "limit_mev_per_a": self.limit_mev_per_a, "objection": self.objection()}


def measure_loss(
    float32: Student, rounded: Student, structures: Sequence[Atoms], quantisation: Quantisation
) -> Loss:
    """Forces of both on the structures, and NVE dynamics from the first of them."""
    before, after = float32.evaluate(structures), rounded.evaluate(structures)
    difference = EV_TO_MEV * (after.forces - before.forces)
    energy = EV_TO_MEV * (after.energy - before.energy) / np.array([len(atoms) for atoms in structures])
    start = structures[0]
    timestep = 0.5 if 1 in start.numbers else 1.0
    runs = [
        nve_drift(one, start, temperature_k=_NVE_K, timestep_fs=timestep, duration_fs=_NVE_FS, seed=0)
        for one in (rounded, float32)
    ]
    return Loss(
        quantisation=quantisation,
        n_structures=len(structures),
        energy_rmse_mev_per_atom=float(np.sqrt((energy**2).mean())),
        force_rmse_mev_per_a=float(np.sqrt((difference**2).mean())),
        force_max_mev_per_a=float(np.abs(difference).max()),
        own_force_rmse_mev_per_a=own_force_error(float32.card),
        nve_completed=runs[0].completed,
        drift_mev_per_atom_per_ps=runs[0].drift_mev_per_atom_per_ps,
        float32_drift_mev_per_atom_per_ps=runs[1].drift_mev_per_atom_per_ps,
        float32_nve_completed=runs[1].completed,
    )


def slower(latencies: Sequence[Latency]) -> str | None:
    """How much slower than float32 the rounded file is at each size, or None where it is not."""
    pairs = [(one.atoms, one.export_best_ms, one.float32_best_ms) for one in latencies]
    timed = [(atoms, after, before) for atoms, after, before in pairs if after and before]
    ratios = [after / before for _, after, before in timed]
    if not ratios or float(np.exp(np.log(ratios).mean())) <= SLOWER:
        return None
    parts = [
        f"{format_figure(after)} ms instead of {format_figure(before)} at {atoms} atoms"
        for atoms, after, before in timed
    ]
    return "slower than float32: " + ", ".join(parts)
