"""Limbeck's own training step: schedule, loss, gradient, clipping, optimiser and weight averaging.

Models: ``native:PRESET`` (the C++ core), ``torch:PRESET`` (autograd on the torch reference, through
the same trainer) and ``compiled:PRESET`` (the torch reference traced and compiled), with AdamW like the
peer; ``native-soap:PRESET`` uses SOAP, the default.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import ase.io
import numpy as np
import torch
from compiled_step import CompiledStep
from serve import Opened, serve

import limbeck
from limbeck.core.neighbours import find_pairs
from limbeck.core.structures import StructureBatch
from limbeck.students.specification import flatten, initial_weights, preset_architecture
from limbeck.training.config import TrainingConfig
from limbeck.training.data import TrainingData
from limbeck.training.loop import Stop
from limbeck.training.trainer import Trainer

THREADS = int(os.environ["OMP_NUM_THREADS"])


def read_case(case: dict[str, Any]) -> TrainingData:
    """Structures and labels of a case, without baseline and stress."""
    frames = ase.io.read(case["file"], ":")
    batch = StructureBatch.from_atoms(frames)
    return TrainingData(
        structures=batch,
        pairs=find_pairs(batch, case["cutoff"]),
        energy=np.array([atoms.info["label_energy"] for atoms in frames]),
        forces=np.concatenate([atoms.arrays["label_forces"] for atoms in frames]),
        virial=np.full((len(frames), 3, 3), np.nan),
    )


def open_model(model: str, case: dict[str, Any]) -> Opened:
    kind, _, preset = model.partition(":")
    data = read_case(case)
    elements = tuple(int(z) for z in np.unique(data.structures.numbers))
    architecture = preset_architecture(preset, elements, cutoff=case["cutoff"])
    weights = initial_weights(architecture, seed=0, mean_neighbours=data.mean_neighbours)
    facts: dict[str, Any] = {"parameters": architecture.n_parameters}
    n = len(data)
    chosen = [np.arange(k, min(k + case["batch"], n)) for k in range(0, n, case["batch"])]
    if kind == "compiled":
        compiled = CompiledStep(architecture, weights, data, chosen)
        return Opened(compiled.step, {**facts, "engine": "torch.compile", **compiled.facts})
    # mean square of energies and forces, as the peer; Huber's loss costs the same
    engine, _, soap = kind.partition("-")
    config = TrainingConfig(
        engine=engine, optimizer=soap or "adamw", threads=THREADS, loss="mse", learning_rate=1e-4
    )
    trainer = Trainer(
        architecture,
        data,
        data,
        config,
        Stop(epochs=10**9),
        Path(tempfile.gettempdir()),
        start=flatten(architecture, weights),
        run_hash="",
    )
    batches = itertools.cycle(chosen)
    facts["engine"] = trainer.student.engine.name
    return Opened(lambda: trainer.step(next(batches), len(chosen)), facts)


def describe() -> dict[str, Any]:
    names = ("torch", "numpy", "lightning-fabric", "vesin")
    return {"versions": {"limbeck": limbeck.__version__, **{name: version(name) for name in names}}}


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    serve(open_model, describe)
