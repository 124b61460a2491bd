"""AIMNet2: atoms-in-molecules network with charges for neutral organic and main-group molecules.

Source: Anstine, Zubatyuk, Isayev, Chem. Sci. 2025, 16, 10228 (doi 10.1039/D4SC08572H).
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
        name="aimnet2",
        package="aimnet",
        distribution="aimnet",
        requirement="aimnet==0.2.5",
        extra="",
        elements=None,
        domain="organic and main-group molecules (wB97M-D3 or B97-3c), taken as neutral closed shells",
        licence="MIT",
        citation="Anstine et al., Chem. Sci. 2025, 16, 10228; doi 10.1039/D4SC08572H",
        # Its Coulomb sum and dispersion are cut at 15 Å in a periodic structure, and the stress of a small
        # cell was seen 1% off the derivative of the energy.
        periodic=False,
        stress=False,
        isolated_atoms=False,
        # Charges flow between separate parts, and what they sum to is set for the whole alone.
        extensive=False,
        precision="float32",
        options={"model": None},
        smoke="aimnet.calculators",
        file_option="model",
    ),
)


def load(card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, int]:
    """The model of a version-2 file (``.pt``) on ``device``, its elements those of the file.

    The file names classes of aimnet and torch alone, and is read without unpickling code.
    """
    from aimnet.calculators import AIMNet2ASE, AIMNet2Calculator

    path = card.model_file(options)
    where = f"teacher aimnet2: {path}"
    if path is not None and path.suffix.lower() == ".jpt":
        raise InputError(
            "a file of the first format, which holds compiled code",
            where=where,
            got=".jpt",
            wanted="a model file of the second format, .pt, as aimnet's own downloads are",
        )
    base = AIMNet2Calculator(str(path), device=device)
    species = (base.metadata or {}).get("implemented_species")
    if not species:
        raise InputError("the file does not say for which elements it is", where=where)
    if base.is_nse:
        raise InputError(
            "a model of spin charges, which needs a multiplicity for each structure",
            where=where,
            wanted="a model of closed shells",
        )
    capabilities = replace(card.capabilities, elements=frozenset(int(z) for z in species))
    return AsePotential(AIMNet2ASE(base), capabilities, card.name), count_parameters(base.model)
