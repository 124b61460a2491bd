"""MatterSim: M3GNet trained on inorganic materials over temperature and pressure; by name or from a file.

Source: Yang et al. 2024 (arXiv:2405.04967); the network: Chen, Ong, Nat. Comput. Sci. 2022, 2, 718.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.core.labels import Labels
from limbeck.core.potential import AsePotential, Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.teachers.card import TeacherCard
from limbeck.teachers.crystals import MPTRJ_ELEMENTS
from limbeck.teachers.loaders import close_cells
from limbeck.teachers.support import count_parameters

CARDS = (
    TeacherCard(
        name="mattersim",
        package="mattersim",
        distribution="mattersim",
        requirement="mattersim==1.2.3",
        extra="",
        # The 89 elements of Materials Project, H-Bi and Ac-Pu.
        elements=MPTRJ_ELEMENTS,
        domain="inorganic materials (PBE, PBE+U), 0 to 5000 K and up to 1000 GPa",
        licence="MIT",
        citation="Yang et al. 2024, doi 10.48550/arXiv.2405.04967",
        isolated_atoms=False,
        precision="float32",
        options={"model": "mattersim-v1.0.0-1M"},
        smoke="mattersim.forcefield",
        file_option="model",
        models={"mattersim-v1.0.0-1M": {}, "mattersim-v1.0.0-5M": {}},
    ),
)


def fetch(card: TeacherCard, options: Mapping[str, Any]) -> Path:
    """The file of the named model, downloaded by mattersim where it was not before."""
    from mattersim.utils.download_utils import download_checkpoint

    path = Path(f"~/.local/mattersim/pretrained_models/{options['model']}.pth").expanduser()
    if not path.exists():
        download_checkpoint(path.name, save_folder=str(path.parent))
    return path


def load(card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, int]:
    """The model on ``device`` and its number of parameters.

    The file is a state dict with the network's arguments, and is read without unpickling code.
    """
    import torch
    from loguru import logger
    from mattersim.forcefield import MatterSimCalculator
    from mattersim.forcefield.potential import Potential as Network

    logger.disable("mattersim")
    path = card.model_file(options) or fetch(card, options)
    # mattersim leaves this to torch's default, which was another before 2.6.
    torch.load(path, map_location="cpu", weights_only=True)
    network = Network.from_checkpoint(str(path), device=device, load_training_state=False)
    calculator = MatterSimCalculator(potential=network, device=device)
    # An embedding row for each atomic number, and one for 0.
    largest = int(network.model.max_z)
    elements = frozenset(z for z in card.elements or () if z <= largest)
    if not elements:
        raise InputError(
            "the model has no elements", where=f"teacher mattersim: {path}", got=f"max_z {largest}"
        )
    capabilities = replace(card.capabilities, elements=elements)
    return MatterSimPotential(calculator, capabilities, card.name), count_parameters(network.model)


class MatterSimPotential(AsePotential):
    """Its calculator, for what that misses: slabs and chains, cells of a left-handed basis."""

    def evaluate(self, batch: StructureBatch) -> Labels:
        # It wraps atoms in all three directions whatever pbc says, which cuts a slab in two, and so
        # gets a cell of which no two images see each other.
        network = self.calculator.potential.model.model_args
        gap = max(network["cutoff"], network["threebody_cutoff"])
        frames = batch.to_atoms()
        close_cells(frames, gap)
        labels = super().evaluate(StructureBatch.from_atoms(frames))
        if labels.stress is None or not len(batch):
            return labels
        # It divides by det(cell), of either sign, where a volume is meant.
        stress = labels.stress * np.sign(np.linalg.det(batch.cell))[:, None, None]
        stress[~batch.periodic] = np.nan
        return replace(labels, stress=stress)
