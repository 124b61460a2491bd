"""Weights in fewer bits: half precision, or bytes with a scale for each output channel.

Only storage shrinks: weights are widened in the graph and all arithmetic stays float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from limbeck.artifact.file import StudentRecord
from limbeck.errors import InputError
from limbeck.export.model import WeightStore

Quantisation = Literal["float16", "bfloat16", "int8"]
QUANTISATIONS: tuple[Quantisation, ...] = ("float16", "bfloat16", "int8")

_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Stored:
    """A student's weights as a file keeps them.

    Attributes
    ----------
    store: what a graph is traced from.
    record: the student with the same weights, rounded, in its own precision: what the file computes.
    """

    store: WeightStore
    record: StudentRecord
    dtype: torch.dtype


def store_weights(record: StudentRecord, quantisation: Quantisation | None) -> Stored:
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
        if value.ndim != 2:
            continue
        if quantisation != "int8":
            kept[name] = value.to(_HALVES[quantisation])
        elif name != "embedding":
            kept[name], scales[name] = round_to_bytes(value)
    store = WeightStore(kept, scales, dtype)
    rounded = {name: value.numpy().copy() for name, value in store().items()}
    strange = [name for name, value in rounded.items() if not np.isfinite(value).all()]
    if strange:
        raise InputError(
            f"weight {strange[0]!r} is beyond the range of {quantisation}",
            wanted=f"at most {torch.finfo(_HALVES[quantisation]).max:g}",
            remedy="--quantize bfloat16",
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
