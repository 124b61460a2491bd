"""The one torch module that every export format is made from, and its graph of plain operators.

The module takes plain tensors, a directed neighbour list among them; its forces and stress come from
differentiating its energy, so that the graph has the backward pass in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from limbeck.artifact.file import StudentArtifact
from limbeck.core.pairwise import COULOMB_EV_A, smooth_step, zbl_terms
from limbeck.errors import LimbeckError
from limbeck.students.painn import Graph, Network
from limbeck.students.specification import Architecture

_TABLE = 119  #: atomic numbers 0 to 118
#: sizes while tracing: all differ, and none is 2 or 3, the fixed ones, so that values identify them
_STRUCTURES, _ATOMS, _EDGES = 5, 11, 29
_ATEN = torch.ops.aten
_WHOLE = 9223372036854775807  #: the end of a slice that has none


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


def trace_student(model: ExportedStudent) -> fx.GraphModule:
    """The model as a graph of aten operators whose sizes are all open.

    Weights and tables are its buffers, named as in the model; it runs where its buffers and inputs are.
    """
    from torch._decomp import get_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx

    # ONNX knows no derivative of SiLU; everything else stays whole, which is fastest
    table = get_decompositions([_ATEN.silu_backward])
    options = {"decomposition_table": table, "tracing_mode": "symbolic", "_allow_non_fake_inputs": True}
    traced = make_fx(model.requires_grad_(False), **options)(*example_inputs(model))
    _name_buffers(traced, model)
    _simplify(traced)
    _hold_constants(traced)
    _hold_double_scalars(traced)
    traced.graph.eliminate_dead_code()
    traced.graph.lint()
    traced.recompile()
    return traced


def example_inputs(model: ExportedStudent) -> tuple[Tensor, ...]:
    """Inputs of some size, in the order of ``INPUT_NAMES``."""
    rng = np.random.default_rng(0)
    elements = np.array(model.network.architecture.elements)
    first = rng.integers(0, _ATOMS, _EDGES)
    second = (first + rng.integers(1, _ATOMS, _EDGES)) % _ATOMS
    numbers, positions = elements[rng.integers(0, len(elements), _ATOMS)], 3.0 * rng.random((_ATOMS, 3))
    batch, cell = np.sort(np.arange(_ATOMS) % _STRUCTURES), np.tile(10.0 * np.eye(3), (_STRUCTURES, 1, 1))
    arrays = (numbers, positions, np.stack([first, second]), np.zeros((_EDGES, 3)), batch, cell)
    return tuple(torch.as_tensor(array) for array in arrays)


def to_program(traced: fx.GraphModule, model: ExportedStudent) -> Any:
    """The graph as a ``torch.export.ExportedProgram`` with open numbers of atoms, edges and structures."""
    from torch.export import Dim, export

    atoms, edges, structures = Dim("atoms", min=0), Dim("edges", min=0), Dim("structures", min=0)
    shapes = ({0: atoms}, {0: atoms}, {1: edges}, {0: edges}, {0: atoms}, {0: structures})
    program = export(traced, example_inputs(model), dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        for record in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn"):
            node.meta.pop(record, None)  # where the tracing code stood on this machine's disk
    return program


def _name_buffers(traced: fx.GraphModule, model: ExportedStudent) -> None:
    """Give the tensors that the trace met the names of the model's buffers, and register them."""
    names = {id(value): name.replace(".", "_") for name, value in model.named_buffers()}
    for old, value in list(traced.named_buffers()):
        if (new := names.get(id(value), old)) != old:
            delattr(traced, old)
            traced.register_buffer(new, value)
            for node in traced.graph.find_nodes(op="get_attr", target=old):
                node.target = new


def _simplify(traced: fx.GraphModule) -> None:
    """Take out what does nothing; general indexing, many times slower, becomes selecting and adding rows."""
    graph = traced.graph
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if _does_nothing(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif (plain := _by_one_index(node)) is not None:
            with graph.inserting_before(node):
                _put(node, graph.call_function(*plain))


def _put(node: fx.Node, other: fx.Node) -> None:
    """Replace a node by another one."""
    other.meta = node.meta
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def _by_one_index(node: fx.Node) -> tuple[Any, tuple[Any, ...]] | None:
    """Gathering or adding up by one index along the first axis: operator and arguments that do only that."""
    if node.target is _ATEN.index.Tensor and len(node.args[1]) == 1:
        return _ATEN.index_select.default, (node.args[0], 0, node.args[1][0])
    if node.target in (_ATEN.index_put.default, _ATEN._unsafe_index_put.default):
        zeros, index, values, accumulate = (*node.args, False)[:4]
        if accumulate and len(index) == 1:
            return _ATEN.index_add.default, (zeros, 0, index[0], values)
    return None


def _does_nothing(node: fx.Node) -> bool:
    if node.target in (_ATEN.detach.default, _ATEN.alias.default):
        return True
    if node.target is _ATEN.slice.Tensor:
        return tuple(node.args[2:]) in ((), (0,), (0, _WHOLE))
    if node.target is _ATEN.expand.default:
        return node.args[0].meta["val"].shape == node.meta["val"].shape
    # of a slice that took everything: gradient, sizes, dimension, start, end, step
    return node.target is _ATEN.slice_backward.default and tuple(node.args[3:]) == (0, _WHOLE, 1)


def _hold_constants(traced: fx.GraphModule) -> None:
    """Tensors of constants become buffers: made in the graph, they would name the device of the trace."""
    graph = traced.graph
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        node.kwargs = {k: v for k, v in node.kwargs.items() if k not in ("pin_memory", "layout")}
        if "device" not in node.kwargs:
            continue
        if any(isinstance(given.meta.get("val"), Tensor) for given in node.all_input_nodes):
            # a conversion of what is on the same device already, or zeros like it
            node.kwargs = {k: v for k, v in node.kwargs.items() if k != "device"}
        elif node.all_input_nodes:
            got = node.format_node()
            raise LimbeckError("the traced graph names a device", where=str(node.target), got=got)
        else:
            name = f"constant_{node.name}"
            traced.register_buffer(name, node.target(*node.args, **node.kwargs))
            with graph.inserting_before(node):
                _put(node, graph.get_attr(name))


#: operators of a tensor and a number, and what does the same with a tensor of one number
_WITH_NUMBER = {op.Tensor: op.Tensor for op in (_ATEN.mul, _ATEN.add, _ATEN.sub, _ATEN.div)}
_WITH_NUMBER |= {_ATEN.mul.Scalar: _ATEN.mul.Tensor, _ATEN.pow.Tensor_Scalar: _ATEN.pow.Tensor_Tensor}


def _hold_double_scalars(traced: fx.GraphModule) -> None:
    """Numbers that multiply float64 become buffers: the ONNX exporter would round them to float32."""
    graph = traced.graph
    for node in list(graph.nodes):
        if node.target not in _WITH_NUMBER or node.meta["val"].dtype != torch.float64:
            continue
        number = node.args[1]
        if not isinstance(number, float) or float(np.float32(number)) == number:
            continue
        name = f"number_{node.name}"
        traced.register_buffer(name, torch.tensor(number, dtype=torch.float64))
        with graph.inserting_before(node):
            held = graph.get_attr(name)
        node.target = _WITH_NUMBER[node.target]
        node.args = (node.args[0], held, *node.args[2:])
