"""An engine's hand-derived derivatives as a torch module, for torch's optimisers and fabric."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.students.engine import Engine


class _EngineFunction(torch.autograd.Function):
    """An engine's outputs, differentiable in the flat weights."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, engine: Engine, chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        engine.set_weights(flat.detach().numpy())
        out = engine.evaluate(chosen)
        ctx.engine = engine
        return torch.from_numpy(out.energy), torch.from_numpy(out.forces), torch.from_numpy(out.virial)

    @staticmethod
    def backward(ctx: Any, energy: Tensor, forces: Tensor, virial: Tensor) -> tuple[Tensor, None, None]:
        gradient = ctx.engine.gradient(energy.numpy(), forces.numpy(), virial.numpy())
        return torch.from_numpy(gradient), None, None


class TrainableStudent(nn.Module):
    """The flat weights of a student on an engine."""

    def __init__(self, engine: Engine, flat: np.ndarray) -> None:
        super().__init__()
        dtype = torch.float64 if engine.precision == "float64" else torch.float32
        self.flat = nn.Parameter(torch.tensor(flat, dtype=dtype))
        self.engine = engine

    def forward(self, chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Energy (S,), forces (N, 3), dE/dε (S, 3, 3) of the chosen structures, float64."""
        return _EngineFunction.apply(self.flat, self.engine, chosen)
