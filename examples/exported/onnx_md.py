"""Molecular dynamics with an exported ONNX student: no Limbeck and no PyTorch needed.

    limbeck export silicon-tiny --to onnx --out exports
    python examples/exported/onnx_md.py exports/silicon-tiny.onnx structure.cif --steps 500

Needs: ase, numpy, vesin, onnxruntime (or onnxruntime-gpu).
"""

import argparse
import json

import numpy as np
import onnxruntime
from ase import units
from ase.calculators.calculator import Calculator, all_changes
from ase.io import read
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.stress import full_3x3_to_voigt_6_stress
from vesin import NeighborList


class OnnxCalculator(Calculator):
    implemented_properties = ("energy", "free_energy", "forces", "stress", "energies")

    def __init__(self, path):
        super().__init__()
        self.session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
        # model card in the file: elements, cutoff, units, teacher
        self.card = json.loads(self.session.get_modelmeta().custom_metadata_map["limbeck"])
        self.neighbours = NeighborList(cutoff=self.card["cutoff_a"], full_list=True)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        unknown = set(atoms.numbers.tolist()) - set(self.card["elements"])
        if unknown:
            raise ValueError(f"the student supports {self.card['symbols']}, not Z = {sorted(unknown)}")
        i, j, images = self.neighbours.compute(
            points=atoms.positions, box=atoms.cell.array, periodic=atoms.pbc, quantities="ijS"
        )
        inputs = {
            "atomic_numbers": atoms.numbers.astype(np.int64),
            "positions": atoms.positions,
            "edge_index": np.stack([i, j]).astype(np.int64),
            "edge_shift": images.astype(float) @ atoms.cell.array,
            "batch": np.zeros(len(atoms), np.int64),
            "cell": atoms.cell.array[None],
        }
        names = ["energy", "forces", "stress", "atom_energies"]
        energy, forces, stress, atom_energies = self.session.run(names, inputs)
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
    options = parser.parse_args()
    atoms = read(options.structure)
    atoms.calc = OnnxCalculator(options.model)
    thermalize_momenta(atoms, options.temperature, rng=np.random.default_rng(0))
    start = atoms.get_total_energy()
    VelocityVerlet(atoms, options.timestep * units.fs).run(options.steps)
    drift = 1000 * (atoms.get_total_energy() - start) / len(atoms)
    print(json.dumps({"energy_ev": float(atoms.get_potential_energy()), "drift_mev_per_atom": float(drift)}))


if __name__ == "__main__":
    main()
