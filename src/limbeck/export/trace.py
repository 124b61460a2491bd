"""One graph of plain operators, forward and backward pass in it, that every format is written from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from limbeck.errors import LimbeckError
from limbeck.export.model import ExportedStudent

# Sizes are told apart by their values while tracing: all differ, and none is 2 or 3, the fixed ones.
_STRUCTURES, _ATOMS, _EDGES = 5, 11, 29

_ATEN = torch.ops.aten
_WHOLE = 9223372036854775807  #: the end of a slice that has none


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
