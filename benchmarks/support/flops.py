"""Floating-point operations of one evaluation (energy, forces, virial), counted from the architecture.

The count is what the algorithm requires. The atom part of the first message is a table over elements and
needs no adjoint, because its input features are constants; an engine that computes them anyway gets no
credit. Filters are counted as they are evaluated or as if they were stored. A multiplication and an
addition count one each, so a fused multiply-add counts two; a division, a square root and an exponential
count one.

Not counted: neighbour search, the radial basis and the assembly of forces, some hundred operations per
pair (a few percent of the work per pair at 32 features, less above).

Letters as in native/include/limbeck/painn.hpp: F features, H width of the gate, R of the readout,
B radial functions, P undirected pairs per atom; the filter of a pair serves both directions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from limbeck.students.specification import Architecture

Filter = Literal["product", "recomputed", "table"]

#: how the native engine evaluates radial filters: again in the backward pass instead of storing them
FILTER: Filter = "recomputed"


@dataclass(frozen=True)
class Flops:
    """FLOPs per atom by part, forward and backward together.

    Attributes
    ----------
    matrices: products of the atoms' features with weights.
    elementwise: biases, norms, gates and similar.
    pairs: messages and their adjoints.
    filters: radial filters and their slopes.
    """

    matrices: float
    elementwise: float
    pairs: float
    filters: float

    @property
    def total(self) -> float:
        return self.matrices + self.elementwise + self.pairs + self.filters

    def to_dict(self) -> dict[str, float]:
        return {**asdict(self), "total": self.total}


def flops_per_atom(architecture: Architecture, pairs_per_atom: float, filters: Filter = FILTER) -> Flops:
    """FLOPs of energy, forces and virial; ``pairs_per_atom`` is half the mean number of neighbours."""
    layers = [_blocks(architecture, layer) for layer in range(architecture.interactions)]
    readout = 2 * 2 * architecture.hidden_dim * architecture.readout_width  # there and back
    return Flops(
        matrices=readout + sum(_matrices(architecture, *blocks) for blocks in layers),
        # bias, silu 4, dot with the last weights 2, and back: derivative of silu 4, product 1
        elementwise=12 * architecture.readout_width + sum(_elementwise(architecture, *b) for b in layers),
        pairs=pairs_per_atom * sum(_pair(architecture, message) for message, _ in layers),
        filters=pairs_per_atom * sum(_filter(architecture, message, filters) for message, _ in layers),
    )


def _blocks(architecture: Architecture, layer: int) -> tuple[int, int]:
    """Blocks of F in message and update: the first layer receives no vectors, the last passes none on."""
    return (2 if layer == 0 else 3), (2 if layer == architecture.interactions - 1 else 3)


@dataclass(frozen=True)
class Phase:
    """FLOPs per atom of a phase of the engine, and the bytes of feature rows that it reads and writes.

    Attributes
    ----------
    flops: as in Flops.
    bytes: each row counts once per pass, as if caches held what neighbours share. Weights, filters and
        the scratch memory of a block stay in cache and are not counted.
    """

    flops: float
    bytes: float


def phases(architecture: Architecture, pairs_per_atom: float, listed_per_atom: float) -> dict[str, Phase]:
    """The phases of the engine, named as in ``limbeck._native.PHASES``, with filters computed twice.

    ``listed_per_atom`` counts undirected pairs within cutoff and skin.
    """
    f, h, last = architecture.hidden_dim, architecture.gate_width, architecture.interactions - 1
    layers = [_blocks(architecture, layer) for layer in range(last + 1)]
    whole = flops_per_atom(architecture, pairs_per_atom, "recomputed")
    one_way = [_pair_parts(architecture, message) for message, _ in layers]
    # the last update runs forward and backward at once; its product with phi belongs to the phase before
    back = [
        _matrices(architecture, *blocks) / 2 + _elementwise_parts(architecture, *blocks)[1]
        for blocks in layers
    ]
    phi = 2 * f * 3 * f + 12 * f if last else 0
    update_adjoints = sum(back) - (back[-1] - phi)
    entries = 8 * listed_per_atom  # row, image and place of an entry of the list
    source, sums, adjoint = (4 * n * f for n in (6, 4, 5))
    kept = 4 * (3 * f + h)
    return {
        "geometry": Phase(0, entries + sums),
        "filters": Phase(whole.filters, 0),
        "messages": Phase(
            pairs_per_atom * sum(parts[0] for parts in one_way),
            (last + 1) * (entries + 2 * sums) + last * source,
        ),
        "updates": Phase(
            whole.matrices + whole.elementwise - update_adjoints,
            (last + 1) * 2 * sums + last * (kept + source),
        ),
        "message adjoints": Phase(
            pairs_per_atom * sum(parts[1] for parts in one_way),
            (last + 1) * (entries + sums) + last * (source + 2 * adjoint),
        ),
        "update adjoints": Phase(update_adjoints, last * (2 * adjoint + source + kept + 2 * sums)),
        "forces": Phase(0, (last + 1) * 2 * 24),
    }


def _matrices(architecture: Architecture, message: int, update: int) -> int:
    f, h = architecture.hidden_dim, architecture.gate_width
    forward = 3 * 2 * f * 2 * f  # mix: three components, (F) x (F, 2F)
    forward += 2 * 2 * f * h  # gate: (2F) x (2F, H)
    forward += 2 * h * update * f  # out: (H) x (H, update F)
    if message == 3:
        forward += 2 * f * message * f  # phi: (F) x (F, message F); a table over elements before that
    # backward is one product with each transpose; weights get no gradient
    return 2 * forward


def _elementwise(architecture: Architecture, message: int, update: int) -> int:
    return sum(_elementwise_parts(architecture, message, update))


def _elementwise_parts(architecture: Architecture, message: int, update: int) -> tuple[int, int]:
    """Forward and backward."""
    f, h = architecture.hidden_dim, architecture.gate_width
    later, carries = message == 3, update == 3
    forward = later * (3 * f + 3 * f)  # bias of phi; carried vectors phi_2 v
    forward += 7 * f + 5 * f  # norm: squares, sums, e², root; dot of the mixed vectors
    forward += h + 4 * h + update * f  # bias and silu of the gate; bias of out
    forward += 3 * f + carries * 3 * 2 * f  # h + a_0 + a_1 q; v + a_2 u
    backward = f + carries * 5 * f  # adjoints of a_1 and a_2
    backward += 5 * h  # derivative of silu from the sigmoid kept
    backward += 2 * f + f  # a_1 hb, adjoint of h; xb / norm
    backward += 3 * (1 + 3 + carries * 2) * f  # adjoints of both mixed vectors
    backward += f + 3 * f  # sums into hb and vb after the products
    backward += later * (6 * f + 6 * f)  # adjoints of the carried vectors
    return forward, backward


def _pair(architecture: Architecture, message: int) -> int:
    return sum(_pair_parts(architecture, message))


def _pair_parts(architecture: Architecture, message: int) -> tuple[int, int]:
    """Messages and adjoints of one undirected pair in both directions, times the number of features."""
    later = message == 3
    forward = 2 * 2  # h_i += W_0 phi_0j and the other way round
    forward += 2 + 2 * 3 * 2  # W_1 phi_1, then along the unit vector into three components
    forward += later * 2 * 3 * 2  # W_2 times the carried vectors
    backward = 3  # adjoint of W_0: two products, one sum
    backward += 2 * 5  # vb_i . u and vb_j . u
    backward += 3  # adjoint of W_1
    backward += 2 + 3 * 4  # adjoint of u: W_1 phi_1 of both atoms, then into three components
    backward += 2 * message  # dE/dr += Wb dW
    # adjoints of phi_0 and phi_1 of both atoms; those of the first layer end at the constant embedding
    backward += later * (2 * 2 + 2 * 2)
    backward += later * (11 + 2 * 3 * 2)  # adjoint of W_2: six products; adjoints of the carried vectors
    return forward * architecture.hidden_dim, backward * architecture.hidden_dim


def _filter(architecture: Architecture, message: int, filters: Filter) -> int:
    """Filters of one pair and their contribution to dE/dr."""
    values = message * architecture.hidden_dim
    if filters != "table":
        # (B + 1) x (B + 1, message F) forward; back either the slope's product or that of the adjoint
        # with the transpose, which are as large; and once more where filters are not kept
        products = 3 if filters == "recomputed" else 2
        return products * 2 * (architecture.rbf + 1) * values
    # cubic Hermite: four weights an interval end and slope, shared by all features; four products
    # and three sums for the value, the same for the slope
    return 2 * 7 * values
