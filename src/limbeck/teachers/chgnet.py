"""CHGNet 0.3.0 and its r2SCAN version: charge-informed graph networks for crystals, float32.

Source: Deng et al., Nat. Mach. Intell. 2023, 5, 1031 (doi 10.1038/s42256-023-00716-3);
r2SCAN: Huang et al., npj Comput. Mater. 2025 (doi 10.1038/s41524-025-01796-y).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from ase.units import GPa

from limbeck.core.labels import Labels
from limbeck.core.potential import AsePotential, Potential
from limbeck.core.structures import StructureBatch
from limbeck.teachers.card import TeacherCard
from limbeck.teachers.loaders import Batched
from limbeck.teachers.support import count_parameters

_VERSION = {"chgnet": "0.3.0", "chgnet-r2scan": "r2scan"}


def _card(name: str, weights: str, domain: str, citation: str) -> TeacherCard:
    return TeacherCard(
        name=name,
        package="chgnet",
        distribution="chgnet",
        requirement="chgnet==0.4.2",
        extra="chgnet",
        # H-Bi and Ac-Pu: the 89 elements of MPtrj; the network takes Po-Ra silently, untrained.
        elements=frozenset([*range(1, 84), *range(89, 95)]),
        domain=domain,
        licence="BSD-3-Clause",
        citation=citation,
        molecular=False,
        atom_energies=True,
        # Its graphs need neighbours: it warns of an isolated atom that the result is likely wrong.
        isolated_atoms=False,
        precision="float32",
        batch_atoms=32,
        weights=weights,
    )


CARDS = (
    _card(
        "chgnet",
        "pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
        "inorganic crystals (MPtrj, PBE and PBE+U with MP2020 corrections), version 0.3.0",
        "Deng et al., Nat. Mach. Intell. 2023, 5, 1031; doi 10.1038/s42256-023-00716-3",
    ),
    _card(
        "chgnet-r2scan",
        "pretrained/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
        "inorganic crystals (MP-r2SCAN, fine-tuned from version 0.3.0), no corrections",
        "Huang et al., npj Comput. Mater. 2025, 11; doi 10.1038/s41524-025-01796-y",
    ),
)


def load(card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, int]:
    """The pretrained CHGNet on ``device`` and its number of parameters."""
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator

    model = CHGNet.load(model_name=_VERSION[card.name], use_device=device, verbose=False)
    calculator = CHGNetCalculator(
        model, use_device=device, return_site_energies=True, on_isolated_atoms="warn"
    )
    one_by_one = AsePotential(calculator, card.capabilities, card.name)
    potential = RightHandedCells(Batched(one_by_one, _Together(model)))
    return potential, count_parameters(model)


class _Together:
    """Several structures in one graph; magnetic moments, which no label holds, are left out."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, batch: StructureBatch) -> Labels:
        from pymatgen.io.ase import AseAtomsAdaptor

        graphs = [self.model.graph_converter(AseAtomsAdaptor.get_structure(a)) for a in batch.to_atoms()]
        found = self.model.predict_graph(
            graphs, task="efs", return_site_energies=True, batch_size=len(graphs)
        )
        # Energies are means over atoms where the network is intensive; stress is in GPa.
        factors = batch.counts if self.model.is_intensive else np.ones(len(batch))
        return Labels(
            energy=np.array([float(one["e"] * n) for one, n in zip(found, factors, strict=True)]),
            forces=np.concatenate([one["f"] for one in found]).astype(np.float64),
            stress=np.array([one["s"] * GPa for one in found], np.float64),
            atom_energies=np.concatenate([one["site_energies"] for one in found]).astype(np.float64),
        )


class RightHandedCells(Potential):
    """A Potential that is asked in right-handed cells only.

    CHGNet divides the stress by the signed volume, so a left-handed cell flips its sign (seen in 0.4.2).
    The negatives of the three lattice vectors span the same lattice with the other handedness.
    """

    def __init__(self, inner: Potential) -> None:
        self.inner, self.name, self.capabilities = inner, inner.name, inner.capabilities

    def evaluate(self, batch: StructureBatch) -> Labels:
        handedness = np.where(np.linalg.det(batch.cell) < 0, -1.0, 1.0)  # (S,)
        return self.inner.evaluate(replace(batch, cell=batch.cell * handedness[:, None, None]))

    def close(self) -> None:
        self.inner.close()
