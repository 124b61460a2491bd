"""The loss: energy an atom, forces, stress where it is known, atomic energies where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossTerms:
    """Weighted terms of one batch; ``total`` is what is minimised (dimensionless)."""

    total: Tensor
    energy: Tensor
    forces: Tensor
    stress: Tensor
    atoms: Tensor | None = None


def penalty(x: Tensor, kind: str, delta: float) -> Tensor:
    """x² / 2, or Huber's function of it: linear beyond delta."""
    if kind == "mse":
        return x * x / 2
    size = x.abs()
    return torch.where(size < delta, x * x / 2, delta * (size - delta / 2))


def batch_loss(
    energy_error: Tensor,
    force_error: Tensor,
    virial_error: Tensor,
    counts: Tensor,
    *,
    force_scale: float,
    weights: tuple[float, float, float],
    kind: str,
    delta: float,
    atom_error: Tensor | None = None,
    atom_weight: float = 0.0,
) -> LossTerms:
    """Loss of a batch.

    Parameters
    ----------
    energy_error: (S,) eV.  force_error: (N, 3) eV/Å.  virial_error: (S, 3, 3) eV, NaN where unknown.
    counts: (S,) atoms.  force_scale: rms force of the labels, eV/Å, which makes all terms dimensionless
    (energies and virials an atom are compared with force_scale times 1 Å).
    weights: energy, forces, stress.  atom_error: (N,) eV, of the atomic energies, NaN where unknown, or
    None for a loss without them, which then costs nothing; atom_weight: its weight.
    """
    w_energy, w_forces, w_stress = weights
    per_atom = energy_error / counts / force_scale  # (S,)
    forces = penalty(force_error / force_scale, kind, delta).mean() * w_forces
    # the energy stays quadratic: its outliers are what the end of training is to remove
    energy = (per_atom * per_atom / 2).mean() * w_energy
    known = torch.isfinite(virial_error).all(dim=2).all(dim=1)  # (S,)
    stress = forces.new_zeros(())
    if bool(known.any()):
        strain = virial_error[known] / counts[known, None, None] / force_scale  # (S', 3, 3)
        stress = penalty(strain, kind, delta).mean() * w_stress
    total, atoms = energy + forces + stress, None
    if atom_error is not None:
        given = atom_error[torch.isfinite(atom_error)] / force_scale  # (N',)
        atoms = penalty(given, kind, delta).sum() / max(len(given), 1) * atom_weight
        total = total + atoms
    return LossTerms(total=total, energy=energy, forces=forces, stress=stress, atoms=atoms)
