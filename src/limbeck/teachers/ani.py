"""ANI-1x: an ensemble of eight atomic-environment networks for organic molecules of H, C, N, O.

Source: Smith, Nebgen, Lubbers, Isayev, Roitberg, J. Chem. Phys. 2018, 148, 241733
(doi 10.1063/1.5023802).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.units import Hartree

from limbeck.core.labels import Labels
from limbeck.core.potential import Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.teachers.card import TeacherCard
from limbeck.teachers.support import count_parameters

_FOLDER = "resources/ani-1x_8x"
_MEMBERS = 8

CARDS = (
    TeacherCard(
        name="ani-1x",
        package="torchani",
        distribution="torchani",
        requirement="torchani==2.2.4",
        extra="",
        elements=frozenset([1, 6, 7, 8]),
        domain="organic molecules (wB97X/6-31G*, active learning), neutral and closed-shell",
        licence="MIT",
        citation="Smith et al., J. Chem. Phys. 2018, 148, 241733; doi 10.1063/1.5023802",
        atom_energies=True,
        # Its atomic zeros are a linear fit to molecules, and no lone atom was in its training set.
        isolated_atoms=False,
        precision="float64",
        weights=_FOLDER,
        options={"dtype": "float64"},
        choices={"dtype": ("float32", "float64")},
        environment="ani",
        smoke="torchani.neurochem",
    ),
)


def load(card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, int]:
    """The eight networks on ``device`` and their number of parameters.

    Read from the wheel's resource files (its ``ANI1x()`` would download them again). They were trained
    in float32; float64 keeps the differences of energies of hundreds of Hartree.
    """
    import torch
    import torchani
    from torchani import AEVComputer, SpeciesConverter, neurochem
    from torchani.models import BuiltinEnsemble

    folder = Path(torchani.__file__).parent / _FOLDER
    constants = neurochem.Constants(str(next(folder.glob("*.params"))))
    shifter, zeros = neurochem.load_sae(str(folder / "sae_linfit.dat"), return_dict=True)
    model = BuiltinEnsemble(
        SpeciesConverter(constants.species),
        AEVComputer(**constants),
        neurochem.load_model_ensemble(constants.species, str(folder / "train"), _MEMBERS),
        shifter,
        constants.species_to_tensor,
        constants,
        zeros,
        periodic_table_index=True,
    )
    dtype = options["dtype"]
    model = model.to(device=device, dtype=getattr(torch, dtype)).requires_grad_(False)
    capabilities = replace(card.capabilities, precision=dtype)
    return AniPotential(model, capabilities, card.name), count_parameters(model)


class AniPotential(Potential):
    """The mean of an ANI ensemble, one structure at a time, each with one backward pass."""

    def __init__(self, model: Any, capabilities: Capabilities, name: str) -> None:
        self.model, self.capabilities, self.name = model, capabilities, name

    def evaluate(self, batch: StructureBatch) -> Labels:
        energy, forces, atom_energies = np.zeros(len(batch)), [], []
        stress = np.full((len(batch), 3, 3), np.nan)
        for s, frame in enumerate(batch.to_atoms()):
            of_atoms, gradient, by_strain = self._derive(frame)
            energy[s] = of_atoms.sum()
            forces.append(-gradient)
            atom_energies.append(of_atoms)
            if frame.pbc.all():
                stress[s] = (by_strain + by_strain.T) / (2 * frame.get_volume())
        return Labels(
            energy=energy,
            forces=np.concatenate(forces) if forces else np.zeros((0, 3)),
            stress=stress,
            atom_energies=np.concatenate(atom_energies) if atom_energies else np.zeros(0),
        )

    def _derive(self, frame: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Atomic energies (N,) in eV, dE/dx (N, 3) in eV/Å, dE/dstrain (3, 3) in eV."""
        import torch

        like = next(self.model.parameters())
        if frame.pbc.any():
            frame.wrap()  # its images are those of atoms within the cell
        strain = torch.eye(3, dtype=like.dtype, device=like.device, requires_grad=True)
        positions = torch.tensor(frame.positions, dtype=like.dtype, device=like.device)
        positions.requires_grad_()
        numbers = torch.tensor(frame.numbers, dtype=torch.long, device=like.device)[None]  # (1, N)
        periodic = {}
        if frame.pbc.any():
            cell = torch.tensor(np.array(frame.cell.complete()), dtype=like.dtype, device=like.device)
            periodic = {"cell": cell @ strain, "pbc": torch.tensor(frame.pbc, device=like.device)}
        of_atoms = self.model.atomic_energies((numbers, (positions @ strain)[None]), **periodic).energies[0]
        gradient, by_strain = torch.autograd.grad(of_atoms.sum(), (positions, strain), allow_unused=True)
        parts = (of_atoms.detach(), gradient, by_strain)
        return tuple(  # type: ignore[return-value]
            np.zeros(shape) if part is None else part.cpu().double().numpy() * Hartree
            for part, shape in zip(parts, ((len(frame),), (len(frame), 3), (3, 3)), strict=True)
        )
