from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.students.engine import native_hyperparameters
from limbeck.students.specification import (
    PRESETS,
    Architecture,
    flatten,
    initial_weights,
    preset_architecture,
    unflatten,
)

TEN = tuple(range(1, 11))
#: trainable parameters a preset may have with 10 elements
BUDGETS = {"original": 427_292, "tiny": 77_203, "ultra-tiny": 21_459}

architectures = st.builds(
    Architecture,
    elements=st.sets(st.integers(1, 118), min_size=1, max_size=4).map(lambda z: tuple(sorted(z))),
    hidden_dim=st.integers(1, 9),
    interactions=st.integers(1, 4),
    rbf=st.integers(1, 5),
    gate_width=st.integers(1, 7),
    readout_width=st.integers(1, 6),
    cutoff=st.floats(0.5, 20),
    energy_scale=st.floats(1e-3, 1e3),
)


@pytest.mark.parametrize(
    ("preset", "shape"), [("original", (128, 3, 20)), ("tiny", (64, 2, 12)), ("ultra-tiny", (32, 2, 10))]
)
def test_presets_have_their_shape_and_keep_to_the_budget(preset, shape):
    n = preset_architecture(preset, TEN).n_parameters
    assert 0.85 * BUDGETS[preset] < n <= BUDGETS[preset]
    arch = preset_architecture(preset, (8, 1, 8))
    assert (arch.hidden_dim, arch.interactions, arch.rbf) == shape
    assert (arch.elements, arch.cutoff) == ((1, 8), 5.0)
    assert set(PRESETS) == set(BUDGETS)
    with pytest.raises(InputError, match="got 'tinny'; wanted original or tiny or ultra-tiny; .*'tiny'"):
        preset_architecture("tinny", (1,))
    with pytest.raises(InputError, match="at least one element; got none"):
        preset_architecture("tiny", ())


@given(architectures, st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_flat_weights_round_trip(arch, seed):
    weights = initial_weights(arch, seed=seed, mean_neighbours=10.0)
    flat = flatten(arch, weights, np.float64)
    assert flat.shape == (arch.n_parameters,)
    back = unflatten(arch, flat)
    assert list(back) == list(weights) == list(arch.parameter_shapes())
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value)
    assert Architecture.from_dict(arch.to_dict()) == arch
    assert native_hyperparameters(arch).parameters == arch.n_parameters


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hidden_dims": 3}, "unexpected keyword argument 'hidden_dims'"),
        ({"cutoff": 0.0}, "wanted positive numbers"),
        ({"cutoff": float("nan")}, "wanted positive numbers"),
        ({"energy_scale": float("inf")}, "wanted positive numbers"),
        ({"norm_offset": "0.1"}, "wanted positive numbers"),
        ({"rbf": 0}, "wanted integers from 1 to 4096"),
        ({"interactions": 2.0}, "wanted integers from 1 to 4096"),
        ({"elements": [8, 1]}, "wanted ascending atomic numbers"),
        ({"elements": [1, 1]}, "wanted ascending atomic numbers"),
        ({"elements": []}, "wanted ascending atomic numbers"),
        ({"elements": [119]}, "wanted ascending atomic numbers"),
        ({"name": "schnet"}, "name 'schnet', wanted 'painn'"),
        ({"core_a": [1.0]}, "wanted one for each pair"),
        ({"core_a": [0.1, 0.1, 0.1, -1.0]}, "wanted distances"),
    ],
)
def test_invalid_fields_are_refused(change, text):
    fields = preset_architecture("tiny", (1, 8)).to_dict()
    with pytest.raises(InputError, match=f"architecture; got .*{text}"):
        Architecture.from_dict(fields | change)


def test_species_are_places_among_the_elements():
    arch = preset_architecture("tiny", (14, 1, 8))
    assert arch.species(np.array([8, 14, 1, 8])).tolist() == [1, 2, 0, 1]
    for unknown in (6, 0, 118):
        with pytest.raises(InputError, match=r"does not know; got Z = "):
            arch.species(np.array([1, unknown]))


def test_same_seed_same_weights():
    arch = preset_architecture("ultra-tiny", (1, 8))
    a, b, c = (flatten(arch, initial_weights(arch, seed=s, mean_neighbours=9.0)) for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
