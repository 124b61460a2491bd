"""Sums over pairs in ONNX without ``ScatterND``, whose processor kernel loses addends on several threads.

onnxruntime splits the rows of ``ScatterND(reduction="add")`` among threads, and two threads that add to the
same atom overwrite each other. Here each atom gathers the rows of its own pairs, through a table of their
numbers that is made once an index, and adds them up: nothing is written twice. ``ScatterElements`` is left
for sums over the atoms of a structure: its kernel never shares an element of the output among threads, but
takes an index an element, two to four times the latency if pairs were summed so.
"""

from __future__ import annotations

from typing import Any

#: where ``add_distant_pair`` puts the second atom of its pair, in cutoffs
_AWAY = 2.0


class Sums:
    """What a graph's ``index_add`` along the first axis becomes; one for each file that is written.

    ``pairs_of``: index -> (N, M) table, in row a the numbers of the pairs whose index is a, then that of the
    first pair, 0, as often as the longest row needs. The first pair must add nothing: ``add_distant_pair``.
    """

    def __init__(self) -> None:
        self.pairs_of: dict[Any, Any] = {}

    def translations(self) -> dict[Any, Any]:
        """For the ``custom_translation_table`` of ``torch.onnx.export``."""
        import torch

        def index_add(into: Any, dim: int, index: Any, values: Any, alpha: float = 1.0) -> Any:
            if dim != 0 or alpha != 1.0:
                raise ValueError("only plain sums along the first axis are translated")
            # the one index that is an input is `batch`: atoms of a structure
            by_structure = index.is_graph_input()
            return _add_elements(into, index, values) if by_structure else self._add(into, index, values)

        return {torch.ops.aten.index_add.default: index_add}

    def _add(self, into: Any, index: Any, values: Any) -> Any:
        from onnxscript import opset20 as op

        if index not in self.pairs_of:
            self.pairs_of[index] = _make_table(index, op.Shape(into, start=0, end=1))
        gathered = op.Gather(values, self.pairs_of[index], axis=0)  # (N, M, ...)
        return op.Add(into, op.ReduceSum(gathered, op.Constant(value_ints=[1]), keepdims=0))


def _make_table(index: Any, n_atoms: Any) -> Any:
    """(N, M) int64 for ``Sums.pairs_of`` of an index (E,)."""
    from onnxscript import opset20 as op

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


def _add_elements(into: Any, index: Any, values: Any) -> Any:
    """Values added to ``into`` by an index that is as large as they are."""
    from onnxscript import opset20 as op

    rank = len(values.shape)
    if rank > 1:
        column = op.Reshape(index, op.Constant(value_ints=[-1] + [1] * (rank - 1)))
        index = op.Expand(column, op.Shape(values))
    return op.ScatterElements(into, index, values, axis=0, reduction="add")


def add_distant_pair(model: Any, cutoff: float) -> None:
    """Put a pair of the first atom with itself, beyond the cutoff (Å), before those given to an ONNX model.

    Such a pair adds exactly zero to every sum, which is what an atom of fewer pairs than others needs in the
    table; a row of zeros before every array of values would copy them all.
    """
    import numpy as np
    import onnx_ir as ir

    graph = model.graph
    inputs = {value.name: value for value in graph.inputs}
    extra = {
        "edge_index": (np.zeros((2, 1), np.int64), 1),
        "edge_shift": (np.array([[_AWAY * cutoff, 0.0, 0.0]]), 0),
    }
    for name, (row, axis) in extra.items():
        held = ir.Value(name=f"distant_{name}", const_value=ir.tensor(row, name=f"distant_{name}"))
        graph.register_initializer(held)
        longer = ir.node("Concat", [held, inputs[name]], attributes={"axis": axis})
        ir.convenience.replace_all_uses_with(inputs[name], longer.outputs[0])
        longer.replace_input_with(1, inputs[name])
        graph.insert_before(graph[0], longer)
