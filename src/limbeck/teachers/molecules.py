"""SO3LR: SO3krates with electrostatics and dispersion, for organic and biological molecules.

Source: Kabylda et al., J. Am. Chem. Soc. 2025 (doi 10.1021/jacs.5c09558).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from limbeck.core.labels import Labels
from limbeck.core.potential import AsePotential, Potential
from limbeck.core.structures import StructureBatch
from limbeck.teachers.card import TeacherCard
from limbeck.teachers.loaders import Batched
from limbeck.teachers.support import count_parameters

CARDS = (
    TeacherCard(
        name="so3lr",
        package="so3krates_torch",
        distribution="so3krates-torch",
        requirement="so3krates-torch==0.2.1",
        extra="so3lr",
        # H C N O F P S Cl, the eight elements that the paper names; its network takes any silently.
        elements=frozenset([1, 6, 7, 8, 9, 15, 16, 17]),
        domain="organic molecules, their complexes, biomolecules and solvents (PBE0+MBD), closed shells",
        licence="MIT",
        citation="Kabylda et al., J. Am. Chem. Soc. 2025; doi 10.1021/jacs.5c09558",
        # Trained on whole molecules only: measured against its own single atoms the atomization energy
        # of H2 is 8.2 eV (4.75 in nature) and of water 16.1 eV (10.1), so these atoms mean nothing.
        isolated_atoms=False,
        # Its package reads info["charge"]. It has an input for spin too, but was trained on singlets alone.
        charge=True,
        precision="float64",
        weights="pretrained/so3lr/so3lr.model",
        batch_atoms=128,
        options={"dtype": "float64"},
        choices={"dtype": ("float32", "float64")},
    ),
)


def load(card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, int]:
    """The pretrained SO3LR on ``device`` and its number of parameters.

    It sets torch's global default dtype, so it needs its own process.

    float64 unless ``dtype`` says float32: total energies are thousands of eV, so float32 keeps
    differences of energy to about 1 meV only.
    """
    from so3krates_torch.calculator.so3 import SO3LRCalculator

    dtype = options["dtype"]
    # Stress costs about 5% and cannot be asked for structure by structure.
    calculator = SO3LRCalculator(device=device, default_dtype=dtype, compute_stress=True)
    # The calculator freezes every weight to evaluate.
    one_by_one = AsePotential(calculator, replace(card.capabilities, precision=dtype), card.name)
    potential = Batched(one_by_one, _Together(calculator))
    return potential, sum(count_parameters(network) for network in calculator.models)


class _Together:
    """Several structures in one graph, made as the package's calculator makes that of one."""

    def __init__(self, calculator: Any) -> None:
        self.calculator = calculator

    def __call__(self, batch: StructureBatch) -> Labels:
        from so3krates_torch.data.atomic_data import AtomicData
        from so3krates_torch.data.utils import config_from_atoms
        from so3krates_torch.tools import torch_geometric

        one = self.calculator
        one.key_specification.update(arrays_keys={one.charges_key: "Qs"})
        graphs = [
            AtomicData.from_config(
                config_from_atoms(atoms, key_specification=one.key_specification),
                z_table=one.z_table,
                cutoff=one.r_max,
                cutoff_lr=one.r_max_lr,
            )
            for atoms in batch.to_atoms()
        ]
        joined = torch_geometric.batch.Batch.from_data_list(graphs).to(one.device)
        found = one.models[0](joined.to_dict(), compute_stress=True)
        stress = found["stress"].detach().cpu().numpy().astype(np.float64).reshape(-1, 3, 3)
        stress[~batch.periodic] = np.nan
        return Labels(
            energy=found["energy"].detach().cpu().numpy().astype(np.float64),
            forces=found["forces"].detach().cpu().numpy().astype(np.float64),
            stress=stress,
        )
