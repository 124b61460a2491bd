"""What is sampled where the user says nothing: by kind of system and number of labels affordable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from limbeck.sampling.config import MD, Rattle, SamplingConfig, Strain, Supercell
from limbeck.sampling.counting import count_evaluations, count_frames

HYDROGEN_TIMESTEP_FS, OTHER_TIMESTEP_FS = 0.5, 2.0
CRYSTAL_TEMPERATURES_K = (300.0, 600.0, 900.0, 1200.0)
MOLECULE_TEMPERATURES_K = (300.0, 500.0, 700.0, 1000.0)
#: a cell with fewer atoms than this an Å³ holds a molecule in empty space (liquids have 0.05 and more)
LEAST_DENSITY_PER_A3 = 0.01
SUPERCELL_ATOMS = 64

#: held-out trajectories from the richest to the least: how many temperatures, equilibration and
#: spacing in fs, frames of each
_HELDOUT = (
    (3, 150.0, 25.0, 20),
    (3, 150.0, 25.0, 10),
    (3, 150.0, 25.0, 5),
    (3, 100.0, 20.0, 3),
    (2, 75.0, 15.0, 3),
    (1, 40.0, 10.0, 4),
)


def timestep_fs(starts: Sequence[Atoms]) -> float:
    """0.5 fs where hydrogen moves, else 2 fs (1 fs with other light elements)."""
    lightest = min(int(a.numbers.min()) for a in starts)
    return HYDROGEN_TIMESTEP_FS if lightest == 1 else 1.0 if lightest < 10 else OTHER_TIMESTEP_FS


def is_crystal(atoms: Atoms) -> bool:
    """Periodic in three directions and filled; a slab or a molecule in a box is none."""
    return bool(atoms.pbc.all()) and len(atoms) / atoms.get_volume() > LEAST_DENSITY_PER_A3


def temperatures_K(starts: Sequence[Atoms]) -> tuple[float, ...]:
    """Those of molecules where carbon and hydrogen are: their crystals and liquids decompose sooner."""
    organic = any({1, 6} <= set(a.numbers.tolist()) for a in starts)
    crystal = any(is_crystal(a) for a in starts) and not organic
    return CRYSTAL_TEMPERATURES_K if crystal else MOLECULE_TEMPERATURES_K


def default_sampling(starts: Sequence[Atoms], labels: int, seed: int, scouts: int = 2) -> SamplingConfig:
    """Rattled (and, for crystals, strained) frames, then MD by a scout: a quick student of these.

    About ``labels`` frames in all. Rattled frames alone make no stable dynamics, and dynamics
    driven by the teacher spends most of its evaluations on frames too alike to be worth a label.
    ``scouts``: 0 to 2 of those dynamics; 0 where there is no time for a scout to learn.
    """
    crystal = all(is_crystal(a) for a in starts)
    temperatures = temperatures_K(starts)
    shares = ((1.0,), (0.4, 0.6), (0.25, 0.3, 0.45))[scouts]
    first, *driven = (max(8, round(share * labels)) for share in shares)
    steps: list[Supercell | Rattle | Strain | MD] = _enlarged(starts)
    if crystal:
        n_strain = max(1, round(first / 4 / len(starts)))
        steps.append(Strain(max=0.05, n=n_strain))
        n_rattle = max(1, round(first * 3 / 4 / 3 / (n_strain * len(starts))))
        steps.append(Rattle(stdev_a=(0.03, 0.08, 0.15), n=n_rattle, from_="strain"))
    else:
        steps.append(Rattle(stdev_a=(0.02, 0.04, 0.08), n=max(2, round(first / 3 / len(starts)))))
    for name, wanted, spacing in zip(("scout-md", "scout-md-2"), driven, (20.0, 30.0), strict=False):
        trajectories = int(np.clip(round(wanted / len(temperatures) / 8), 1, 12))
        steps.append(
            MD(
                name=name,
                from_="strain" if crystal else None,
                temperature_K=temperatures,
                starts=trajectories,
                frames=max(2, round(wanted / len(temperatures) / trajectories)),
                every_fs=spacing,
                equilibrate_fs=200.0,
                timestep_fs=timestep_fs(starts),
                from_relaxed=True,
                driver="scout",
            )
        )
    return SamplingConfig(seed=seed + 1, steps=tuple(steps))


def default_heldout(starts: Sequence[Atoms], evaluations: float, seed: int) -> SamplingConfig:
    """Trajectories of the teacher from the first, unstrained start, with a seed of their own.

    Three of 20 frames each where ``evaluations`` of the teacher allow it, else fewer and shorter.
    """
    hottest = (300.0, 600.0, temperatures_K(starts[:1])[-1])
    chosen = SamplingConfig()
    for count, equilibrate, spacing, frames in _HELDOUT:
        step = MD(
            temperature_K=(hottest, hottest[::2], hottest[1:2])[3 - count],
            starts=1,
            frames=frames,
            every_fs=spacing,
            equilibrate_fs=equilibrate,
            timestep_fs=max(1.0, timestep_fs(starts)),
            from_relaxed=True,
        )
        chosen = SamplingConfig(seed=seed + 101, start_index=(0,), steps=(*_enlarged(starts[:1]), step))
        if count_evaluations(chosen, 1) + count_frames(chosen, 1) <= evaluations:
            break
    return chosen


def _enlarged(starts: Sequence[Atoms]) -> list[Supercell | Rattle | Strain | MD]:
    """A supercell where every start is a crystal of a small cell."""
    small = all(is_crystal(a) and len(a) < SUPERCELL_ATOMS // 2 for a in starts)
    return [Supercell(max_atoms=SUPERCELL_ATOMS)] if small else []
