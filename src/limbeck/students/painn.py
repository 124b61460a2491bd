"""PaiNN in PyTorch: the reference for the native core, and for training on a GPU.

Axes: N atoms, P undirected pairs, E = 2 P directed edges, F features, B radial functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.core.neighbours import Pairs
from limbeck.core.pairwise import smooth_step
from limbeck.core.structures import StructureBatch
from limbeck.students.specification import Architecture, flatten


@dataclass(frozen=True)
class Graph:
    """Tensors of a batch: species (N,), structure (N,), centre, neighbour (P,), vectors (P, 3).

    Each pair is listed once or, where ``directed``, in both directions, each for its centre alone.
    """

    species: Tensor
    structure: Tensor
    centre: Tensor
    neighbour: Tensor
    pair_structure: Tensor
    vectors: Tensor
    n_structures: int
    directed: bool = False


def make_graph(
    architecture: Architecture,
    batch: StructureBatch,
    pairs: Pairs,
    *,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
) -> Graph:
    """Tensors for ``PaiNN``; vectors were computed in float64 and are cast here."""
    pair_structure = np.repeat(np.arange(len(batch)), np.diff(pairs.offsets))
    base = batch.offsets[pair_structure]
    species = architecture.species(batch.numbers)

    indices = (species, batch.structure_of_atom, pairs.first + base, pairs.second + base, pair_structure)
    species, structure, centre, neighbour, pair_structure = (
        torch.as_tensor(index, dtype=torch.int64, device=device) for index in indices
    )
    vectors = torch.as_tensor(pairs.vectors, dtype=dtype, device=device)
    return Graph(species, structure, centre, neighbour, pair_structure, vectors, len(batch))


def radial_basis(distance: Tensor, n_radial: int, cutoff: float, core: Tensor | None = None) -> Tensor:
    """Spherical Bessel functions (Gasteiger et al. 2020, arXiv:2003.03123, eq. 7) times a C2 envelope.

    ``core``: (P,) Å, where the envelope begins to fall towards zero at half of it.
    Returns (P, B + 1): sin(n π r / rc) / r · envelope for n = 1..B, and the envelope itself.
    """
    x = distance / cutoff
    envelope = torch.where(x < 1, 1 - smooth_step(x), torch.zeros_like(x))  # (P,)
    if core is not None:
        half = (core / 2).clamp(min=1e-6)
        envelope = envelope * smooth_step(((distance - half) / half).clamp(0, 1))
    n = torch.arange(1, n_radial + 1, dtype=distance.dtype, device=distance.device)
    waves = torch.sin(torch.pi * x[:, None] * n) / distance[:, None]  # (P, B)
    return torch.cat([waves * envelope[:, None], envelope[:, None]], dim=1)


class Network(nn.Module):
    """Scalar and vector features; subclasses store the weights and implement ``named_weights``."""

    core: Tensor

    def __init__(self, architecture: Architecture, dtype: torch.dtype) -> None:
        super().__init__()
        self.architecture = architecture
        # a buffer, so that it moves with the module and a traced graph holds it by name
        self.register_buffer("core", torch.tensor(architecture.core_a, dtype=dtype), persistent=False)

    def named_weights(self) -> dict[str, Tensor]:
        """Weights by the names and in the shapes of ``Architecture.parameter_shapes``."""
        raise NotImplementedError

    def atom_energies(self, graph: Graph, vectors: Tensor) -> Tensor:
        """Energy of each atom, eV, (N,), without baselines.

        Follows arXiv:2102.03150, eqs. 7-10, with one linear layer for the message's atom part.
        """
        arch, w = self.architecture, self.named_weights()
        f = arch.hidden_dim
        distance = torch.linalg.vector_norm(vectors, dim=1)  # (P,)
        unit = vectors / distance[:, None]  # (P, 3)
        i, j = graph.centre, graph.neighbour
        core = None
        if arch.core_a:
            core = self.core[graph.species[i] * len(arch.elements) + graph.species[j]]  # (P,)
        basis = radial_basis(distance, arch.rbf, arch.cutoff, core)  # (P, B + 1)
        h = w["embedding"][graph.species]  # (N, F)
        v = h.new_zeros(h.shape[0], 3, f)  # (N, 3, F)
        for layer in range(arch.interactions):
            p = f"interactions.{layer}."
            phi = (h @ w[p + "phi.weight"] + w[p + "phi.bias"]).split(f, dim=1)  # 2 or 3 of (N, F)
            filters = (basis @ w[p + "filter.weight"]).split(f, dim=1)  # 2 or 3 of (P, F)
            # the filter of a pair serves both directions; the unit vector changes sign
            dh = torch.zeros_like(h).index_add(0, i, filters[0] * phi[0][j])
            along = unit[:, :, None]  # (P, 3, 1)
            to_i = (filters[1] * phi[1][j])[:, None] * along
            if layer > 0:
                carried = phi[2][:, None] * v  # (N, 3, F)
                to_i = to_i + filters[2][:, None] * carried[j]
            if not graph.directed:
                dh = dh.index_add(0, j, filters[0] * phi[0][i])
                to_j = -(filters[1] * phi[1][i])[:, None] * along
                if layer > 0:
                    to_j = to_j + filters[2][:, None] * carried[i]
                v = v.index_add(0, j, to_j)
            v = v.index_add(0, i, to_i)
            h = h + dh
            u_mix, v_mix = (v @ w[p + "mix.weight"]).split(f, dim=2)  # (N, 3, F) each
            norm = torch.sqrt((v_mix * v_mix).sum(1) + arch.norm_offset**2)  # (N, F)
            gate = torch.cat([h, norm], dim=1) @ w[p + "gate.weight"] + w[p + "gate.bias"]  # (N, H)
            out = (nn.functional.silu(gate) @ w[p + "out.weight"] + w[p + "out.bias"]).split(f, dim=1)
            h = h + out[0] + out[1] * (u_mix * v_mix).sum(1)
            if layer < arch.interactions - 1:
                v = v + out[2][:, None] * u_mix
        hidden = nn.functional.silu(h @ w["readout.0.weight"] + w["readout.0.bias"])  # (N, R)
        return arch.energy_scale * (hidden @ w["readout.1.weight"] + w["readout.1.bias"])  # (N,)


class PaiNN(Network):
    """The network with all its weights in one flat parameter, for training."""

    def __init__(
        self, architecture: Architecture, weights: dict[str, np.ndarray], dtype: torch.dtype
    ) -> None:
        super().__init__(architecture, dtype)
        flat = torch.tensor(flatten(architecture, weights, np.float64), dtype=dtype)
        # one flat parameter: the optimiser makes one step, and the native core reads it directly
        self.flat = nn.Parameter(flat)

    def named_weights(self) -> dict[str, Tensor]:
        """Views of the flat parameter by name."""
        shapes = self.architecture.parameter_shapes()
        parts = self.flat.split([int(np.prod(shape)) for shape in shapes.values()])
        return {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}

    def forward(self, graph: Graph) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Energies (S,), forces (N, 3), dE/d(strain) (S, 3, 3), atomic energies (N,).

        Forces and strain derivative are exact, and differentiable while gradients are on, for a loss on them.
        """
        train = torch.is_grad_enabled()
        with torch.enable_grad():
            vectors = graph.vectors.detach().requires_grad_()
            atom = self.atom_energies(graph, vectors)
            (pull,) = torch.autograd.grad(atom.sum(), vectors, create_graph=train)  # (P, 3)
        s = graph.n_structures
        energy = atom.new_zeros(s).index_add(0, graph.structure, atom)
        forces = pull.new_zeros(len(atom), 3).index_add(0, graph.centre, pull)
        forces = forces.index_add(0, graph.neighbour, -pull)
        outer = pull[:, :, None] * vectors.detach()[:, None, :]  # (P, 3, 3)
        virial = pull.new_zeros(s, 3, 3).index_add(0, graph.pair_structure, (outer + outer.mT) / 2)
        return energy, forces, virial, atom
