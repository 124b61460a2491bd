"""Sums over pairs in ONNX without ``ScatterND``, whose processor kernel loses addends on several threads.

onnxruntime splits the rows of ``ScatterND(reduction="add")`` among threads, and two threads that add to the
same atom overwrite each other. Here each atom gathers the rows of its own pairs, through a table of their
numbers that is made once an index, and adds them up. ``ScatterElements``, which is safe but two to four times
slower for pairs, adds up the atoms of a structure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset20 as op


def translations() -> dict[Any, Any]:
    """What ``index_add`` along the first axis becomes: ``custom_translation_table`` of ``torch.onnx.export``.

    To be made anew for each file. The first pair must add nothing: see ``add_distant_pair``.
    """
    tables: dict[Any, Any] = {}  # of pairs by index

    def index_add(into: Any, dim: int, index: Any, values: Any, alpha: float = 1.0) -> Any:
        if dim != 0 or alpha != 1.0:
            raise ValueError("only plain sums along the first axis are translated")
        if index.is_graph_input():  # only `batch` is one: the structure of each atom
            if rank := len(values.shape) - 1:
                column = op.Reshape(index, op.Constant(value_ints=[-1] + [1] * rank))
                index = op.Expand(column, op.Shape(values))
            return op.ScatterElements(into, index, values, axis=0, reduction="add")
        if index not in tables:
            tables[index] = _make_table(index, op.Shape(into, start=0, end=1))
        gathered = op.Gather(values, tables[index], axis=0)  # (N, M, ...)
        return op.Add(into, op.ReduceSum(gathered, op.Constant(value_ints=[1]), keepdims=0))

    return {torch.ops.aten.index_add.default: index_add}


def _make_table(index: Any, n_atoms: Any) -> Any:
    """(N, M) int64 of an index (E,): in row a the numbers of the pairs whose index is a, then zeros."""
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    n_pairs = op.Shape(index)  # (1,)
    atom, pair = op.TopK(index, n_pairs, axis=0, largest=0, sorted=1)  # pairs in the order of their atoms
    counts = op.ScatterElements(
        op.Expand(zero, n_atoms), index, op.Expand(one, n_pairs), axis=0, reduction="add"
    )
    most = op.ReduceMax(counts, keepdims=1)  # M
    before = op.CumSum(counts, zero, exclusive=1)  # (N,) pairs of the atoms before
    column = op.Sub(op.Range(zero, op.Squeeze(n_pairs), one), op.Gather(before, atom))
    place = op.Add(op.Mul(atom, most), column)  # each once
    table = op.ScatterElements(op.Expand(zero, op.Mul(n_atoms, most)), place, pair, axis=0)
    return op.Reshape(table, op.Concat(n_atoms, most, axis=0))


def add_distant_pair(model: Any, cutoff: float) -> None:
    """Put a pair of the first atom with itself, beyond the cutoff (Å), before those given to an ONNX model.

    It adds exactly zero to every sum, which fills the table's rows of atoms with fewer pairs than others.
    """
    graph = model.graph
    inputs = {value.name: value for value in graph.inputs}
    atoms, shift = np.zeros((2, 1), np.int64), np.array([[2 * cutoff, 0.0, 0.0]])
    for name, row, axis in (("edge_index", atoms, 1), ("edge_shift", shift, 0)):
        held = ir.Value(name=f"distant_{name}", const_value=ir.tensor(row, name=f"distant_{name}"))
        graph.register_initializer(held)
        longer = ir.node("Concat", [held, inputs[name]], attributes={"axis": axis})
        ir.convenience.replace_all_uses_with(inputs[name], longer.outputs[0])
        longer.replace_input_with(1, inputs[name])
        graph.insert_before(graph[0], longer)
