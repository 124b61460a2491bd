"""Structures to label: starting structures, perturbations and molecular dynamics."""

from __future__ import annotations

from limbeck.sampling.config import MD, Rattle, SamplingConfig, Strain
from limbeck.sampling.counting import count_evaluations, count_frames
from limbeck.sampling.dynamics import sample_md
from limbeck.sampling.frames import read_frames, write_frames
from limbeck.sampling.kinds import structure_kind, system_kind
from limbeck.sampling.liquids import Liquid, pack_liquid
from limbeck.sampling.moves import Contacts, Melt, Modes, RattleRelax, Torsions
from limbeck.sampling.preparing import Interstitial, Relax, Slab, Supercell, Thin, Vacancy
from limbeck.sampling.run import run_sampling
from limbeck.sampling.schedule import TimeLimit
from limbeck.sampling.starts import bulk_structure, read_folder, read_structures, smiles_conformers

__all__ = [
    "MD",
    "Contacts",
    "Interstitial",
    "Liquid",
    "Melt",
    "Modes",
    "Rattle",
    "RattleRelax",
    "Relax",
    "SamplingConfig",
    "Slab",
    "Strain",
    "Supercell",
    "Thin",
    "TimeLimit",
    "Torsions",
    "Vacancy",
    "bulk_structure",
    "count_evaluations",
    "count_frames",
    "pack_liquid",
    "read_folder",
    "read_frames",
    "read_structures",
    "run_sampling",
    "sample_md",
    "smiles_conformers",
    "structure_kind",
    "system_kind",
    "write_frames",
]
