"""Relaxation of atoms and cell with a torch.export student (.pt2): no Limbeck needed, CPU or CUDA.

    limbeck export silicon-tiny --to torch-export --out exports
    python examples/exported/torch_export_relax.py exports/silicon-tiny.pt2 structure.cif --cell

Needs: ase, numpy, vesin, torch.
"""

import argparse
import json

import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress
from vesin import NeighborList


class TorchExportCalculator(Calculator):
    implemented_properties = ("energy", "free_energy", "forces", "stress", "energies")

    def __init__(self, path, device="cpu"):
        super().__init__()
        card = {"limbeck": ""}
        self.model = torch.export.load(path, extra_files=card).module().to(device)
        # what the file says of itself: elements, cutoff, units, teacher
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
    parser.add_argument("--fmax", type=float, default=0.02, help="eV/Å")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--cell", action="store_true", help="relax the cell as well")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    atoms = read(options.structure)
    atoms.calc = TorchExportCalculator(options.model, options.device)
    relaxed = FrechetCellFilter(atoms) if options.cell else atoms
    converged = BFGS(relaxed, logfile=None).run(fmax=options.fmax, steps=options.steps)
    print(
        json.dumps(
            {
                "energy_ev": float(atoms.get_potential_energy()),
                "fmax_ev_per_a": float(np.linalg.norm(atoms.get_forces(), axis=1).max()),
                "volume_a3": float(atoms.get_volume()) if atoms.cell.rank == 3 else None,
                "converged": bool(converged),
            }
        )
    )


if __name__ == "__main__":
    main()
