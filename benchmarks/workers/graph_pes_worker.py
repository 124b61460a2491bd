"""graph-pes's PaiNN: predictions, losses and optimiser of its own trainer in a plain loop.

Its trainer (PyTorch Lightning) builds neighbour lists once per structure, and so does this worker. Batches
are either ``prebatched``, which its trainer cannot do with shuffled data, or ``collated`` in every step,
which its trainer does in a separate process. The overhead of Lightning (logging, hooks) is excluded.
"""

from __future__ import annotations

import itertools
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import ase.io
import torch
from graph_pes.atomic_graph import AtomicGraph, to_batch
from graph_pes.models import PaiNN
from graph_pes.training.loss import MSE, PerAtomEnergyLoss, PropertyLoss, TotalLoss
from graph_pes.utils.nn import PerElementParameter
from serve import Opened, serve

THREADS = int(os.environ["OMP_NUM_THREADS"])


def open_model(model: str, case: dict[str, Any]) -> Opened:
    """``model``: channels, layers, radial features and kind of batches, as in ``64x2x12:prebatched``."""
    torch.manual_seed(0)
    shape, _, way = model.partition(":")
    channels, layers, radial = (int(n) for n in shape.split("x"))
    labels = {"label_energy": "energy", "label_forces": "forces"}
    frames = ase.io.read(case["file"], ":")
    graphs = [AtomicGraph.from_ase(atoms, case["cutoff"], property_mapping=labels) for atoms in frames]
    network = PaiNN(channels=channels, layers=layers, radial_features=radial, cutoff=case["cutoff"])
    elements = sorted({int(z) for graph in graphs for z in graph.Z})
    for parameter in network.parameters():
        if isinstance(parameter, PerElementParameter):
            parameter.register_elements(elements)
    network.train()
    loss = TotalLoss([PerAtomEnergyLoss(MSE(), weight=10.0), PropertyLoss("forces", MSE(), weight=1.0)])
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    parts = [graphs[k : k + case["batch"]] for k in range(0, len(graphs), case["batch"])]
    if way == "prebatched":
        batches = itertools.cycle([to_batch(part) for part in parts])
    else:
        batches = (to_batch(part) for part in itertools.cycle(parts))

    def step() -> None:
        batch = next(batches)
        optimiser.zero_grad(set_to_none=True)
        predictions = network.predict(batch, properties=["energy", "forces"])
        loss(network, batch, predictions).loss_value.backward()
        optimiser.step()

    return Opened(step, {"parameters": count_parameters(network, len(elements))})


def count_parameters(network: torch.nn.Module, n_elements: int) -> int:
    """Trainable weights; per-element weights count for the elements that occur."""
    total = 0
    for weight in network.parameters():
        if weight.requires_grad:
            per_element = isinstance(weight, PerElementParameter)
            total += weight.numel() // len(weight) * n_elements if per_element else weight.numel()
    return total


def describe() -> dict[str, Any]:
    return {"versions": {name: version(name) for name in ("graph-pes", "torch", "e3nn", "numpy")}}


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    serve(open_model, describe)
