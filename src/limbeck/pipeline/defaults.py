"""What is sampled where the user says nothing: by kind of system and number of labels affordable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from limbeck.sampling.config import MD, Rattle, SamplingConfig, Strain, Supercell

HYDROGEN_TIMESTEP_FS, OTHER_TIMESTEP_FS = 0.5, 2.0
CRYSTAL_TEMPERATURES_K = (300.0, 600.0, 900.0, 1200.0)
MOLECULE_TEMPERATURES_K = (300.0, 500.0, 700.0, 1000.0)


def timestep_fs(starts: Sequence[Atoms]) -> float:
    """0.5 fs where hydrogen moves, else 2 fs (1 fs with other light elements)."""
    lightest = min(int(a.numbers.min()) for a in starts)
    return HYDROGEN_TIMESTEP_FS if lightest == 1 else 1.0 if lightest < 10 else OTHER_TIMESTEP_FS


def default_sampling(starts: Sequence[Atoms], labels: int, seed: int) -> SamplingConfig:
    """Rattled (and, for crystals, strained) frames, then MD by a scout: a quick student of these.

    About ``labels`` frames in all. Rattled frames alone make no stable dynamics, and dynamics
    driven by the teacher spends most of its evaluations on frames too alike to be worth a label.
    """
    periodic = any(a.pbc.any() for a in starts)
    step = timestep_fs(starts)
    temperatures = CRYSTAL_TEMPERATURES_K if periodic else MOLECULE_TEMPERATURES_K
    first, second = max(8, round(0.25 * labels)), max(8, round(0.3 * labels))
    third = max(8, labels - first - second)
    steps: list[Supercell | Rattle | Strain | MD] = []
    if periodic and max(len(a) for a in starts) < 32:
        steps.append(Supercell(max_atoms=64))
    if periodic:
        n_strain = max(1, round(first / 4 / len(starts)))
        steps.append(Strain(max=0.05, n=n_strain))
        n_rattle = max(1, round(first * 3 / 4 / 3 / (n_strain * len(starts))))
        steps.append(Rattle(stdev_a=(0.03, 0.08, 0.15), n=n_rattle, from_="strain"))
    else:
        steps.append(Rattle(stdev_a=(0.02, 0.04, 0.08), n=max(2, round(first / 3 / len(starts)))))
    source = "strain" if periodic else None
    for name, share, length in (("scout-md", second, 20.0), ("scout-md-2", third, 30.0)):
        trajectories = int(np.clip(round(share / len(temperatures) / 8), 1, 12))
        frames = max(2, round(share / len(temperatures) / trajectories))
        steps.append(
            MD(
                name=name,
                from_=source,
                temperature_K=temperatures,
                starts=trajectories,
                frames=frames,
                every_fs=length,
                equilibrate_fs=200.0,
                timestep_fs=step,
                from_relaxed=True,
                driver="scout",
            )
        )
    return SamplingConfig(seed=seed + 1, steps=tuple(steps))


def default_heldout(starts: Sequence[Atoms], frames: int, seed: int) -> SamplingConfig:
    """Three trajectories of the teacher from the unstrained starts, with a seed of their own."""
    periodic = any(a.pbc.any() for a in starts)
    temperatures = (300.0, 600.0, 1000.0) if not periodic else (300.0, 600.0, 1200.0)
    steps: list[Supercell | MD] = []
    if periodic and max(len(a) for a in starts) < 32:
        steps.append(Supercell(max_atoms=64))
    steps.append(
        MD(
            temperature_K=temperatures,
            starts=1,
            frames=max(2, frames // 3),
            every_fs=25.0,
            equilibrate_fs=150.0,
            timestep_fs=max(1.0, timestep_fs(starts)),
            from_relaxed=True,
        )
    )
    return SamplingConfig(seed=seed + 101, start_index=(0,), steps=tuple(steps))
