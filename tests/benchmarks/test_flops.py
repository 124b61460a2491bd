"""The FLOP count of benchmarks/support/flops.py against torch's own counter and the equations."""

from __future__ import annotations

import pytest
from ase.build import bulk
from benchmarks.support.flops import flops_per_atom, phases

from limbeck.core.neighbours import find_pairs
from limbeck.core.structures import StructureBatch
from limbeck.students.specification import Architecture, initial_weights, preset_architecture

TOY = Architecture(elements=(14,), hidden_dim=1, interactions=2, rbf=3, gate_width=1, readout_width=1)


@pytest.mark.parametrize("preset", ["original", "tiny", "ultra-tiny"])
def test_matrix_products_are_those_that_torch_counts(preset: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from limbeck.students.painn import PaiNN, make_graph

    architecture = preset_architecture(preset, (14,))
    batch = StructureBatch.from_atoms([bulk("Si", cubic=True)])
    pairs = find_pairs(batch, architecture.cutoff)
    weights = initial_weights(architecture, seed=0, mean_neighbours=28.0)
    model = PaiNN(architecture, weights, torch.float64).requires_grad_(False)
    graph = make_graph(architecture, batch, pairs, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter:
        model(graph)
    n, f = batch.n_atoms, architecture.hidden_dim
    # torch multiplies the first message's atom part out, which is a table over elements
    torch_alone = n * 2 * f * 2 * f
    counted = flops_per_atom(architecture, len(pairs.first) / n, "product")
    assert n * (counted.matrices + counted.filters) == counter.get_total_flops() - torch_alone


class Counted:
    """A number that counts the additions, subtractions and multiplications done with it."""

    done = 0

    def _with(self, other: object) -> Counted:
        Counted.done += 1
        return Counted()

    __add__ = __sub__ = __mul__ = _with


def count_pair(later: bool) -> int:
    """One feature of one pair, written out from arXiv:2102.03150, eqs. 7-8, and its derivative.

    ``later``: not the first layer, so there are incoming vectors and adjoints that lead somewhere.
    """
    n = Counted
    Counted.done = 0
    w, dw = [n(), n(), n()], [n(), n(), n()]
    u, phi, gh = [n(), n(), n()], [[n(), n(), n()], [n(), n(), n()]], [n(), n()]
    carried, gv = [[n(), n(), n()], [n(), n(), n()]], [[n(), n(), n()], [n(), n(), n()]]
    for to, at in ((0, 1), (1, 0)):  # messages: the vector part of one direction has the other sign
        n() + w[0] * phi[at][0]
        along = w[1] * phi[at][1]
        for c in range(3):
            v = n() + along * u[c]
            if later:
                v + w[2] * carried[at][c]
        if later:  # adjoints of phi and of the carried vectors
            n() + w[0] * gh[to]
            for c in range(3):
                n() + w[2] * gv[to][c]
    pull = [g[0] * u[0] + g[1] * u[1] + g[2] * u[2] for g in gv]
    slopes = [gh[0] * phi[1][0] + gh[1] * phi[0][0], pull[0] * phi[1][1] - pull[1] * phi[0][1]]
    if later:
        for k in range(2):
            n() + w[1] * pull[k]
        terms = [gv[to][c] * carried[at][c] for to, at in ((0, 1), (1, 0)) for c in range(3)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        slopes.append(total)
    for slope, d in zip(slopes, dw, strict=False):
        n() + slope * d
    ends = [w[1] * phi[1][1], w[1] * phi[0][1]]
    for c in range(3):
        n() + (ends[0] * gv[0][c] - ends[1] * gv[1][c])
    return Counted.done


def test_pair_work_is_that_of_the_equations_written_out() -> None:
    assert flops_per_atom(TOY, 1.0).pairs == count_pair(later=False) + count_pair(later=True)


def test_filters_by_hand() -> None:
    """Four basis values, five filters in two layers, value and slope: 2 x 4 x 5 fused operations."""
    assert flops_per_atom(TOY, 1.0, "product").filters == 2 * 2 * 4 * 5
    assert flops_per_atom(TOY, 1.0, "recomputed").filters == 3 * 2 * 4 * 5
    assert flops_per_atom(TOY, 2.0, "table").filters == 2 * 14 * 5


@pytest.mark.parametrize("preset", ["original", "tiny", "ultra-tiny"])
def test_phases_add_up_to_the_whole(preset: str) -> None:
    native = pytest.importorskip("limbeck._native", reason="the core is not built")
    architecture = preset_architecture(preset, (14,))
    found = phases(architecture, 14.0, 18.0)
    assert list(found) == native.PHASES
    whole = flops_per_atom(architecture, 14.0, "recomputed").total
    assert sum(phase.flops for phase in found.values()) == pytest.approx(whole, rel=1e-12)
