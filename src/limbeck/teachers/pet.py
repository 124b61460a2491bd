"""PET-MAD and other point-edge transformers of metatrain, from a file.

Source: Mazitov et al., Nat. Commun. 2025, 16, 10653 (PET-MAD); Pozdnyakov, Ceriotti, NeurIPS 2023
(the network, arXiv:2305.19302); metatomic: Bigi et al. 2025 (arXiv:2508.15704).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from limbeck.core.labels import Labels
from limbeck.core.potential import Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.teachers.card import TeacherCard
from limbeck.teachers.support import count_parameters

CARDS = (
    TeacherCard(
        name="pet-mad",
        package="metatrain",
        distribution="metatrain",
        requirement="metatrain==2026.4.1",
        extra="",
        elements=None,
        domain="by model: materials and molecules (PET-MAD), or what the file was trained on",
        licence="by model (PET-MAD BSD-3-Clause); the package BSD-3-Clause",
        citation="Mazitov et al., Nat. Commun. 2025, 16, 10653; doi 10.1038/s41467-025-65662-7",
        atom_energies=True,
        # Its energies of lone atoms are a linear fit to the training set.
        isolated_atoms=False,
        # The network learns symmetry under rotation and reflection, and has it approximately.
        rotation=False,
        reflection=False,
        precision="float32",
        options={"model": None},
        smoke="metatrain.pet",
        file_option="model",
        unpickles=True,
    ),
)


def load(card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, int]:
    """A checkpoint (``.ckpt``) or an exported model (``.pt``) on ``device``; elements are its types.

    A checkpoint is unpickled; of the two, files as released are checkpoints.
    """
    from metatomic_ase import MetatomicCalculator
    from metatrain.utils.io import is_exported_file, load_model

    path = card.model_file(options)
    where = f"teacher {card.name}: {path}"
    model = load_model(str(path))
    if not is_exported_file(str(path)):
        model = model.export()
    for weight in model.parameters():
        weight.requires_grad_(False)  # else each label pays for the gradients of the weights too
    said = model.capabilities()
    if "energy" not in said.outputs:
        raise InputError(
            "the model gives no energy", where=where, got=", ".join(said.outputs), wanted="an output energy"
        )
    # A list of neighbours kept from the structure before would order sums by what that was.
    calculator = MetatomicCalculator(model, device=device, uncertainty_threshold=None, neighbor_skin=0.0)
    capabilities = replace(
        card.capabilities, elements=frozenset(int(z) for z in said.atomic_types), precision=said.dtype
    )
    return PetPotential(calculator, capabilities, card.name), count_parameters(model)


class PetPotential(Potential):
    """A metatomic calculator, asked for all in one evaluation: ASE's calls would take two."""

    def __init__(self, calculator: Any, capabilities: Capabilities, name: str) -> None:
        self.calculator, self.capabilities, self.name = calculator, capabilities, name

    def evaluate(self, batch: StructureBatch) -> Labels:
        energy, stress = np.zeros(len(batch)), np.full((len(batch), 3, 3), np.nan)
        forces, atom_energies = [np.zeros((0, 3))], [np.zeros(0)]
        for s, frame in enumerate(batch.to_atoms()):
            said = self.calculator.compute_energy(frame, compute_forces_and_stresses=True, per_atom=True)
            energy[s] = said["energy"]
            forces.append(said["forces"])
            atom_energies.append(said["energies"])
            if batch.periodic[s]:
                # The strain's gradient has a part that turns the structure, which is not zero here.
                stress[s] = (said["stress"] + said["stress"].T) / 2
        return Labels(
            energy=energy,
            forces=np.concatenate(forces),
            stress=stress,
            atom_energies=np.concatenate(atom_energies),
        )
