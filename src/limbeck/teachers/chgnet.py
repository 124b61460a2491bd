"""CHGNet 0.3.0: charge-informed graph network trained on MPtrj crystals, float32.

Source: Deng et al., Nat. Mach. Intell. 2023, 5, 1031 (doi 10.1038/s42256-023-00716-3).
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
from limbeck.teachers.support import count_parameters

CARDS = (
    TeacherCard(
        name="chgnet",
        package="chgnet",
        distribution="chgnet",
        requirement="chgnet==0.4.2",
        extra="chgnet",
        # H-Bi and Ac-Pu: the 89 elements of MPtrj; the network takes Po-Ra silently, untrained.
        elements=frozenset([*range(1, 84), *range(89, 95)]),
        domain="inorganic crystals (MPtrj, PBE and PBE+U with MP2020 corrections), version 0.3.0",
        licence="BSD-3-Clause",
        citation="Deng et al., Nat. Mach. Intell. 2023, 5, 1031; doi 10.1038/s42256-023-00716-3",
        molecular=False,
        atom_energies=True,
        # Its graphs need neighbours: it warns of an isolated atom that the result is likely wrong.
        isolated_atoms=False,
        precision="float32",
        weights="pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
    ),
)


def load(card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, int]:
    """The pretrained CHGNet on ``device`` and its number of parameters."""
    from chgnet.model.dynamics import CHGNetCalculator

    calculator = CHGNetCalculator(use_device=device, return_site_energies=True, on_isolated_atoms="warn")
    potential = RightHandedCells(AsePotential(calculator, card.capabilities, card.name))
    return potential, count_parameters(calculator.model)


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
