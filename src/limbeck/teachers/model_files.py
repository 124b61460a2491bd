"""Teachers with elements and domain from a model file: MACE, NequIP and Allegro, DeePMD, PET-MAD.

Networks: MACE, Batatia et al., NeurIPS 2022; NequIP, Batzner et al., Nat. Commun. 2022, 13, 2453; Allegro,
Musaelian et al., Nat. Commun. 2023, 14, 579 (framework: arXiv:2504.16068); Deep Potential, Zeng et al.,
J. Chem. Phys. 2023, 159, 054801; PET, Pozdnyakov, Ceriotti, NeurIPS 2023 (arXiv:2305.19302), run by metatomic
(arXiv:2508.15704).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.core.labels import Labels
from limbeck.errors import InputError
from limbeck.teachers.card import DTYPES, Loaded, TeacherCard
from limbeck.teachers.crystals import MPTRJ_ELEMENTS
from limbeck.teachers.loaders import OneByOne, VacuumPadded, count_parameters, elements_of_types

# MACE-MP: arXiv:2401.00096; MACE-OFF: Kovács et al., J. Am. Chem. Soc. 2025 (arXiv:2312.15211)
_ASL = "ASL (academic, not commercial)"
_MP = {"elements": MPTRJ_ELEMENTS, "licence": "MIT"}
_OMAT = {"elements": MPTRJ_ELEMENTS, "licence": _ASL}
_OFF = {
    "elements": frozenset([1, 6, 7, 8, 9, 15, 16, 17, 35, 53]),
    "licence": _ASL,
    "domain": "organic molecules and their liquids and crystals (MACE-OFF23, wB97M-D3(BJ)/def2-TZVPPD)",
}
#: names of mace-torch for its MP family; those of the OFF family, which are equal, with the prefix off-
_MACE_MODELS: dict[str, Mapping[str, Any]] = {
    **dict.fromkeys(("small", "medium", "large", "small-0b", "medium-0b", "small-0b2", "medium-0b2"), _MP),
    **dict.fromkeys(("large-0b2", "medium-0b3", "medium-mpa-0"), _MP),
    **dict.fromkeys(("small-omat-0", "medium-omat-0", "mace-matpes-pbe-0", "mace-matpes-r2scan-0"), _OMAT),
    **dict.fromkeys(("off-small", "off-medium", "off-large"), _OFF),
}


def fetch_mace(options: Mapping[str, Any]) -> Path:
    from mace.calculators import foundations_models as zoo

    name = options["model"]
    # the function for the OFF family returns no path, but that for MP accepts a URL
    if name.startswith("off-"):
        name = zoo.mace_off_urls[name.removeprefix("off-")]
    return Path(zoo.download_mace_mp_checkpoint(name))


def load_mace(card: TeacherCard, options: Mapping[str, Any], device: str, path: Path | None) -> Loaded:
    """``head`` selects a head of a multi-head model; elements are those of the model."""
    from mace.calculators import MACECalculator

    head, dtype = options["head"], options["dtype"]
    chosen = {} if head is None else {"head": head}
    calculator = MACECalculator(model_paths=[str(path)], device=device, default_dtype=dtype, **chosen)
    model = calculator.models[0]
    if type(model).__name__ not in ("MACE", "ScaleShiftMACE"):
        what, wanted = "unsupported kind of MACE model", "MACE or ScaleShiftMACE"
        raise InputError(what, got=type(model).__name__, wanted=wanted)
    if head is not None and head not in calculator.available_heads:
        raise InputError("unknown head", got=head, wanted=" or ".join(calculator.available_heads))
    elements = frozenset(int(z) for z in calculator.z_table.zs)
    return card.potential(calculator, elements=elements, precision=dtype), count_parameters(model)


def load_nequip(card: TeacherCard, _: Mapping[str, Any], device: str, path: Path | None) -> Loaded:
    """A model of ``nequip-package`` or ``nequip-compile --target ase``; elements are the type names.

    A package contains source code, a compiled model machine code, so both need ``trust``.
    """
    from nequip.integrations.ase import NequIPCalculator

    compiled = str(path).endswith(".pt2")
    make = NequIPCalculator.from_compiled_model if compiled else NequIPCalculator._from_saved_model
    calculator = make(str(path), device=device, chemical_species_to_atom_type_map=True)
    stored = calculator.model.model.get_metadata() if compiled else calculator.model.metadata
    elements = elements_of_types(list(calculator.transforms[0].model_type_names))
    # weights of a compiled model are in its machine code
    n_parameters = None if compiled else count_parameters(calculator.model)
    return card.potential(calculator, elements=elements, precision=stored["model_dtype"]), n_parameters


def load_deepmd(card: TeacherCard, options: Mapping[str, Any], device: str, path: Path | None) -> Loaded:
    """A frozen model or a checkpoint; elements are those of the type map.

    A ``.pth`` is TorchScript, and of a ``.pt`` only weights are read: neither is unpickled. ``head`` selects
    a branch of a checkpoint with several.
    """
    if device == "cpu":
        # before its first import, or it uses any GPU that is present
        os.environ["DEVICE"] = "cpu"
    import_deepmd()
    from deepmd.calculator import DP

    calculator = DP(str(path), head=options["head"])
    model = calculator.dp
    needs = ["spins"] * bool(model.has_spin)
    needs += ["frame parameters"] * (model.get_dim_fparam() > 0)
    needs += ["atomic parameters"] * (model.get_dim_aparam() > 0)
    if needs:
        wanted = "a model of elements and positions"
        raise InputError("model with unsupported inputs", got=", ".join(needs), wanted=wanted)
    network = model.deep_eval.dp
    widths = {str(weight.dtype) for weight in network.parameters()}
    precision = "float32" if "torch.float32" in widths else "float64"
    elements = elements_of_types(list(model.get_type_map()))
    potential = card.potential(calculator, elements=elements, precision=precision)
    # its calculator supports periodicity in all directions or none
    return VacuumPadded(potential, model.get_rcut(), molecules=False), count_parameters(network)


def import_deepmd() -> None:
    """Import deepmd's PyTorch backend without its C++ operators if they are for another version of torch.

    It would refuse to start otherwise. Only compressed models and parallel LAMMPS need these operators.
    """
    import deepmd.env
    import torch

    if torch.__version__.partition("+")[0] != deepmd.env.GLOBAL_CONFIG.get("pt_version"):
        deepmd.env.SHARED_LIB_DIR = Path(os.devnull)
    importlib.import_module("deepmd.pt.infer.deep_eval")


def load_pet(card: TeacherCard, _: Mapping[str, Any], device: str, path: Path | None) -> Loaded:
    """A checkpoint (``.ckpt``), as released, or an exported model (``.pt``); elements are its types.

    A checkpoint is unpickled.
    """
    from metatomic_ase import MetatomicCalculator
    from metatrain.utils.io import is_exported_file, load_model

    model = load_model(str(path))
    if not is_exported_file(str(path)):
        model = model.export()
    for weight in model.parameters():
        weight.requires_grad_(False)  # saves the gradients of the weights
    found = model.capabilities()
    if "energy" not in found.outputs:
        raise InputError("model without energies", got=", ".join(found.outputs), wanted="an output energy")
    # without a skin: a neighbour list kept from the previous structure would change the order of sums
    calculator = MetatomicCalculator(model, device=device, uncertainty_threshold=None, neighbor_skin=0.0)
    elements = frozenset(int(z) for z in found.atomic_types)
    potential = card.potential(calculator, PetPotential, elements=elements, precision=found.dtype)
    return potential, count_parameters(model)


class PetPotential(OneByOne):
    """A metatomic calculator with one evaluation per structure, where ASE's calls take two."""

    def single(self, atoms: Atoms) -> Labels:
        found = self.model.compute_energy(atoms, compute_forces_and_stresses=True, per_atom=True)
        stress = np.full((1, 3, 3), np.nan)
        if atoms.pbc.all() and atoms.cell.rank == 3:
            # symmetrised: the gradient by the strain includes a rotation, not zero for this network
            stress[0] = (found["stress"] + found["stress"].T) / 2
        return Labels(np.array([found["energy"]]), found["forces"], stress, found["energies"])


# fmt: off
CARDS = (
    TeacherCard(
        name="mace", package="mace", requirement="mace-torch==0.3.16",
        domain="by model: small ... medium-mpa-0 inorganic (PBE), off-small ... organic, or a model file",
        licence="by model: MP family MIT, OMAT, MATPES and OFF families ASL (academic, not commercial)",
        citation="Batatia et al., NeurIPS 2022, doi 10.48550/arXiv.2206.07697; MACE-MP arXiv:2401.00096; "
        "MACE-OFF arXiv:2312.15211",
        load=load_mace, fetch=fetch_mace, smoke="mace.calculators", models=_MACE_MODELS,
        options={"model": None, "dtype": "float64", "head": None}, choices={"dtype": DTYPES},
        file_option="model", unpickles=True, atom_energies=True,
        # reference energies may be isolated atoms or a fit; the file does not say which
        isolated_atoms=False,
    ),
    TeacherCard(
        name="nequip", package="nequip", requirement="nequip==0.19.1",
        domain="by model: what the file was trained on", licence="by model; the package MIT",
        citation="Batzner et al., Nat. Commun. 2022, 13, 2453; doi 10.1038/s41467-022-29939-5",
        load=load_nequip, smoke="nequip.integrations.ase",
        options={"model": None}, file_option="model", unpickles=True,
        suffixes=(".nequip.zip", ".nequip.pt2"),  # as nequip distinguishes them
        convert="nequip-package build CHECKPOINT model.nequip.zip",
        precision="float32", atom_energies=True,
        # energies of isolated atoms are fitted to the training set unless the author set them
        isolated_atoms=False,
    ),
    TeacherCard(
        name="deepmd", package="deepmd", requirement="deepmd-kit==3.2.0",
        domain="by model: what the file was trained on", licence="by model; the package LGPL-3.0",
        citation="Zeng et al., J. Chem. Theory Comput. 2025, 21, 4375; doi 10.1021/acs.jctc.5c00340",
        load=load_deepmd, smoke="limbeck.teachers.model_files:import_deepmd",
        options={"model": None, "head": None}, file_option="model",
        suffixes=(".pth", ".pt"),  # of the PyTorch backend: frozen model, checkpoint
        convert="dp convert-backend model.pb model.pth",
        # energies of isolated atoms are fitted to the training set
        isolated_atoms=False,
    ),
    TeacherCard(
        name="pet-mad", package="metatrain", requirement="metatrain==2026.4.1",
        domain="by model: materials and molecules (PET-MAD), or what the file was trained on",
        licence="by model (PET-MAD BSD-3-Clause); the package BSD-3-Clause",
        citation="Mazitov et al., Nat. Commun. 2025, 16, 10653; doi 10.1038/s41467-025-65662-7",
        load=load_pet, smoke="metatrain.pet", options={"model": None}, file_option="model", unpickles=True,
        precision="float32", atom_energies=True,
        # energies of isolated atoms are a linear fit to the training set
        isolated_atoms=False,
        # symmetry under rotation and reflection is learned, hence approximate
        rotation=False, reflection=False,
    ),
)
# fmt: on
