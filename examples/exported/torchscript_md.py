"""Molecular dynamics with a TorchScript student: no Limbeck needed, CPU or CUDA.

    limbeck export silicon-tiny --to torchscript --out exports
    python examples/exported/torchscript_md.py exports/silicon-tiny.torchscript.pt structure.cif --device cuda

Needs: ase, numpy, vesin, torch. TorchScript is deprecated in PyTorch; torch_export_relax.py uses its
successor.
"""

import argparse
import json

import numpy as np
import torch
from ase import units
from ase.calculators.calculator import Calculator, all_changes
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.stress import full_3x3_to_voigt_6_stress
from vesin import NeighborList


class TorchScriptCalculator(Calculator):
    implemented_properties = ("energy", "free_energy", "forces", "stress", "energies")

    def __init__(self, path, device="cpu"):
        super().__init__()
        card = {"limbeck": ""}
        self.model = torch.jit.load(path, map_location=device, _extra_files=card)
        # model card in the file: elements, cutoff, units, teacher
        self.card, self.device = json.loads(card["limbeck"]), device
        self.neighbours = NeighborList(cutoff=self.card["cutoff_a"], full_list=True)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        unknown = set(atoms.numbers.tolist()) - set(self.card["elements"])
        if unknown:
            raise ValueError(f"the student supports {self.card['symbols']}, not Z = {sorted(unknown)}")
        i, j, images = self.neighbours.compute(
            points=atoms.positions, box=atoms.cell.array, periodic=atoms.pbc, quantities="ijS"
        )
        arrays = (
            atoms.numbers.astype(np.int64),
            atoms.positions,
            np.stack([i, j]).astype(np.int64),
            images.astype(float) @ atoms.cell.array,
            np.zeros(len(atoms), np.int64),
            atoms.cell.array[None],
        )
        with torch.no_grad():
            outputs = self.model(*(torch.as_tensor(array, device=self.device) for array in arrays))
        energy, forces, stress, atom_energies = (value.cpu().numpy() for value in outputs)
        self.results = {
            "energy": energy[0],
            "free_energy": energy[0],
            "forces": forces,
            "energies": atom_energies,
        }
        if atoms.pbc.all():
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("structure")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    atoms = read(options.structure)
    atoms.calc = TorchScriptCalculator(options.model, options.device)
    rng = np.random.default_rng(0)
    thermalize_momenta(atoms, options.temperature, rng=rng)
    dynamics = Langevin(
        atoms,
        options.timestep * units.fs,
        temperature_K=options.temperature,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=rng,
    )
    dynamics.run(options.steps)
    print(
        json.dumps(
            {
                "energy_ev": float(atoms.get_potential_energy()),
                "temperature_k": float(atoms.get_temperature()),
            }
        )
    )


if __name__ == "__main__":
    main()
