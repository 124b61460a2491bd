"""The one torch module that every export format is made from: energy, forces and stress of a student.

It takes plain tensors, a directed neighbour list among them, and its forces and stress come from
differentiating its energy, so that a trace of it holds the backward pass.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.artifact.file import StudentArtifact
from limbeck.core.pairwise import COULOMB_EV_A, smooth_step, zbl_terms
from limbeck.students.painn import Graph, Network
from limbeck.students.specification import Architecture

_TABLE = 119  #: atomic numbers 0 to 118


class StoredNetwork(Network):
    """PaiNN on weights in the form in which a file keeps them.

    Half precision is widened, and integers are multiplied by the scale of their output channel (``scales``,
    by name).
    """

    def __init__(
        self, architecture: Architecture, stored: dict[str, Tensor], scales: dict[str, Tensor],
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        super().__init__(architecture, dtype)
        self.dtype, self._names, self._scaled = dtype, tuple(stored), frozenset(scales)
        for prefix, values in (("weight", stored), ("scale", scales)):
            for name, value in values.items():
                self.register_buffer(f"{prefix}_{name}".replace(".", "_"), value)

    def named_weights(self) -> dict[str, Tensor]:
        found = {}
        for name in self._names:
            buffer = name.replace(".", "_")
            value = getattr(self, f"weight_{buffer}")
            value = value if value.dtype == self.dtype else value.to(self.dtype)
            found[name] = value * getattr(self, f"scale_{buffer}") if name in self._scaled else value
        return found


class ExportedStudent(nn.Module):
    """A student over plain tensors of N atoms, E directed edges and S structures.

    Both directions of a pair are listed; edges beyond the cutoff do nothing, so a list with a skin
    serves as well. ``record``: the student with the weights that the network computes with.
    """

    def __init__(self, record: StudentArtifact, network: StoredNetwork) -> None:
        super().__init__()
        self.record, self.network = record, network
        elements, baseline = list(record.architecture.elements), record.baseline
        species = np.zeros(_TABLE, np.int64)
        species[elements] = np.arange(len(elements))
        # an element that the student does not know gives NaN instead of a number to trust
        reference = np.full(_TABLE, np.nan)
        reference[elements] = [baseline.references[z] for z in elements]
        radii = baseline.radius_table(elements)
        self._repels = bool(radii.any())
        for name, value in {"species_of": species, "reference_of": reference, "zbl_radius": radii}.items():
            self.register_buffer(name, torch.as_tensor(value))

    def forward(
        self, atomic_numbers: Tensor, positions: Tensor, edge_index: Tensor, edge_shift: Tensor,
        batch: Tensor, cell: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """Energy (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³, atomic energies (N,) eV; float64.

        Inputs as ``formats.make_metadata`` describes them. Stress is positive in tension (ASE's sign), and
        zero where the cell has no volume.
        """
        i, j = edge_index[0], edge_index[1]
        vectors = positions[j] + edge_shift - positions[i]  # (E, 3)
        reference = self.reference_of[atomic_numbers]  # (N,)
        with torch.enable_grad():
            vectors = vectors.detach().requires_grad_()
            atom = self.atom_energies(atomic_numbers, i, j, vectors)  # (N,)
            (pull,) = torch.autograd.grad([atom], [vectors], [torch.ones_like(atom)])  # (E, 3) dE/dvector
        atom, vectors = atom.detach() + reference, vectors.detach()
        energy = cell.new_zeros(cell.shape[0]).index_add(0, batch, atom)
        zero = torch.zeros_like(positions) + (reference * 0)[:, None]  # (N, 3), NaN for an unknown element
        forces = zero.index_add(0, i, pull).index_add(0, j, -pull)
        outer = pull[:, :, None] * vectors[:, None, :]  # (E, 3, 3)
        each = cell.new_zeros(positions.shape[0], 3, 3).index_add(0, i, (outer + outer.transpose(1, 2)) / 2)
        virial = torch.zeros_like(cell).index_add(0, batch, each)  # (S, 3, 3)
        volume = cell_volume(cell)[:, None, None]  # (S, 1, 1)
        full = (volume > 0).to(volume.dtype)
        stress = full * virial / (volume + (1 - full))
        return energy, forces, stress, atom

    def atom_energies(self, atomic_numbers: Tensor, i: Tensor, j: Tensor, vectors: Tensor) -> Tensor:
        """Energy of each atom over its reference, (N,) float64, eV: network and core repulsion."""
        species = self.species_of[atomic_numbers]
        graph = Graph(species, species, i, j, i, vectors, n_structures=0, directed=True)
        atom = self.network.atom_energies(graph, vectors.to(self.network.dtype)).to(torch.float64)
        if not self._repels:
            return atom
        distance = torch.linalg.vector_norm(vectors, dim=1)
        radius = self.zbl_radius[species[i], species[j]]
        repulsion = zbl_energy(atomic_numbers[i], atomic_numbers[j], distance, radius)
        return atom.index_add(0, i, repulsion / 2)


def cell_volume(cell: Tensor) -> Tensor:
    """|det|, (S,), Å³, of (S, 3, 3), written out: not every runtime has a determinant."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (row.unbind(1) for row in cell.unbind(1))
    return (ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)).abs()


def zbl_energy(z1: Tensor, z2: Tensor, r: Tensor, radius: Tensor) -> Tensor:
    """Switched ZBL energy (eV) at distance r (Å), all (E,), as ``students.baseline.zbl``."""
    first, second = z1.to(r.dtype), z2.to(r.dtype)
    _, terms = zbl_terms(first, second, r, torch.exp)
    half = (radius / 2).clamp(min=1e-12)
    x = ((r - half) / half).clamp(0.0, 1.0)
    return COULOMB_EV_A * first * second / r * sum(terms) * (1 - smooth_step(x))
