"""Rounded weights: how far off they may be, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.export.quantise import Loss, own_force_error, round_to_bytes, slower, store_weights
from limbeck.export.runtimes import Latency
from limbeck.runtime.student import Student
from tests.export.tools import STRUCTURES, evaluate, make_model, small_record, small_student


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_bytes_are_within_half_a_step_of_each_channel(seed, size):
    weight = size * torch.from_numpy(np.random.default_rng(seed).normal(size=(7, 5)))
    kept, scale = round_to_bytes(weight)
    assert kept.dtype == torch.int8
    assert (((kept * scale) - weight).abs() <= 0.5001 * scale).all()
    assert kept.abs().amax(0).eq(127).all()  # the whole range is used
    kept, scale = round_to_bytes(torch.zeros(4, 2))
    assert not (kept * scale).any()
    assert torch.isfinite(scale).all()


def test_halves_keep_their_bits():
    record = small_record()
    rounded = store_weights(record, "float16").record.weights
    for name, value in record.weights.items():
        error = np.abs(rounded[name] - value)
        assert (error <= (2.0**-11 * np.abs(value) + 1e-7 if value.ndim == 2 else 0)).all(), name
    assert rounded["embedding"].dtype == np.float32


@pytest.mark.parametrize(("kind", "size"), [("float16", 0.52), ("int8", 0.31)])
def test_the_graph_computes_with_the_rounded_weights(kind, size):
    model = store_weights(small_record(), kind)
    rounded, whole = (sum(v.nbytes for v in one.network.buffers()) for one in (model, make_model()))
    assert rounded < size * whole
    frames = STRUCTURES["triclinic"] + STRUCTURES["molecule"]
    found = evaluate(model, frames)
    wanted = Student(model.record, threads=1).evaluate(frames)
    assert np.abs(found["forces"] - wanted.forces).max() < 1e-5
    before = small_student().evaluate(frames)
    assert np.abs(wanted.forces - before.forces).max() > 1e-5  # rounding does something
    plain = evaluate(make_model(), frames)
    assert np.abs(found["forces"] - plain["forces"]).max() > 1e-5


def test_weights_beyond_float16_are_refused():
    record = small_record()
    weights = dict(record.weights) | {"readout.0.weight": 1e6 * record.weights["readout.0.weight"]}
    with pytest.raises(InputError, match=r"weight 'readout.0.weight' is beyond the range of float16"):
        store_weights(replace(record, weights=weights), "float16")
    with pytest.raises(InputError, match="unknown quantisation; got 'int4'"):
        store_weights(record, "int4")


@pytest.mark.parametrize(
    ("kind", "rmse", "own", "refused"),
    [
        ("float16", 0.9, 28.0, False),
        ("float16", 1.1, 500.0, True),
        ("int8", 2.7, 28.0, False),
        ("int8", 2.9, 28.0, True),
        ("int8", 4.9, None, False),
        ("int8", 5.1, None, True),
        ("int8", 5.1, 400.0, True),
        ("int8", float("nan"), 28.0, True),
    ],
)
def test_what_rounding_may_cost(kind, rmse, own, refused):
    loss = Loss(kind, 3, 0.1, rmse, 3 * rmse, own, True, 0.0, 0.0)
    assert (loss.objection() is not None) == refused


def test_slower_is_judged_over_all_sizes():
    def at(atoms: int, export: float, float32: float | None) -> Latency:
        # medians are what a busy machine made of them
        return Latency(atoms, 10, 1, 5, 9.0, 1.0, 1.0, export, float32)

    assert slower([at(16, 1.02, 1.0), at(1000, 1.02, 1.0)]) is None
    assert slower([at(16, 1.3, 1.0), at(1000, 100.0, 99.0)]) == (
        "slower than float32: 1.3 ms instead of 1 at 16 atoms, 100 ms instead of 99 at 1000 atoms"
    )
    assert slower([at(16, 2.0, None)]) is None


def test_the_own_error_is_read_from_the_card():
    assert own_force_error({"metrics": {"test": {"force_rmse_mev_per_a": 27.7}}}) == 27.7
    assert own_force_error({"metrics": {"validation": {"all": {"force_rmse_mev_per_a": 3}}}}) == 3.0
    assert own_force_error({}) is None
