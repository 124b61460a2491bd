"""SevenNet-0 and SevenNet-l3i5: equivariant message passing trained on MPtrj crystals, float32.

Source: Park, Kim, Hwang, Han, J. Chem. Theory Comput. 2024, 20, 4857 (doi 10.1021/acs.jctc.4c00190).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.core.potential import AsePotential, Potential
from limbeck.teachers.card import TeacherCard
from limbeck.teachers.support import count_parameters

# The element map of both checkpoints: H-Bi and Ac-Pu, the 89 elements of MPtrj (Deng et al. 2023).
MPTRJ_ELEMENTS = frozenset([*range(1, 84), *range(89, 95)])
_MODEL = {"sevennet-0": "7net-0", "sevennet-l3i5": "7net-l3i5"}


def _card(name: str, weights: str, remark: str) -> TeacherCard:
    return TeacherCard(
        name=name,
        package="sevenn",
        distribution="sevenn",
        requirement="sevenn==0.13.0",
        extra="sevennet",
        elements=MPTRJ_ELEMENTS,
        domain=f"inorganic crystals (MPtrj, PBE and PBE+U relaxations), {remark}; molecules off domain",
        licence="MIT",
        citation="Park et al., J. Chem. Theory Comput. 2024, 20, 4857; doi 10.1021/acs.jctc.4c00190",
        atom_energies=True,
        # Separated atoms cost what PBE says of them: H2O -10.3, H2 -4.8, Si -4.1, Cu -3.4 eV.
        isolated_atoms=True,
        # The checkpoint says is_parity = False: equivariant to rotations alone.
        reflection=False,
        precision="float32",
        weights=weights,
    )


CARDS = (
    _card(
        "sevennet-0",
        "pretrained_potentials/SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
        "version of 11 July 2024",
    ),
    _card(
        "sevennet-l3i5",
        "pretrained_potentials/SevenNet_l3i5/checkpoint_l3i5.pth",
        "l = 3, five interactions: more accurate and about 2.5 times slower",
    ),
)


def load(card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, int]:
    """The pretrained SevenNet on ``device`` and its number of parameters; sets nothing global."""
    from sevenn.calculator import SevenNetCalculator

    calculator = SevenNetCalculator(model=_MODEL[card.name], device=device)
    # Its authors' count leaves out the frozen shifts and scales of the elements.
    n_parameters = count_parameters(calculator.model, frozen=False)
    return AsePotential(calculator, card.capabilities, card.name), n_parameters
