"""NequIP and Allegro: equivariant networks in the NequIP framework; any model file of it.

Source: Batzner et al., Nat. Commun. 2022, 13, 2453 (arXiv:2101.03164); Allegro: Musaelian et al.,
Nat. Commun. 2023, 14, 579; the framework: Tan et al. 2025 (arXiv:2504.16068).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from limbeck.core.potential import AsePotential, Potential
from limbeck.errors import InputError
from limbeck.teachers.card import TeacherCard
from limbeck.teachers.support import count_parameters, elements_of_types

CARDS = (
    TeacherCard(
        name="nequip",
        package="nequip",
        distribution="nequip",
        requirement="nequip==0.19.1",
        extra="",
        elements=None,
        domain="by model: what the file was trained on",
        licence="by model; the package MIT",
        citation="Batzner et al., Nat. Commun. 2022, 13, 2453; doi 10.1038/s41467-022-29939-5",
        atom_energies=True,
        # Its energies of lone atoms are what fits the training set, unless the file's author set them.
        isolated_atoms=False,
        precision="float32",
        options={"model": None},
        smoke="nequip.integrations.ase",
        file_option="model",
        unpickles=True,
    ),
)

#: by the end of a file's name, as nequip itself tells them apart
_KINDS = (".nequip.zip", ".nequip.pt2")


def load(card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, int | None]:
    """A model of ``nequip-package``, or ``nequip-compile --target ase``, on ``device``.

    Its elements are its type names.

    A package holds its own source, a compiled model machine code: ``trust`` is needed for all.
    """
    from nequip.integrations.ase import NequIPCalculator

    path = card.model_file(options)
    where = f"teacher nequip: {path}"
    name = "" if path is None else path.name
    if not name.endswith(_KINDS):
        raise InputError(
            "not a model file by its name",
            where=where,
            got=name,
            wanted=f"a name in {' or '.join(_KINDS)}",
            remedy="nequip-package build CHECKPOINT model.nequip.zip",
        )
    compiled = name.endswith(".pt2")
    make = NequIPCalculator.from_compiled_model if compiled else NequIPCalculator._from_saved_model
    calculator = make(str(path), device=device, chemical_species_to_atom_type_map=True)
    stored = calculator.model.model.get_metadata() if compiled else calculator.model.metadata
    capabilities = replace(
        card.capabilities,
        elements=elements_of_types(list(calculator.transforms[0].model_type_names), where),
        precision=stored["model_dtype"],
    )
    # The weights of a compiled model are within its machine code.
    n_parameters = None if compiled else count_parameters(calculator.model)
    return AsePotential(calculator, capabilities, card.name), n_parameters
