"""Errors of an engine's weights while they train."""

from __future__ import annotations

import numpy as np

from limbeck.students.engine import Engine
from limbeck.training.data import TrainingData


def evaluate_errors(
    engine: Engine, flat: np.ndarray, data: TrainingData, *, max_atoms: int = 4096
) -> dict[str, float]:
    """Errors of weights on prepared data, in the keys of metrics.json; energies without any shift."""
    engine.set_weights(flat)
    counts = data.structures.counts
    energy, forces = [], []
    start = 0
    while start < len(data):
        stop = start + max(1, int(np.searchsorted(np.cumsum(counts[start:]), max_atoms, side="right")))
        out = engine.evaluate(np.arange(start, min(stop, len(data))))
        energy.append(out.energy)
        forces.append(out.forces)
        start = stop
    de = (np.concatenate(energy) - data.energy) / counts * 1e3  # meV/atom
    df = (np.concatenate(forces) - data.forces) * 1e3  # meV/Å
    return {
        "energy_mae_mev_per_atom": float(np.abs(de).mean()),
        "energy_rmse_mev_per_atom": float(np.sqrt((de**2).mean())),
        "force_mae_mev_per_a": float(np.abs(df).mean()),
        "force_rmse_mev_per_a": float(np.sqrt((df**2).mean())),
    }
