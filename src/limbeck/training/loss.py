"""The loss (energy per atom, forces, stress where known), and schedules of its weights and learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def penalty(x: Tensor, kind: str, delta: float) -> Tensor:
    """x² / 2, or Huber's function of it: linear beyond delta."""
    if kind == "mse":
        return x * x / 2
    size = x.abs()
    return torch.where(size < delta, x * x / 2, delta * (size - delta / 2))


def batch_loss(
    errors: Sequence[Tensor],
    counts: Tensor,
    *,
    force_scale: float,
    weights: tuple[float, float, float],
    kind: str,
    delta: float,
) -> Tensor:
    """Loss of a batch, dimensionless.

    Parameters
    ----------
    errors: of energies, (S,) eV, forces, (N, 3) eV/Å, and virials, (S, 3, 3) eV, NaN where unknown.
    counts: (S,) atoms.  force_scale: rms force of the labels, eV/Å, which makes all terms dimensionless
    (energies and virials per atom are divided by force_scale times 1 Å).
    weights: energy, forces, stress.
    """
    energy_error, force_error, virial_error = errors
    w_energy, w_forces, w_stress = weights
    per_atom = energy_error / counts / force_scale  # (S,)
    # energies stay quadratic, since the end of training is for their outliers
    total = (per_atom * per_atom / 2).mean() * w_energy
    total = total + penalty(force_error / force_scale, kind, delta).mean() * w_forces
    known = torch.isfinite(virial_error).all(dim=2).all(dim=1)  # (S,)
    if bool(known.any()):
        strain = virial_error[known] / counts[known, None, None] / force_scale  # (S', 3, 3)
        total = total + penalty(strain, kind, delta).mean() * w_stress
    return total


def learning_rate(done: float, peak: float, warmup: float) -> float:
    """Linear warm-up, then half a cosine down to one thousandth of the peak at ``done`` = 1."""
    done = min(max(done, 0.0), 1.0)
    if done < warmup:
        return peak * max(done / warmup, 0.01)
    fall = (done - warmup) / (1 - warmup)
    return peak * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * fall)))


def energy_weight(done: float, ends: tuple[float, float]) -> float:
    """Geometric from the first to the second value over the last half of the run."""
    first, last = ends
    if first <= 0 or last <= 0:
        return last if done > 0.5 else first
    rise = min(max(2 * done - 1, 0.0), 1.0)
    return first * (last / first) ** rise
