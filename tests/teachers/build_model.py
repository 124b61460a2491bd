"""Small model files with random weights, each made by its own package's code, in its environment.

    python build_model.py mace OUT

Run by the environment's Python, where neither Limbeck nor pytest is installed.
"""

from __future__ import annotations

import sys


def mace(path: str) -> None:
    # First, because it lets e3nn load its own constants.
    import mace.calculators  # noqa: F401  # isort: skip
    import numpy as np
    import torch
    from e3nn import o3
    from mace import modules

    torch.set_default_dtype(torch.float64)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    radial = {"r_max": 4.0, "num_bessel": 6, "num_polynomial_cutoff": 5, "radial_type": "bessel"}
    sizes = {"max_ell": 2, "num_interactions": 2, "num_elements": 4, "correlation": 2}
    scales = {"avg_num_neighbors": 8.0, "atomic_inter_scale": 1.5, "atomic_inter_shift": 0.1}
    model = modules.ScaleShiftMACE(
        **radial, **sizes, **scales, interaction_cls=block, interaction_cls_first=block,
        hidden_irreps=o3.Irreps("8x0e + 8x1o"), MLP_irreps=o3.Irreps("8x0e"),
        gate=torch.nn.functional.silu, atomic_numbers=[1, 6, 8, 14],
        atomic_energies=np.array([-0.5, -1.0, -1.5, -2.0]),
    )  # fmt: skip
    torch.save(model, path)


def orb(path: str) -> None:
    import torch
    from orb_models.forcefield import pretrained

    pretrained.load_model = lambda model, *_, **__: model
    model = pretrained.ORB_PRETRAINED_MODELS["orb-v3-conservative-inf-omat"](device="cpu", compile=False)
    torch.save(model.state_dict(), path)


def mattersim(path: str) -> None:
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet
    from mattersim.forcefield.potential import Potential

    network = M3Gnet(num_blocks=2, units=16, max_l=3, max_n=3, device="cpu")
    Potential(network, device="cpu").save(path)


def aimnet2(path: str) -> None:
    """Through its own export, which separates Coulomb and D3 from the network, as for released models."""
    import tempfile
    from pathlib import Path

    import torch
    import yaml
    from aimnet import models
    from aimnet.config import build_module
    from aimnet.train.export_model import export_model

    config = yaml.safe_load((Path(models.__file__).parent / "aimnet2_dftd3_wb97m.yaml").read_text())
    sizes = {"hidden": [[24, 16], [24, 16], [24, 16, 16]], "aim_size": 12, "nfeature": 4, "ncomb_v": 3}
    config["kwargs"].update(sizes)
    energy = config["kwargs"]["outputs"]["energy_mlp"]["kwargs"]
    energy.update(n_in=12, mlp={**energy["mlp"], "hidden": [8, 8]})
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("weights.pt", "model.yaml", "model.sae")]
        Path(files[1]).write_text(yaml.safe_dump(config, sort_keys=False))
        Path(files[2]).write_text("1: -13.6\n6: -1030.0\n7: -1485.0\n8: -2042.0\n14: -7873.0\n")
        torch.save(build_module(config).state_dict(), files[0])
        arguments = [files[0], path, "--model", files[1], "--sae", files[2]]
        export_model.main(arguments, standalone_mode=False)


def nequip(path: str) -> None:
    """Packaged by the framework after one epoch of training."""
    import subprocess
    import tempfile
    from pathlib import Path

    from ase import Atoms
    from ase.build import molecule
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    frames: list[Atoms] = []
    for name in ("CH3CH2OH", "SiH4", "H2O"):
        frames.append(molecule(name))
        frames[-1].set_cell([9.0, 9.0, 9.0])
        frames[-1].pbc = True
        frames[-1].rattle(0.1, seed=0)
        frames[-1].calc = SinglePointCalculator(
            frames[-1], energy=-1.0 * len(frames[-1]), forces=frames[-1].positions, stress=[0.0] * 6
        )
    config = """
run: [train]
model_type_names: [H, C, O, Si]
data:
  _target_: nequip.data.datamodule.ASEDataModule
  seed: 1
  train_file_path: FOLDER/frames.extxyz
  val_file_path: FOLDER/frames.extxyz
  transforms:
    - _target_: nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper
      model_type_names: ${model_type_names}
      chemical_species_to_atom_type_map: "${list_to_identity_dict:${model_type_names}}"
    - {_target_: nequip.data.transforms.NeighborListTransform, r_max: 4.0}
  train_dataloader: {_target_: torch.utils.data.DataLoader, batch_size: 1}
  val_dataloader: {_target_: torch.utils.data.DataLoader, batch_size: 1}
trainer:
  {_target_: lightning.Trainer, accelerator: cpu, max_epochs: 1, logger: false, enable_progress_bar: false,
   callbacks: [{_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: FOLDER, filename: last}]}
training_module:
  _target_: nequip.train.EMALightningModule
  loss: {_target_: nequip.train.EnergyForceStressLoss, coeffs: {total_energy: 1, forces: 1, stress: 1}}
  val_metrics: {_target_: nequip.train.EnergyForceMetrics, coeffs: {total_energy_mae: 1}}
  optimizer: {_target_: torch.optim.Adam, lr: 0.001}
  model:
    {_target_: nequip.model.NequIPGNNModel, seed: 0, model_dtype: float32, type_names: "${model_type_names}",
     r_max: 4.0, num_bessels: 6, polynomial_cutoff_p: 6, num_layers: 2, l_max: 1, parity: true,
     num_features: 8, radial_mlp_depth: 1, radial_mlp_width: 16, avg_num_neighbors: 8.0,
     per_type_energy_shifts: {H: -0.5, C: -1.0, O: -1.5, Si: -2.0}, per_type_energy_scales: 1.5}
"""
    with tempfile.TemporaryDirectory() as folder:
        write(f"{folder}/frames.extxyz", frames)
        (Path(folder) / "config.yaml").write_text(config.replace("FOLDER", folder))
        scripts = Path(sys.executable).parent
        train = [f"{scripts}/nequip-train", "-cp", folder, "-cn", "config", f"hydra.run.dir={folder}/run"]
        pack = [f"{scripts}/nequip-package", "build", f"{folder}/last.ckpt", path]
        for command in (train, pack):
            done = subprocess.run(
                [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(done.stdout[-1000:] + done.stderr[-3000:])


def deepmd(path: str) -> None:
    """A frozen model at ``path``, and next to it a checkpoint (.pt) with this model as head ``b``."""
    import json
    import os
    from pathlib import Path

    # Its operators are built for another version of torch.
    import deepmd.env

    deepmd.env.SHARED_LIB_DIR = Path(os.devnull)
    import torch
    from deepmd.pt.model.model import get_model
    from deepmd.pt.train.wrapper import ModelWrapper

    descriptor = {"type": "se_e2_a", "sel": [30, 20, 20, 20], "rcut_smth": 0.5, "rcut": 4.0}
    heads = {}
    for seed, name in enumerate("ab"):
        first = {**descriptor, "neuron": [4, 8, 16], "axis_neuron": 4, "seed": seed}
        fitting = {"neuron": [16, 16], "resnet_dt": True, "seed": seed}
        heads[name] = {"type_map": ["H", "C", "O", "Si"], "descriptor": first, "fitting_net": fitting}
    models = {name: get_model(parameters).eval() for name, parameters in heads.items()}
    with torch.no_grad():
        for model in models.values():
            for weight in model.parameters():
                weight *= 2  # as drawn, forces are below 1 meV/Å
    models["b"].model_def_script = json.dumps(heads["b"])
    torch.jit.save(torch.jit.script(models["b"]), path)
    wrapper = ModelWrapper(models, model_params={"model_dict": heads})
    torch.save({"model": wrapper.state_dict()}, Path(path).with_suffix(".pt"))


def pet(path: str) -> None:
    """A checkpoint in double precision at ``path``, and next to it the exported model (.pt)."""
    from pathlib import Path

    import torch
    from metatrain.pet import __model__ as Network
    from metatrain.utils.architectures import get_default_hypers
    from metatrain.utils.data import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info
    from metatrain.utils.io import load_model

    sizes = {"d_pet": 8, "d_head": 8, "d_node": 8, "d_feedforward": 8, "num_heads": 2, "cutoff": 4.0}
    target = get_energy_target_info("energy", {"quantity": "energy", "unit": "kcal/mol"})
    info = DatasetInfo(length_unit="angstrom", atomic_types=[1, 6, 8, 14], targets={"energy": target})
    network = Network({**get_default_hypers("pet")["model"], **sizes}, info).to(torch.float64)
    torch.save(network.get_checkpoint(), path)
    load_model(path).export().save(str(Path(path).with_suffix(".pt")))


if __name__ == "__main__":
    import torch

    torch.manual_seed(0)
    builders = {"mace": mace, "orb": orb, "mattersim": mattersim, "aimnet2": aimnet2, "nequip": nequip}
    builders.update({"deepmd": deepmd, "pet-mad": pet})
    builders[sys.argv[1]](sys.argv[2])
