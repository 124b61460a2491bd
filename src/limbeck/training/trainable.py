"""An engine as a torch module for torch's optimisers, and errors of its weights on prepared data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.students.engine import Engine
from limbeck.training.data import TrainingData


class _EngineFunction(torch.autograd.Function):
    """An engine's outputs, differentiable in the flat weights."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, engine: Engine, chosen: np.ndarray) -> tuple[Tensor, ...]:
        engine.set_weights(flat.detach().numpy())
        out = engine.evaluate(chosen)
        ctx.engine = engine
        return tuple(torch.from_numpy(value) for value in (out.energy, out.forces, out.virial))

    @staticmethod
    def backward(ctx: Any, *seeds: Tensor) -> tuple[Tensor, None, None]:
        return torch.from_numpy(ctx.engine.gradient(*(seed.numpy() for seed in seeds))), None, None


class TrainableStudent(nn.Module):
    """The flat weights of a student on an engine."""

    def __init__(self, engine: Engine, flat: np.ndarray) -> None:
        super().__init__()
        dtype = torch.float64 if engine.precision == "float64" else torch.float32
        self.flat = nn.Parameter(torch.tensor(flat, dtype=dtype))
        self.engine = engine

    def forward(self, chosen: np.ndarray) -> tuple[Tensor, ...]:
        """Energy (S,), forces (N, 3), dE/dε (S, 3, 3) of the chosen structures, float64."""
        return _EngineFunction.apply(self.flat, self.engine, chosen)


def evaluate_errors(
    engine: Engine, flat: np.ndarray, data: TrainingData, *, max_atoms: int = 4096
) -> dict[str, float]:
    """Errors of weights on prepared data, in the keys of metrics.json; energies without any shift."""
    engine.set_weights(flat)
    counts = data.structures.counts
    part = data.structures.offsets[:-1] // max_atoms  # (S,)
    outputs = [engine.evaluate(np.flatnonzero(part == value)) for value in np.unique(part)]
    de = (np.concatenate([out.energy for out in outputs]) - data.energy) / counts * 1e3  # meV/atom
    df = (np.concatenate([out.forces for out in outputs]) - data.forces) * 1e3  # meV/Å
    return {
        "energy_mae_mev_per_atom": float(np.abs(de).mean()),
        "energy_rmse_mev_per_atom": float(np.sqrt((de**2).mean())),
        "force_mae_mev_per_a": float(np.abs(df).mean()),
        "force_rmse_mev_per_a": float(np.sqrt((df**2).mean())),
    }
