"""Structures to label: starting structures, perturbations and molecular dynamics."""

from __future__ import annotations

from limbeck.core.frames import read_frames, write_frames
from limbeck.sampling.config import SamplingConfig, count_evaluations, count_frames
from limbeck.sampling.contacts import Contacts
from limbeck.sampling.defects import Interstitial, Vacancy
from limbeck.sampling.dynamics import MD, Melt
from limbeck.sampling.liquids import Liquid, pack_liquid
from limbeck.sampling.modes import Modes
from limbeck.sampling.perturb import Rattle, Strain, Torsions
from limbeck.sampling.preparing import Relax, Slab, Supercell, Thin
from limbeck.sampling.rattle_relax import RattleRelax
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
    "smiles_conformers",
    "structure_kind",
    "system_kind",
    "write_frames",
]
