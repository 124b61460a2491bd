"""Teachers for inorganic crystals, trained on PBE: SevenNet, CHGNet, ORB, MatterSim; float32."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import GPa

from limbeck.core.labels import Labels
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.teachers.card import DTYPES, Loaded, TeacherCard
from limbeck.teachers.loaders import Batched, RightHandedCells, VacuumPadded, count_parameters, float64

#: H-Bi and Ac-Pu, the 89 elements of MPtrj (Deng et al. 2023) and of the Materials Project: the element map
#: of SevenNet's checkpoints, and the elements of ORB's data sets. CHGNet also accepts Po-Ra, untrained.
MPTRJ_ELEMENTS = frozenset([*range(1, 84), *range(89, 95)])

_SEVENNET_MODEL = {"sevennet-0": "7net-0", "sevennet-l3i5": "7net-l3i5", "sevennet-mf-0": "7net-mf-0"}


def load_sevennet(card: TeacherCard, options: Mapping[str, Any], device: str, _: Path | None) -> Loaded:
    """The pretrained SevenNet; sets no global state."""
    from sevenn.calculator import SevenNetCalculator

    model = _SEVENNET_MODEL[card.name]
    calculator = SevenNetCalculator(model=model, device=device, modal=options.get("modal"))
    # The authors' count excludes the frozen shifts and scales of the elements.
    n_parameters = count_parameters(calculator.model, frozen=False)
    return Batched(card.potential(calculator), lambda batch: _sevennet(calculator, batch)), n_parameters


def _sevennet(calculator: Any, batch: StructureBatch) -> Labels:
    """Several structures in one graph, as in the package's inference script."""
    import sevenn._keys as keys
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.train.dataload import unlabeled_atoms_to_graph
    from torch_geometric.data import Batch

    graphs = []
    for atoms in batch.to_atoms():
        arrays = unlabeled_atoms_to_graph(atoms, calculator.cutoff, with_shift=False)
        graphs.append(AtomGraphData.from_numpy_dict(arrays))
        if calculator.modal:
            graphs[-1][keys.DATA_MODALITY] = calculator.modal
    calculator.model.set_is_batch_data(True)
    try:
        found = calculator.model(Batch.from_data_list(graphs).to(calculator.device))
    finally:
        # the calculator, used for single structures, needs the other form
        calculator.model.set_is_batch_data(False)
    # the package's stress is positive in compression, in the order xx yy zz xy yz zx
    voigt = -float64(found[keys.PRED_STRESS])[:, [0, 1, 2, 4, 5, 3]]  # (S, 6)
    stress = np.array([voigt_6_to_full_3x3_stress(row) for row in voigt])  # (S, 3, 3)
    stress[~batch.periodic] = np.nan
    return Labels(
        energy=float64(found[keys.PRED_TOTAL_ENERGY]).reshape(-1),
        forces=float64(found[keys.PRED_FORCE]),
        stress=stress,
        atom_energies=float64(found[keys.ATOMIC_ENERGY]).reshape(-1),
    )


_CHGNET_MODEL = {"chgnet": "0.3.0", "chgnet-r2scan": "r2scan"}


def load_chgnet(card: TeacherCard, _: Mapping[str, Any], device: str, __: Path | None) -> Loaded:
    """The pretrained CHGNet."""
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator

    model = CHGNet.load(model_name=_CHGNET_MODEL[card.name], use_device=device, verbose=False)
    wanted = {"return_site_energies": True, "on_isolated_atoms": "warn"}
    calculator = CHGNetCalculator(model, use_device=device, **wanted)
    batched = Batched(card.potential(calculator), lambda batch: _chgnet(model, batch))
    # CHGNet 0.4.2 divides the stress by the signed volume
    return RightHandedCells(batched), count_parameters(model)


def _chgnet(model: Any, batch: StructureBatch) -> Labels:
    """Several structures in one graph, without magnetic moments."""
    from pymatgen.io.ase import AseAtomsAdaptor

    graphs = [model.graph_converter(AseAtomsAdaptor.get_structure(atoms)) for atoms in batch.to_atoms()]
    found = model.predict_graph(graphs, task="efs", return_site_energies=True, batch_size=len(graphs))
    # an intensive network gives energies per atom; stress is in GPa
    factors = batch.counts if model.is_intensive else np.ones(len(batch))
    return Labels(
        energy=np.array([float(one["e"] * n) for one, n in zip(found, factors, strict=True)]),
        forces=np.concatenate([one["f"] for one in found]).astype(np.float64),
        stress=np.array([one["s"] * GPa for one in found], np.float64),
        atom_energies=np.concatenate([one["site_energies"] for one in found]).astype(np.float64),
    )


def fetch_orb(options: Mapping[str, Any]) -> Path:
    from cached_path import cached_path
    from orb_models.forcefield.pretrained import ORB_PRETRAINED_MODELS

    build = inspect.signature(ORB_PRETRAINED_MODELS[options["model"]])
    return Path(cached_path(build.parameters["weights_path"].default))


def load_orb(card: TeacherCard, options: Mapping[str, Any], device: str, path: Path | None) -> Loaded:
    """The named architecture with the weights of a state dict, which the package reads without unpickling."""
    from orb_models.forcefield.calculator import ORBCalculator
    from orb_models.forcefield.pretrained import ORB_PRETRAINED_MODELS

    precision = {"float32": "float32-highest", "float64": "float64"}[options["dtype"]]
    build = ORB_PRETRAINED_MODELS[options["model"]]
    # compilation is useful only for large structures on a GPU, and takes minutes on a CPU
    model = build(weights_path=str(path), device=device, precision=precision, compile=False)
    calculator = ORBCalculator(model, device=device)
    return card.potential(calculator, precision=options["dtype"]), count_parameters(model)


def fetch_mattersim(options: Mapping[str, Any]) -> Path:
    from mattersim.utils.download_utils import download_checkpoint

    path = Path(f"~/.local/mattersim/pretrained_models/{options['model']}.pth").expanduser()
    if not path.exists():
        download_checkpoint(path.name, save_folder=str(path.parent))
    return path


def load_mattersim(card: TeacherCard, _: Mapping[str, Any], device: str, path: Path | None) -> Loaded:
    """The file is a state dict with the network's arguments, read without unpickling code."""
    import torch
    from loguru import logger
    from mattersim.forcefield import MatterSimCalculator
    from mattersim.forcefield.potential import Potential as Network

    logger.disable("mattersim")
    # mattersim relies on torch's default, which differs before 2.6
    torch.load(path, map_location="cpu", weights_only=True)
    network = Network.from_checkpoint(str(path), device=device, load_training_state=False)
    # one embedding row per atomic number, and one for 0
    largest = int(network.model.max_z)
    elements = frozenset(z for z in card.elements or () if z <= largest)
    if not elements:
        raise InputError("model without elements", got=f"max_z {largest}")
    potential = card.potential(MatterSimCalculator(potential=network, device=device), elements=elements)
    # It wraps atoms in all three directions whatever pbc is, which would cut a slab in two, and divides the
    # stress by det(cell), which may be negative, instead of the volume.
    cutoffs = network.model.model_args
    padded = VacuumPadded(potential, max(cutoffs["cutoff"], cutoffs["threebody_cutoff"]))
    return RightHandedCells(padded), count_parameters(network.model)


# fmt: off
_SEVENNET = TeacherCard(
    name="sevennet-0", package="sevenn", requirement="sevenn==0.13.0", environment="sevennet",
    domain="inorganic crystals (MPtrj, PBE and PBE+U relaxations), version of 11 July 2024; "
    "molecules off domain",
    licence="MIT",
    citation="Park et al., J. Chem. Theory Comput. 2024, 20, 4857; doi 10.1021/acs.jctc.4c00190",
    load=load_sevennet, weights="pretrained_potentials/SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    elements=MPTRJ_ELEMENTS, precision="float32", batch_atoms=32, atom_energies=True,
    # Atomization energies agree with PBE: H2O -10.3, H2 -4.8, Si -4.1, Cu -3.4 eV; those of MF-0 too: H2O
    # -10.7, H2 -5.1, Si -4.1 for PBE, -10.0, -4.9, -4.4 for r2SCAN.
    isolated_atoms=True,
    # is_parity = False in the checkpoint: equivariant under rotations only
    reflection=False,
)
_CHGNET = TeacherCard(
    name="chgnet", package="chgnet", requirement="chgnet==0.4.2", environment="chgnet",
    domain="inorganic crystals (MPtrj, PBE and PBE+U with MP2020 corrections), version 0.3.0",
    licence="BSD-3-Clause",
    citation="Deng et al., Nat. Mach. Intell. 2023, 5, 1031; doi 10.1038/s42256-023-00716-3",
    load=load_chgnet, weights="pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
    elements=MPTRJ_ELEMENTS, precision="float32", batch_atoms=32, atom_energies=True,
    # Its graphs need neighbours; for an isolated atom it warns that the result is likely wrong.
    molecular=False, isolated_atoms=False,
)
# Conservative models only: a student cannot learn forces that are not derivatives of an energy.
_OMAT = {"domain": "inorganic crystals off equilibrium (OMat24, PBE)"}
_MPA = {"domain": "inorganic crystals near equilibrium (MPtrj and Alexandria, PBE)"}
_ORB_MODELS = {
    "orb-v3-conservative-inf-omat": _OMAT, "orb-v3-conservative-20-omat": _OMAT,
    "orb-v3-conservative-inf-mpa": _MPA, "orb-v3-conservative-20-mpa": _MPA,
}

CARDS = (
    _SEVENNET,
    replace(
        _SEVENNET, name="sevennet-l3i5",
        domain="inorganic crystals (MPtrj, PBE and PBE+U relaxations), l = 3, five interactions: more "
        "accurate, about 2.5 times slower; molecules off domain",
        weights="pretrained_potentials/SevenNet_l3i5/checkpoint_l3i5.pth", batch_atoms=16,
    ),
    replace(
        _SEVENNET, name="sevennet-mf-0",
        domain="inorganic crystals (MPtrj), one network of two fidelities: option modal is PBE (and PBE+U) "
        "or R2SCAN; molecules off domain",
        citation="Kim et al., J. Am. Chem. Soc. 2025, 147, 1042; doi 10.1021/jacs.4c14455",
        weights="pretrained_potentials/SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
        options={"modal": "PBE"}, choices={"modal": ("PBE", "R2SCAN")},
    ),
    _CHGNET,
    replace(
        _CHGNET, name="chgnet-r2scan",
        domain="inorganic crystals (MP-r2SCAN, fine-tuned from version 0.3.0), no corrections",
        citation="Huang et al., npj Comput. Mater. 2025, 11; doi 10.1038/s41524-025-01796-y",
        weights="pretrained/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
    ),
    TeacherCard(
        name="orb", package="orb_models", requirement="orb-models==0.5.5", pythons=("3.11", "3.12"),
        domain="inorganic crystals (OMat24, PBE), conservative v3 models",
        licence="Apache-2.0", citation="Rhodes et al. 2025, doi 10.48550/arXiv.2504.06231",
        load=load_orb, fetch=fetch_orb, smoke="orb_models.forcefield.pretrained", file_option="weights",
        options={"model": "orb-v3-conservative-inf-omat", "weights": None, "dtype": "float32"},
        choices={"model": tuple(_ORB_MODELS), "dtype": DTYPES}, models=_ORB_MODELS,
        elements=MPTRJ_ELEMENTS, precision="float32",
        # reference energies are fitted to crystals
        isolated_atoms=False,
        # not equivariant by construction; the energy depends on a mean over all atoms
        rotation=False, extensive=False, reflection=False,
    ),
    TeacherCard(
        name="mattersim", package="mattersim", requirement="mattersim==1.2.3",
        domain="inorganic materials (PBE, PBE+U), 0 to 5000 K and up to 1000 GPa",
        licence="MIT", citation="Yang et al. 2024, doi 10.48550/arXiv.2405.04967",
        load=load_mattersim, fetch=fetch_mattersim, smoke="mattersim.forcefield", file_option="model",
        options={"model": "mattersim-v1.0.0-1M"},
        models={"mattersim-v1.0.0-1M": {}, "mattersim-v1.0.0-5M": {}},
        elements=MPTRJ_ELEMENTS, precision="float32", isolated_atoms=False,
    ),
)
# fmt: on
