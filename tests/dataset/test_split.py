"""Splits: properties over random groups, and the permutation that a published bar rests on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from limbeck.core.labels import LabelledSet, Labels, concatenate_labelled
from limbeck.core.structures import StructureBatch
from limbeck.dataset import split
from limbeck.dataset.split import _describe
from limbeck.errors import InputError


def labelled(group, kind="", temperature=np.nan, shift: float = 0.0) -> LabelledSet:
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
        config_type=np.full(n, kind),
        temperature_k=np.full(n, temperature, float),
    )


def groups(sizes, stratum) -> LabelledSet:
    """Group k of ``sizes[k]`` structures at 100 K times ``stratum[k] + 1``."""
    names = np.repeat([f"g{k:03d}" for k in range(len(sizes))], sizes)
    return labelled(names, "md", np.repeat(100.0 * (np.asarray(stratum) + 1), sizes))


def trajectories(temperatures, starts, frames) -> LabelledSet:
    stratum = np.repeat(np.array(temperatures) / 100.0 - 1, starts)
    return groups([frames] * len(stratum), stratum)


def chosen_groups(data: LabelledSet, fraction: float, seed: int) -> np.ndarray:
    """(K,) bool."""
    names, member = np.unique(data.group, return_inverse=True)
    val = split(data, fraction, seed).val_index
    chosen = np.bincount(member[val], minlength=len(names))
    assert set(chosen[chosen > 0] - np.bincount(member)[chosen > 0]) <= {0}  # groups stay whole
    return chosen > 0


sizes = st.lists(st.integers(1, 40), min_size=2, max_size=30)
many = st.lists(st.integers(1, 9), min_size=12, max_size=30)
small = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4)), min_size=2, max_size=9)


@settings(deadline=None, max_examples=150)
@given(sizes=sizes, strata=st.integers(1, 4), fraction=st.floats(0.02, 0.9), seed=st.integers(0, 5))
def test_groups_stay_whole(sizes, strata, fraction, seed):
    data = groups(sizes, np.arange(len(sizes)) % strata)
    made = split(data, fraction, seed)
    train, val = made.parts(data)
    assert not set(train.group) & set(val.group)
    assert sorted(np.concatenate([made.train_index, made.val_index])) == list(range(len(data)))
    assert len(train) > 0
    assert len(val) > 0
    again = split(data, fraction, seed)
    assert np.array_equal(made.val_index, again.val_index)
    assert made.how == again.how
    # a temperature that validates trains too, unless no other cut is possible, which is reported
    assert set(val.temperature_k) <= set(train.temperature_k) or "whole config_type" in made.how


@settings(deadline=None, max_examples=300)
@given(drawn=small, fraction=st.floats(0.05, 0.9), seed=st.integers(0, 3))
@example(drawn=[(4, 0), (4, 0)], fraction=0.25, seed=0)  # as far from the target with a group as without
@example(drawn=[(3, 0), (3, 0), (5, 1), (5, 1)], fraction=0.5, seed=0)  # groups that fill their share
@example(drawn=[(9, k) for k in (0, 0, 1, 1, 2, 2, 2, 2, 2)], fraction=0.05, seed=0)  # too large, lopsided
def test_no_other_choice_is_nearer_by_one_swap(drawn, fraction, seed):
    """Against all choices of groups, by brute force.

    A choice is allowed where no stratum gives more than its share, and so keeps a training group. Where
    a single allowed group beats none, the choice made is allowed and nearest to the target among all
    allowed ones that exchange two groups of one stratum. Else it is the one group that is best by rank.
    """
    size, stratum = (np.array(column) for column in zip(*drawn, strict=True))
    total, rows = int(size.sum()), np.arange(len(size))
    target, most = min(max(round(fraction * total), 1), total - 1), max(0.5, fraction)
    chosen = chosen_groups(groups(size, stratum), fraction, seed)

    def allowed(choice: np.ndarray) -> bool:
        return all(size[choice & (stratum == s)].sum() <= most * size[stratum == s].sum() for s in stratum)

    def miss(choice: np.ndarray) -> int:
        return abs(int(size[choice].sum()) - target)

    choices = [np.array(bits) for bits in itertools.product([False, True], repeat=len(size))]
    single = [c for c in choices if c.sum() == 1]
    if any(allowed(c) and miss(c) < target for c in single):
        assert allowed(chosen)
        assert all((~chosen & (stratum == s)).any() for s in stratum)
        assert chosen.any()
        assert miss(chosen) < target
        swaps = [
            c for c in choices
            if (c != chosen).sum() == 2 and len(set(stratum[c != chosen])) == 1 and c.sum() == chosen.sum()
        ]  # fmt: skip
        assert miss(chosen) <= min((miss(c) for c in swaps if allowed(c)), default=target)
        return
    middle = np.median(np.unique(stratum, return_inverse=True)[1])

    def rank(k: int) -> tuple[bool, int, float]:
        place = np.searchsorted(np.unique(stratum), stratum[k])
        return (stratum == stratum[k]).sum() == 1, abs(size[k] - target), abs(place - middle)

    assert chosen.sum() == 1
    assert rank(int(chosen.argmax())) == min(map(rank, rows))


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(1, 5), st.floats(0.1, 0.5), st.integers(0, 3))
def test_equal_groups_are_spread_evenly_over_the_temperatures(each, strata, size, fraction, seed):
    """As many as the target asks for, and of no temperature two more than of another."""
    stratum = np.repeat(np.arange(strata), each)
    chosen = chosen_groups(groups([size] * len(stratum), stratum), fraction, seed)
    number = np.bincount(stratum[chosen], minlength=strata)
    assert np.ptp(number) <= 1
    target = min(max(round(fraction * size * len(stratum)), 1), size * len(stratum) - 1)
    most = strata * (each // 2)
    wanted = max(min(-(-(2 * target - size) // (2 * size)), most), 1)  # to the nearest, of two the fewer
    assert number.sum() == wanted


@settings(deadline=None, max_examples=60)
@given(sizes=many, fraction=st.floats(0.2, 0.5), seed=st.integers(0, 5))
def test_fraction_is_met_to_half_a_group(sizes, fraction, seed):
    data = groups(sizes, [0] * len(sizes))
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


def test_config_types_are_strata_too():
    data = trajectories([300], starts=4, frames=5)
    other = labelled(np.repeat([f"Si#0/rattle-b{k}" for k in range(4)], 5), "rattle", shift=100)
    both = concatenate_labelled([data, other])
    assert sorted(split(both, 0.25, 0).parts(both)[1].config_type) == ["md"] * 5 + ["rattle"] * 5


def test_single_trajectories_keep_the_extremes_in_training():
    data = trajectories([300, 600, 1000], starts=1, frames=20)
    made = split(data, 0.1, 0)
    _, val = made.parts(data)
    assert set(val.temperature_k) == {600.0}
    assert "1 of 3 groups validate (20 of 60 structures, 6 asked for)" in made.how
    assert "0 of 3 config_types and temperatures are in both sets" in made.how
    assert made.how.count("warning:") == 2


@pytest.mark.parametrize(("fraction", "seed", "train"), [(0.2, 0, 400), (0.333, 3, 334)])
def test_permutation_of_a_plain_file(fraction, seed, train):
    """The permutation that a published bar rests on."""
    made = split(labelled([""] * 500), fraction, seed)
    order = np.random.default_rng(seed).permutation(500)
    assert np.array_equal(made.train_index, order[:train])
    assert np.array_equal(made.val_index, order[train:])
    assert f"seed {seed}" in made.how


def test_groups_that_are_missing_or_all_the_same():
    one = split(labelled(["only"] * 10), 0.3, 0)
    assert one.val_index.tolist() == [7, 8, 9]
    assert "warning: all 10 structures are of one group" in one.how
    some = split(labelled(["a"] * 5 + [""] * 15), 0.2, 0)
    assert len(some.val_index) == 4
    assert some.val_index.min() >= 5


def test_separate_validation_set():
    data, other = labelled(["a"] * 6), labelled(["b"] * 3, shift=4.0)
    made = split(data, other, 0)
    train, val = made.parts(data)
    assert train.structures.positions[:, 0].tolist() == [0, 1, 2, 3]
    assert val.structures.positions[:, 0].tolist() == [4, 5, 6]
    assert "2 of them" in made.how
    assert split(data, labelled(["a"], shift=50.0)).how.endswith(
        "warning: 1 group names are in both sets (a, ...)"
    )
    with pytest.raises(InputError, match="every training structure is also in the validation set"):
        split(other, other)


@pytest.mark.parametrize(
    ("n", "fraction", "facts"),
    [*((2, bad, f"got {bad}; wanted between 0 and 1") for bad in (0.0, 1.0, -0.1, float("nan"))),
     (1, 0.5, "too few structures.*got 1; wanted 2 or more")],
)  # fmt: skip
def test_what_cannot_be_split(n, fraction, facts):
    with pytest.raises(InputError, match=f"--val: .*{facts}"):
        split(labelled(["a"] * n), fraction)


@pytest.mark.parametrize(("taken", "warns"), [(4, True), (5, False), (21, False), (22, True)])
def test_a_validation_set_far_from_the_fraction_is_warned_of(taken, warns):
    """Below half of the 10 that are asked for, or above twice as many and one."""
    how = _describe(np.array([taken, 100, 1]), np.zeros(3, int), np.array([True, False, False]), 10, seed=0)
    assert ("too few" in how) == warns


def test_a_plain_file_keeps_a_training_structure():
    assert len(split(labelled([""] * 10), 0.99, 0).train_index) == 1
