"""ORB v3, conservative: forces are derivatives of the energy; by name, or with weights from a file.

Source: Rhodes et al. 2025 (arXiv:2504.06231); the first version: Neumann et al. 2024 (arXiv:2410.22570).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from limbeck.core.potential import AsePotential, Potential
from limbeck.teachers.card import TeacherCard
from limbeck.teachers.support import count_parameters

# Direct models give forces that are no derivative of their energy: nothing a student could learn.
_OMAT = {"domain": "inorganic crystals off equilibrium (OMat24, PBE)"}
_MPA = {"domain": "inorganic crystals near equilibrium (MPtrj and Alexandria, PBE)"}

CARDS = (
    TeacherCard(
        name="orb",
        package="orb_models",
        distribution="orb-models",
        requirement="orb-models==0.5.5",
        extra="",
        # The atomic numbers that its data sets hold: H-Bi and Ac-Pu (OMat24, MPtrj, Alexandria).
        elements=frozenset([*range(1, 84), *range(89, 95)]),
        domain="inorganic crystals (OMat24, PBE), conservative v3 models",
        licence="Apache-2.0",
        citation="Rhodes et al. 2025, doi 10.48550/arXiv.2504.06231",
        # Its reference energies are a fit to crystals.
        isolated_atoms=False,
        # Not equivariant by construction, and its energy is a function of the mean over all atoms.
        rotation=False,
        extensive=False,
        reflection=False,
        precision="float32",
        options={"model": "orb-v3-conservative-inf-omat", "weights": None, "dtype": "float32"},
        choices={"dtype": ("float32", "float64")},
        smoke="orb_models.forcefield.pretrained",
        pythons=("3.11", "3.12"),
        file_option="weights",
        models={
            "orb-v3-conservative-inf-omat": _OMAT,
            "orb-v3-conservative-20-omat": _OMAT,
            "orb-v3-conservative-inf-mpa": _MPA,
            "orb-v3-conservative-20-mpa": _MPA,
        },
    ),
)


def fetch(card: TeacherCard, options: Mapping[str, Any]) -> Path:
    """The file of the named model, downloaded by orb-models where it was not before."""
    import inspect

    from cached_path import cached_path
    from orb_models.forcefield.pretrained import ORB_PRETRAINED_MODELS

    build = inspect.signature(ORB_PRETRAINED_MODELS[options["model"]])
    return Path(cached_path(build.parameters["weights_path"].default))


def load(card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, int]:
    """The named architecture with its weights, or those of the file ``weights``, on ``device``.

    The file is a state dict, which the package reads without unpickling code.
    """
    from orb_models.forcefield.calculator import ORBCalculator
    from orb_models.forcefield.pretrained import ORB_PRETRAINED_MODELS

    path = card.model_file(options) or fetch(card, options)
    precision = {"float32": "float32-highest", "float64": "float64"}[options["dtype"]]
    # Compiling pays on a GPU only, for large structures, and takes minutes on a CPU.
    model = ORB_PRETRAINED_MODELS[options["model"]](
        weights_path=str(path), device=device, precision=precision, compile=False
    )
    calculator = ORBCalculator(model, device=device)
    capabilities = replace(card.capabilities, precision=options["dtype"])
    return AsePotential(calculator, capabilities, card.name), count_parameters(model)
