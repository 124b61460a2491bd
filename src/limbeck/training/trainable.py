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
    def forward(
        ctx: Any, flat: Tensor, engine: Engine, chosen: np.ndarray, atom_energies: bool
    ) -> tuple[Tensor, ...]:
        engine.set_weights(flat.detach().numpy())
        out = engine.evaluate(chosen)
        ctx.engine = engine
        wanted = [out.energy, out.forces, out.virial] + [out.atom_energies] * atom_energies
        return tuple(torch.from_numpy(value) for value in wanted)

    @staticmethod
    def backward(ctx: Any, *seeds: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = ctx.engine.gradient(*(seed.numpy() for seed in seeds))
        return torch.from_numpy(gradient), None, None, None


class TrainableStudent(nn.Module):
    """The flat weights of a student on an engine."""

    def __init__(self, engine: Engine, flat: np.ndarray) -> None:
        super().__init__()
        dtype = torch.float64 if engine.precision == "float64" else torch.float32
        self.flat = nn.Parameter(torch.tensor(flat, dtype=dtype))
        self.engine = engine

    def forward(self, chosen: np.ndarray, *, atom_energies: bool = False) -> tuple[Tensor, ...]:
        """Energy (S,), forces (N, 3), dE/dε (S, 3, 3) of the chosen structures, float64.

        ``atom_energies``: they follow, (N,); a loss that leaves them out need not ask for them.
        """
        return _EngineFunction.apply(self.flat, self.engine, chosen, atom_energies)
