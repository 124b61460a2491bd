"""A training step of the torch reference, traced with its second derivatives and compiled.

``torch.compile`` alone cannot differentiate through ``autograd.grad`` with ``create_graph``; a graph
traced by ``make_fx`` holds energy, forces and the loss's gradient as plain operations, so it can.
Shapes are fixed: pairs are padded with pairs beyond the cutoff, whose messages are exactly zero.
"""

from __future__ import annotations

import itertools
import time

import numpy as np
import torch
import torch._inductor.config
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from limbeck.core.neighbours import Pairs
from limbeck.students.painn import Graph, PaiNN, make_graph
from limbeck.students.specification import Architecture
from limbeck.training.data import TrainingData

Inputs = tuple[Tensor, ...]


class CompiledStep:
    """Loss, gradient, clipping and AdamW on batches of fixed shape."""

    def __init__(
        self,
        architecture: Architecture,
        weights: dict[str, np.ndarray],
        data: TrainingData,
        chosen: list[np.ndarray],
    ) -> None:
        self.model = PaiNN(architecture, weights, torch.float32)
        self.force_scale = float(np.sqrt(np.mean(data.forces**2)))
        self.n_structures = len(chosen[0])
        counts = np.diff(data.pairs.offsets)
        most = max(int(counts[rows].sum()) for rows in chosen)
        inputs = [self._inputs(architecture, data, rows, most) for rows in chosen]
        self.flat = self.model.flat.detach().clone()
        self.optimiser = torch.optim.AdamW([self.flat], lr=1e-4, betas=(0.9, 0.99), weight_decay=0.05)

        # a cache of earlier runs would hide the compilation time
        torch._inductor.config.force_disable_caches = True
        began = time.perf_counter()
        traced = make_fx(self.loss_and_gradient)(self.flat, *inputs[0])
        self.compiled = torch.compile(traced)
        loss, gradient = self.compiled(self.flat, *inputs[0])
        self.facts = {"compile_s": time.perf_counter() - began}
        wanted_loss, wanted = self.loss_and_gradient(self.flat, *inputs[0])
        torch.testing.assert_close(loss, wanted_loss, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
        self.batches = itertools.cycle(inputs)

    def _inputs(self, architecture: Architecture, data: TrainingData, rows: np.ndarray, most: int) -> Inputs:
        """Tensors of one batch, padded to ``most`` pairs with pairs at twice the cutoff."""
        offsets = data.pairs.offsets
        index = np.concatenate([np.arange(offsets[s], offsets[s + 1]) for s in rows])
        spare = most - len(index)
        far = np.tile([[2 * architecture.cutoff, 0.0, 0.0]], (spare, 1))
        ends = np.concatenate([[0], np.cumsum(offsets[rows + 1] - offsets[rows])])
        ends[-1] += spare
        pairs = Pairs(
            first=np.concatenate([data.pairs.first[index], np.zeros(spare, np.int32)]),
            second=np.concatenate([data.pairs.second[index], np.zeros(spare, np.int32)]),
            vectors=np.concatenate([data.pairs.vectors[index], far]),
            offsets=ends,
        )
        batch = data.structures.select(rows)
        graph = make_graph(architecture, batch, pairs, dtype=torch.float32)
        atoms = data.structures.atom_index(rows)
        labels = (batch.counts, data.energy[rows], data.forces[atoms])
        return (
            graph.species,
            graph.structure,
            graph.centre,
            graph.neighbour,
            graph.pair_structure,
            graph.vectors,
            *(torch.tensor(values, dtype=torch.float32) for values in labels),
        )

    def loss_and_gradient(self, flat: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean square of energy per atom and forces, as in ``limbeck.training.loss``, and dL/d(flat)."""
        *parts, counts, energy_label, force_label = inputs
        flat = flat.detach().requires_grad_()
        graph = Graph(*parts, n_structures=self.n_structures)
        energy, forces, _, _ = torch.func.functional_call(self.model, {"flat": flat}, (graph,))
        per_atom = (energy - energy_label) / counts / self.force_scale  # (S,)
        error = (forces - force_label) / self.force_scale  # (N, 3)
        loss = (error * error / 2).mean() + 10.0 * (per_atom * per_atom / 2).mean()
        (gradient,) = torch.autograd.grad(loss, flat)
        return loss.detach(), gradient

    def step(self) -> None:
        _, gradient = self.compiled(self.flat, *next(self.batches))
        self.flat.grad = gradient
        torch.nn.utils.clip_grad_norm_([self.flat], 10.0)
        self.optimiser.step()
