"""Weights in fewer bits: half precision, or bytes with a scale for each output channel, and what that costs.

Only storage shrinks: weights are widened in the graph and all arithmetic stays float32.
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
from limbeck.export.model import ExportedStudent, StoredNetwork
from limbeck.export.runtimes import Latency
from limbeck.progress import format_figure
from limbeck.runtime.student import Student
from limbeck.units import EV_TO_MEV

Quantisation = Literal["float16", "int8"]
QUANTISATIONS: tuple[Quantisation, ...] = ("float16", "int8")

MOST_HALF = 1.0  #: meV/Å: float16 keeps 11 bits of each weight and must cost next to nothing
MOST_COARSE, MOST_OF_OWN = 5.0, 0.1  #: meV/Å, and share of the student's own force error, for int8
SLOWER = 1.05  #: times float32's; best times of alternating calls scatter by this much


def store_weights(record: StudentArtifact, quantisation: Quantisation | None) -> ExportedStudent:
    """The module of a student with its weights as they are, or rounded.

    Biases and the last layer, a hundredth of the weights, stay as they are: rounded, they would shift
    every energy. int8 leaves the embedding too, and rounds the matrices of linear layers symmetrically,
    with one scale for each output channel.

    Raises
    ------
    InputError: another quantisation; weights beyond the range of float16.
    """
    if quantisation not in (None, *QUANTISATIONS):
        raise InputError("unknown quantisation", got=repr(quantisation), wanted=" or ".join(QUANTISATIONS))
    dtype = torch.float64 if record.dtype == "float64" else torch.float32
    kept = {name: torch.as_tensor(np.array(value)).to(dtype) for name, value in record.weights.items()}
    scales: dict[str, Tensor] = {}
    for name, value in kept.items():
        if value.ndim == 2 and quantisation == "float16":
            kept[name] = value.to(torch.float16)
        elif value.ndim == 2 and quantisation == "int8" and name != "embedding":
            kept[name], scales[name] = round_to_bytes(value)
    network = StoredNetwork(record.architecture, kept, scales, dtype)
    if quantisation is None:
        return ExportedStudent(record, network)
    rounded = {name: value.numpy().copy() for name, value in network.named_weights().items()}
    for name, weight in rounded.items():
        if not np.isfinite(weight).all():
            wanted = f"at most {torch.finfo(torch.float16).max:g}"
            what = f"weight {name!r} is beyond the range of float16"
            raise InputError(what, wanted=wanted, remedy="--quantize int8, or none")
    return ExportedStudent(replace(record, weights=rounded), network)


def round_to_bytes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(inputs, outputs) -> int8 of that shape and the scale of each output, (outputs,)."""
    scale = weight.abs().amax(0) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.round(weight / scale).to(torch.int8), scale


def own_force_error(card: dict[str, Any]) -> float | None:
    """The student's force RMSE, meV/Å, test or else on validation structures, as on its card."""
    for split in ("test", "validation"):
        figures = (card.get("metrics") or {}).get(split) or {}
        for part in (figures, figures.get("all") or {}):
            if isinstance(value := part.get("force_rmse_mev_per_a"), (int, float)):
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
    nve_completed, float32_nve_completed: whether it reached its end. Where float32 does not, as from a
        generated start far from equilibrium, the run shows nothing of the rounding.
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
            found, most = self.force_rmse_mev_per_a, self.limit_mev_per_a
            return f"force RMSE against float32 {found:.3g} meV/Å, at most {most:.3g}{error}"
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
    force = EV_TO_MEV * (after.forces - before.forces)
    energy = EV_TO_MEV * (after.energy - before.energy) / np.array([len(atoms) for atoms in structures])
    start = structures[0]
    setup = {"temperature_k": 300.0, "timestep_fs": 0.5 if 1 in start.numbers else 1.0, "duration_fs": 250.0}
    run, plain = (nve_drift(one, start, **setup, seed=0) for one in (rounded, float32))
    return Loss(
        quantisation,
        len(structures),
        energy_rmse_mev_per_atom=float(np.sqrt((energy**2).mean())),
        force_rmse_mev_per_a=float(np.sqrt((force**2).mean())),
        force_max_mev_per_a=float(np.abs(force).max()),
        own_force_rmse_mev_per_a=own_force_error(float32.card),
        nve_completed=run.completed,
        drift_mev_per_atom_per_ps=run.drift_mev_per_atom_per_ps,
        float32_drift_mev_per_atom_per_ps=plain.drift_mev_per_atom_per_ps,
        float32_nve_completed=plain.completed,
    )


def slower(latencies: Sequence[Latency]) -> str | None:
    """How much slower than float32 the rounded file is at each size; None where it is not."""
    pairs = [(one.atoms, one.export_best_ms, one.float32_best_ms) for one in latencies]
    timed = [(atoms, after, before) for atoms, after, before in pairs if after and before]
    if not timed or float(np.exp(np.mean([np.log(after / before) for _, after, before in timed]))) <= SLOWER:
        return None
    show = format_figure
    parts = [f"{show(after)} ms instead of {show(before)} at {atoms} atoms" for atoms, after, before in timed]
    return "slower than float32: " + ", ".join(parts)
