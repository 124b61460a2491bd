"""SO3LR: SO3krates with electrostatics and dispersion, for organic and biological molecules.

Source: Kabylda et al., J. Am. Chem. Soc. 2025 (doi 10.1021/jacs.5c09558).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from limbeck.core.potential import AsePotential, Potential
from limbeck.errors import InputError
from limbeck.teachers.card import TeacherCard
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
        domain="organic molecules, their complexes, biomolecules and solvents (PBE0+MBD), neutral here",
        licence="MIT",
        citation="Kabylda et al., J. Am. Chem. Soc. 2025; doi 10.1021/jacs.5c09558",
        # Trained on whole molecules only: measured against its own single atoms the atomization energy
        # of H2 is 8.2 eV (4.75 in nature) and of water 16.1 eV (10.1), so these atoms mean nothing.
        isolated_atoms=False,
        precision="float64",
        weights="pretrained/so3lr/so3lr.model",
        options={"dtype": "float64"},
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
    if dtype not in ("float32", "float64"):
        raise InputError("unknown dtype for teacher 'so3lr'", got=dtype, wanted="float32 or float64")
    # Stress costs about 5% and cannot be asked for structure by structure.
    calculator = SO3LRCalculator(device=device, default_dtype=dtype, compute_stress=True)
    # The calculator freezes every weight to evaluate.
    potential = AsePotential(calculator, replace(card.capabilities, precision=dtype), card.name)
    return potential, sum(count_parameters(network) for network in calculator.models)
