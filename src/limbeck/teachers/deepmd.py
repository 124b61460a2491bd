"""Deep Potential: models of DeePMD-kit by its PyTorch backend, from a file.

Source: Zeng et al., J. Chem. Phys. 2023, 159, 054801 (DeePMD-kit v2); Zeng et al., J. Chem. Theory
Comput. 2025, 21, 4375 (v3).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.core.labels import Labels
from limbeck.core.potential import AsePotential, Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.teachers.card import TeacherCard
from limbeck.teachers.loaders import close_cells
from limbeck.teachers.support import count_parameters, elements_of_types

CARDS = (
    TeacherCard(
        name="deepmd",
        package="deepmd",
        distribution="deepmd-kit",
        requirement="deepmd-kit==3.2.0",
        extra="",
        elements=None,
        domain="by model: what the file was trained on",
        licence="by model; the package LGPL-3.0",
        citation="Zeng et al., J. Chem. Theory Comput. 2025, 21, 4375; doi 10.1021/acs.jctc.5c00340",
        # Its energies of lone atoms are what fits the training set.
        isolated_atoms=False,
        options={"model": None, "head": None},
        smoke="limbeck.teachers.deepmd:import_backend",
        file_option="model",
    ),
)

#: frozen model, and checkpoint of training
_KINDS = (".pth", ".pt")


def load(card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, int]:
    """A frozen model or a checkpoint of the PyTorch backend on ``device``; elements are its type map.

    A ``.pth`` is TorchScript and a ``.pt`` is read as weights alone: neither is unpickled. ``head``
    names the branch of a checkpoint that has several.
    """
    path = card.model_file(options)
    where = f"teacher deepmd: {path}"
    suffix = "" if path is None else path.suffix
    if suffix not in _KINDS:
        raise InputError(
            "not a model of the PyTorch backend by its name",
            where=where,
            got=suffix or "no suffix",
            wanted=" or ".join(_KINDS),
            remedy="dp convert-backend model.pb model.pth",
        )
    if device == "cpu":
        # It takes a GPU wherever there is one unless this says otherwise before its first import.
        os.environ["DEVICE"] = "cpu"
    import_backend()
    from deepmd.calculator import DP

    calculator = DP(str(path), head=options["head"])
    _check_inputs(calculator.dp, where)
    network = calculator.dp.deep_eval.dp
    widths = {str(weight.dtype) for weight in network.parameters()}
    capabilities = replace(
        card.capabilities,
        elements=elements_of_types(list(calculator.dp.get_type_map()), where),
        precision="float32" if "torch.float32" in widths else "float64",
    )
    return DeepPotential(calculator, capabilities, card.name), count_parameters(network)


def import_backend() -> None:
    """Import deepmd's PyTorch backend, with torch alone where its C++ operators are for another torch.

    It would refuse to start. They are needed for compressed models and for LAMMPS over several
    processes; all else has its own code in torch.
    """
    import deepmd.env
    import torch

    if torch.__version__.partition("+")[0] != deepmd.env.GLOBAL_CONFIG.get("pt_version"):
        deepmd.env.SHARED_LIB_DIR = Path(os.devnull)
    importlib.import_module("deepmd.pt.infer.deep_eval")


def _check_inputs(model: Any, where: str) -> None:
    """Refuse a model that needs more than a structure."""
    spin = bool(model.has_spin) and "spins"
    frame = model.get_dim_fparam() > 0 and "frame parameters"
    atom = model.get_dim_aparam() > 0 and "atomic parameters"
    if needed := [what for what in (spin, frame, atom) if what]:
        raise InputError(
            "the model needs more than elements and positions",
            where=where,
            got=", ".join(needed),
            wanted="a model without them",
        )


class DeepPotential(AsePotential):
    """Its calculator, which takes a structure as periodic in all directions or none: slabs get vacuum."""

    def evaluate(self, batch: StructureBatch) -> Labels:
        mixed = batch.pbc.any(axis=1) & ~batch.periodic
        if not mixed.any():
            return super().evaluate(batch)
        frames = batch.to_atoms()
        close_cells([f for f, m in zip(frames, mixed, strict=True) if m], self.calculator.dp.get_rcut())
        labels = super().evaluate(StructureBatch.from_atoms(frames))
        if labels.stress is None:
            return labels
        return replace(labels, stress=np.where(mixed[:, None, None], np.nan, labels.stress))
