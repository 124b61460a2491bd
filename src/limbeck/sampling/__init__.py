"""Structures to label: starting structures, perturbations and molecular dynamics."""

from __future__ import annotations

from limbeck.sampling.config import MD, Rattle, SamplingConfig, Select, Strain, Supercell
from limbeck.sampling.dynamics import sample_md
from limbeck.sampling.frames import read_frames, write_frames
from limbeck.sampling.run import count_evaluations, count_frames, run_sampling
from limbeck.sampling.selection import select_frames
from limbeck.sampling.starts import bulk_structure, read_structures, smiles_conformers

__all__ = [
    "MD",
    "Rattle",
    "SamplingConfig",
    "Select",
    "Strain",
    "Supercell",
    "bulk_structure",
    "count_evaluations",
    "count_frames",
    "read_frames",
    "read_structures",
    "run_sampling",
    "sample_md",
    "select_frames",
    "smiles_conformers",
    "write_frames",
]
