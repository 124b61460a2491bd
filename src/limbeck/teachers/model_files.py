"""MACE: higher-order equivariant message passing; foundation models by name, or any model file.

Source: Batatia et al., NeurIPS 2022 (arXiv:2206.07697); MACE-MP: arXiv:2401.00096; MACE-OFF: Kovács et
al., J. Am. Chem. Soc. 2025 (arXiv:2312.15211).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from limbeck.core.potential import AsePotential, Potential
from limbeck.errors import InputError
from limbeck.teachers.card import TeacherCard
from limbeck.teachers.crystals import MPTRJ_ELEMENTS
from limbeck.teachers.support import count_parameters

_ASL = "ASL (academic, not commercial)"
_MP = {"elements": MPTRJ_ELEMENTS, "licence": "MIT"}
_OMAT = {"elements": MPTRJ_ELEMENTS, "licence": _ASL}
_OFF = {
    "elements": frozenset([1, 6, 7, 8, 9, 15, 16, 17, 35, 53]),
    "licence": _ASL,
    "domain": "organic molecules and their liquids and crystals (MACE-OFF23, wB97M-D3(BJ)/def2-TZVPPD)",
}
#: mace-torch's own names of its MP family; the OFF family, whose names there are the same, with off-
_MODELS: dict[str, Mapping[str, Any]] = {
    **dict.fromkeys(("small", "medium", "large", "small-0b", "medium-0b", "small-0b2", "medium-0b2"), _MP),
    **dict.fromkeys(("large-0b2", "medium-0b3", "medium-mpa-0"), _MP),
    **dict.fromkeys(("small-omat-0", "medium-omat-0", "mace-matpes-pbe-0", "mace-matpes-r2scan-0"), _OMAT),
    **dict.fromkeys(("off-small", "off-medium", "off-large"), _OFF),
}

CARDS = (
    TeacherCard(
        name="mace",
        package="mace",
        distribution="mace-torch",
        requirement="mace-torch==0.3.16",
        extra="",
        elements=None,
        domain="by model: small ... medium-mpa-0 inorganic (PBE), off-small ... organic, or a model file",
        licence="by model: MP family MIT, OMAT, MATPES and OFF families ASL (academic, not commercial)",
        citation="Batatia et al., NeurIPS 2022, doi 10.48550/arXiv.2206.07697; MACE-MP arXiv:2401.00096; "
        "MACE-OFF arXiv:2312.15211",
        atom_energies=True,
        # E0s may be isolated atoms or a fit, and a network may add to them: a file does not say.
        isolated_atoms=False,
        precision="float64",
        options={"model": None, "dtype": "float64", "head": None},
        choices={"dtype": ("float32", "float64")},
        smoke="mace.calculators",
        file_option="model",
        unpickles=True,
        models=_MODELS,
    ),
)


def fetch(card: TeacherCard, options: Mapping[str, Any]) -> Path:
    """The file of a model named in ``options``, downloaded by mace-torch where it was not before."""
    from mace.calculators import foundations_models as zoo

    name = options["model"]
    if not name.startswith("off-"):
        return Path(zoo.download_mace_mp_checkpoint(name))
    # Its function for this family hands back no path, but takes the address of a file.
    return Path(zoo.download_mace_mp_checkpoint(zoo.mace_off_urls[name.removeprefix("off-")]))


def load(card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, int]:
    """The model on ``device`` and its number of parameters; elements are those that the model has.

    ``head`` chooses the head of a model with several.
    """
    from mace.calculators import MACECalculator

    path = card.model_file(options) or fetch(card, options)
    chosen = {} if options["head"] is None else {"head": options["head"]}
    calculator = MACECalculator(
        model_paths=[str(path)], device=device, default_dtype=options["dtype"], **chosen
    )
    model = calculator.models[0]
    if type(model).__name__ not in ("MACE", "ScaleShiftMACE"):
        raise InputError(
            "not a MACE model of energies",
            where=f"teacher mace: {path}",
            got=type(model).__name__,
            wanted="MACE or ScaleShiftMACE",
        )
    if options["head"] is not None and options["head"] not in calculator.available_heads:
        raise InputError(
            "the model has no such head",
            where=f"teacher mace: {path}",
            got=options["head"],
            wanted=" or ".join(calculator.available_heads),
        )
    elements = frozenset(int(z) for z in calculator.z_table.zs)
    capabilities = replace(card.capabilities, elements=elements, precision=options["dtype"])
    return AsePotential(calculator, capabilities, card.name), count_parameters(model)
