"""Schedule, batches, loss and prepared data, each against a hand calculation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.students.baseline import Baseline
from limbeck.students.engine import make_engine
from limbeck.students.painn import radial_basis
from limbeck.students.specification import (
    PRESETS,
    basis_power,
    flatten,
    initial_weights,
    preset_architecture,
)
from limbeck.training.data import epoch_batches, prepare
from limbeck.training.loss import batch_loss, energy_weight, learning_rate

from .tools import emt_set, mixed_set, molecule_set, prepared


def test_schedules():
    for done, rate in (
        (0.0, 1e-4),
        (0.05, 5e-3),
        (0.1, 1e-2),
        (0.55, 1e-2 * (0.001 + 0.999 / 2)),
        (1.0, 1e-5),
    ):
        assert learning_rate(done, 1e-2, 0.1) == pytest.approx(rate)  # a hundredth at first, never zero
    assert learning_rate(1.7, 1e-2, 0.1) == learning_rate(1.0, 1e-2, 0.1)
    assert learning_rate(0.0, 1e-2, 0.0) == pytest.approx(1e-2)
    assert energy_weight(0.0, (10, 200)) == energy_weight(0.5, (10, 200)) == 10
    assert energy_weight(0.75, (10, 1000)) == pytest.approx(100)  # geometric
    assert energy_weight(1.0, (10, 200)) == pytest.approx(200)
    assert (energy_weight(0.4, (0, 5)), energy_weight(0.6, (0, 5))) == (0, 5)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 64), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_an_epoch_covers_every_structure_once_within_the_atoms(counts, most, seed):
    counts = np.array(counts, np.int64)
    batches = epoch_batches(counts, most, np.random.default_rng(seed))
    covered = np.concatenate(batches) if batches else np.zeros(0, int)
    assert sorted(covered.tolist()) == list(range(len(counts)))
    for batch in batches:
        assert len(batch) == 1 or counts[batch].sum() <= most
    again = epoch_batches(counts, most, np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


@pytest.mark.parametrize("kind", ["huber", "mse"])
@pytest.mark.parametrize("mask", ["mixed", "none", "all"])
def test_loss_is_the_written_formula(kind, mask):
    rng = np.random.default_rng(3)
    counts = np.array([2, 3, 5])
    energy, forces, virial = rng.normal(size=3), rng.normal(size=(10, 3)), rng.normal(size=(3, 3, 3))
    known = {"mixed": [0, 2], "none": [0, 1, 2], "all": []}[mask]  # structures with a stress
    virial[[s for s in range(3) if s not in known]] = np.nan
    scale, delta, weights = 0.7, 0.4, (3.0, 2.0, 0.5)

    def inner(x: np.ndarray) -> np.ndarray:
        large = delta * (np.abs(x) - delta / 2)
        return np.where((np.abs(x) < delta) | (kind == "mse"), x**2 / 2, large)

    stress = np.mean([inner(virial[s] / counts[s] / scale) for s in known]) if known else 0.0
    wanted = (
        3.0 * np.mean((energy / counts / scale) ** 2 / 2)
        + 2.0 * np.mean(inner(forces / scale))
        + 0.5 * stress
    )
    total = batch_loss(
        [torch.tensor(x) for x in (energy, forces, virial)], torch.tensor(counts).double(),
        force_scale=scale, weights=weights, kind=kind, delta=delta,
    )  # fmt: skip
    assert float(total) == pytest.approx(wanted, rel=1e-12)


def test_masked_stress_gives_no_gradient_and_no_nan():
    virial = torch.full((2, 3, 3), float("nan"), dtype=torch.float64)
    virial[0] = 1.0
    virial.requires_grad_()
    total = batch_loss(
        [torch.zeros(2, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64), virial],
        torch.tensor([2.0, 2.0], dtype=torch.float64), force_scale=1.0, weights=(1, 1, 1), kind="huber", delta=0.1,
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(total, virial)
    assert (gradient[1] == 0).all()
    assert torch.isfinite(gradient[0]).all()


def test_prepared_data_is_label_minus_baseline():
    labelled = mixed_set(3)
    zbl = Baseline(dict.fromkeys((1, 8, 29, 79), -2.0), {(29, 29): 3.2, (1, 8): 1.4})
    data = prepare(labelled, zbl, 4.0)
    base = zbl.evaluate(data.structures, data.pairs)
    np.testing.assert_allclose(data.energy + base.energy, labelled.labels.energy, rtol=1e-13)
    np.testing.assert_allclose(data.forces + base.forces, labelled.labels.forces, atol=1e-12)
    volume = data.structures.volume[:3, None, None]
    np.testing.assert_allclose(
        (data.virial + base.virial)[:3] / volume, labelled.labels.stress[:3], atol=1e-13
    )
    assert np.isnan(data.virial[3:]).all()  # molecules have no stress
    directed = sum(len(d) for d in np.split(data.pairs.first, data.pairs.offsets[1:-1])) * 2
    assert data.mean_neighbours == directed / data.structures.n_atoms


def initial_filters(preset: str, distance: np.ndarray) -> np.ndarray:
    """Random filters of all layers as functions of the distance, (P, channels), at the start."""
    arch = preset_architecture(preset, (1,))
    weights = initial_weights(arch, seed=0, mean_neighbours=2.0)  # a spread of 1
    basis = radial_basis(torch.tensor(distance), arch.rbf, arch.cutoff).numpy()
    return basis @ np.concatenate([w for name, w in weights.items() if "filter" in name], axis=1)


@pytest.mark.parametrize("preset", PRESETS)
def test_basis_power_is_that_of_a_random_filter(preset):
    distance = np.array([0.7, 1.0, 2.5, 4.0, 4.9, 5.0, 6.0])
    found = (initial_filters(preset, distance) ** 2).mean(1)
    power = basis_power(preset_architecture(preset, (1,)), distance)
    np.testing.assert_allclose(found, power, rtol=0.3, atol=1e-14)  # of 160 to 1,024 channels


def test_a_preset_of_more_waves_starts_no_rougher():
    """What few labels do not determine stays as it began: `original` was twice as rough as `ultra-tiny`."""
    distance = np.linspace(1.5, 4.5, 601)
    rough = {}
    for preset in PRESETS:
        filters = initial_filters(preset, distance)
        slope = np.gradient(filters, distance, axis=0)
        rough[preset] = np.sqrt((slope**2).mean() / (filters**2).mean())
    assert max(rough.values()) < 1.3 * min(rough.values()), rough


@pytest.mark.parametrize("make", [emt_set, molecule_set, mixed_set])
@pytest.mark.parametrize("preset", PRESETS)
def test_training_starts_from_sensible_energies(preset, make):
    """Features multiply in every interaction: too large a start overflows in float32 on molecules."""
    data = prepared(make(3), cutoff=5.0)
    architecture = preset_architecture(preset, tuple(np.unique(data.structures.numbers).tolist()))
    engine = make_engine(architecture, kind="native", threads=1)
    engine.set_structures(data.structures, data.pairs)
    for seed in range(3):
        size = {"mean_neighbours": data.mean_neighbours, "power": data.basis_power(architecture)}
        weights = initial_weights(architecture, seed=seed, **size)
        engine.set_weights(flatten(architecture, weights))
        out = engine.evaluate(np.arange(len(data)))
        assert np.abs(out.atom_energies).max() < 1e3  # 1e25 and more without power and the quiet update
        assert np.abs(out.atom_energies).max() > 1e-3
        assert np.abs(out.forces).max() < 1e5
