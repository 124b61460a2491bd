"""Splits: properties over random groups, and the permutation that a published bar rests on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.labels import LabelledSet, Labels, concatenate_labelled
from limbeck.core.structures import StructureBatch
from limbeck.dataset import split
from limbeck.errors import InputError


def labelled(group, step=None, temperature=None, shift: float = 0.0) -> LabelledSet:
    """One hydrogen atom a structure, each at its own place."""
    n = len(group)
    x = np.arange(n) + shift
    return LabelledSet(
        structures=StructureBatch(
            numbers=np.ones(n, np.int64),
            positions=np.stack([x, 0 * x, 0 * x], axis=1),
            cell=np.zeros((n, 3, 3)),
            pbc=np.zeros((n, 3), bool),
            offsets=np.arange(n + 1),
            charge=np.zeros(n),
        ),
        labels=Labels(energy=x, forces=np.zeros((n, 3))),
        group=np.array(group, dtype=str),
        config_type=np.array([""] * n if step is None else step, dtype=str),
        temperature_k=np.full(n, np.nan) if temperature is None else np.asarray(temperature, float),
    )


def trajectories(temperatures, starts, frames) -> LabelledSet:
    group, kelvin = [], []
    for t in temperatures:
        for s in range(starts):
            group += [f"Si#0/md-{t}K-s{s}"] * frames
            kelvin += [t] * frames
    return labelled(group, ["md"] * len(group), kelvin)


sizes = st.lists(st.integers(1, 40), min_size=2, max_size=30)


@settings(deadline=None, max_examples=150)
@given(sizes=sizes, strata=st.integers(1, 4), fraction=st.floats(0.02, 0.9), seed=st.integers(0, 5))
def test_families_stay_whole(sizes, strata, fraction, seed):
    group = [f"f{k}" for k, size in enumerate(sizes) for _ in range(size)]
    kelvin = [100.0 * (k % strata + 1) for k, size in enumerate(sizes) for _ in range(size)]
    data = labelled(group, ["md"] * len(group), kelvin)
    made = split(data, fraction, seed)
    train, val = made.parts(data)
    assert not set(train.group) & set(val.group)
    assert sorted(np.concatenate([made.train_index, made.val_index])) == list(range(len(data)))
    assert len(train) > 0
    assert len(val) > 0
    again = split(data, fraction, seed)
    assert np.array_equal(made.val_index, again.val_index)
    assert made.how == again.how
    # Never a temperature that validates without training, unless no other cut was possible or it is said.
    assert set(val.temperature_k) <= set(train.temperature_k) or "whole step or temperature" in made.how


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=12, max_size=30) | st.integers(1, 20).map(lambda n: [n] * 30),
    fraction=st.floats(0.2, 0.5),
    seed=st.integers(0, 5),
)
def test_fraction_is_met_to_half_a_group(sizes, fraction, seed):
    data = labelled([f"f{k}" for k, size in enumerate(sizes) for _ in range(size)])
    made = split(data, fraction, seed)
    assert abs(len(made.val_index) - fraction * len(data)) <= max(sizes) / 2 + 0.5


def test_every_temperature_validates_where_it_can():
    data = trajectories([300, 600, 1000], starts=5, frames=10)
    for seed in range(5):
        made = split(data, 0.2, seed)
        _, val = made.parts(data)
        assert sorted(val.temperature_k) == [300.0] * 10 + [600.0] * 10 + [1000.0] * 10
        assert made.how == f"3 of 15 groups validate (30 of 150 structures, 30 asked for), seed {seed}"
    assert not np.array_equal(split(data, 0.2, 0).val_index, split(data, 0.2, 1).val_index)


def test_steps_are_strata_too():
    data = trajectories([300], starts=4, frames=5)
    other = labelled([f"Si#0/rattle-b{k}" for k in range(4) for _ in range(5)], ["rattle"] * 20, shift=100)
    both = concatenate_labelled([data, other])
    assert sorted(split(both, 0.25, 0).parts(both)[1].config_type) == ["md"] * 5 + ["rattle"] * 5


def test_single_trajectories_keep_the_extremes_in_training():
    data = trajectories([300, 600, 1000], starts=1, frames=20)
    made = split(data, 0.1, 0)
    _, val = made.parts(data)
    assert set(val.temperature_k) == {600.0}
    assert "1 of 3 groups validate (20 of 60 structures, 6 asked for)" in made.how
    assert "0 of 3 steps and temperatures are on both sides" in made.how
    assert made.how.count("warning:") == 2


@pytest.mark.parametrize(("fraction", "seed", "train"), [(0.2, 0, 400), (0.333, 3, 334)])
def test_permutation_of_a_plain_file(fraction, seed, train):
    """The permutation that a published bar rests on."""
    made = split(labelled([""] * 500), fraction, seed)
    order = np.random.default_rng(seed).permutation(500)
    assert np.array_equal(made.train_index, order[:train])
    assert np.array_equal(made.val_index, order[train:])
    assert f"seed {seed}" in made.how


def test_one_family_is_cut_once_with_a_warning():
    made = split(labelled(["only"] * 10), 0.3, 0)
    assert made.val_index.tolist() == [7, 8, 9]
    assert "warning: all 10 structures are of one group, so the last 3 validate" in made.how


def test_structures_without_family_beside_groups():
    data = labelled(["a"] * 5 + [""] * 15)
    made = split(data, 0.2, 0)
    assert len(made.val_index) == 4
    assert made.val_index.min() >= 5


def test_validation_set_of_its_own():
    data, held = labelled(["a"] * 6), labelled(["b"] * 3, shift=4.0)
    made = split(data, held, 0)
    train, val = made.parts(data)
    assert train.structures.positions[:, 0].tolist() == [0, 1, 2, 3]
    assert val.structures.positions[:, 0].tolist() == [4, 5, 6]
    assert "2 of them were in the training data too and do not train" in made.how
    shared = split(data, labelled(["a"], shift=50.0))
    assert shared.how.endswith("; warning: 1 group names are on both sides (a, ...)")
    with pytest.raises(InputError, match="every training structure is also in the validation set"):
        split(held, held)


@pytest.mark.parametrize(
    ("groups", "fraction", "text"),
    [
        *((["a", "b"], bad, "the validation fraction is out of range; got .*; wanted between 0")
          for bad in (0.0, 1.0, -0.1, float("nan"))),
        (["a"], 0.5, "too few structures to split; got 1; wanted 2 or more"),
    ],
)  # fmt: skip
def test_what_cannot_be_split(groups, fraction, text):
    with pytest.raises(InputError, match=f"--val: {text}"):
        split(labelled(groups), fraction)
