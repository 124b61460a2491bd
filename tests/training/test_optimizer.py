"""The optimiser against torch's Adam, against its own symmetry, and through a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.training.optimizer import Soap

SHAPES = [(6, 4), (4,), (6, 4), (1, 5), (3, 9)]
COUNT = sum(int(np.prod(shape)) for shape in SHAPES)


def run(flat: np.ndarray, gradients: list[np.ndarray], shapes=SHAPES, **settings) -> np.ndarray:
    """The weights after a step along each gradient."""
    parameter = torch.nn.Parameter(torch.tensor(flat))
    soap = Soap(parameter, shapes, **{"lr": 0.01, "weight_decay": 0.1, **settings})
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        soap.step()
    return parameter.detach().numpy().copy()


def test_without_blocks_it_is_adamw():
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=COUNT), [rng.normal(size=COUNT) for _ in range(30)]
    parameter = torch.nn.Parameter(torch.tensor(start))
    adam = torch.optim.AdamW([parameter], lr=0.01, weight_decay=0.1, betas=(0.9, 0.99))
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        adam.step()
    mine = run(start, gradients, block=None, betas=(0.9, 0.99))
    np.testing.assert_allclose(mine, parameter.detach().numpy(), rtol=1e-12)
    assert np.abs(mine - run(start, gradients, block=4, betas=(0.9, 0.99))).max() > 1e-3


def test_steps_turn_with_the_features():
    """Orthogonal changes of rows and columns leave the path alone: Adam's path depends on the axes."""
    rng = np.random.default_rng(1)
    rows, columns = (np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(2))
    start, gradients = rng.normal(size=(5, 5)), [rng.normal(size=(5, 5)) for _ in range(40)]

    def off(**settings) -> float:
        here, there = (
            run(turn(start).ravel(), [turn(g).ravel() for g in gradients], [(5, 5)], **settings)
            for turn in (lambda m: m, lambda m: rows @ m @ columns)
        )
        return float(np.abs(there.reshape(5, 5) - rows @ here.reshape(5, 5) @ columns).max())

    assert off() < 1e-6
    assert off(block=None) > 1e-3


def test_blocks_are_independent():
    """A wide matrix takes the steps of its parts."""
    rng = np.random.default_rng(2)
    start, gradients = rng.normal(size=(4, 12)), [rng.normal(size=(4, 12)) for _ in range(25)]
    whole = run(start.ravel(), [g.ravel() for g in gradients], [(4, 12)], block=4).reshape(4, 12)
    for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
        alone = run(start[:, part].ravel(), [g[:, part].ravel() for g in gradients], [(4, 4)], block=4)
        np.testing.assert_allclose(whole[:, part], alone.reshape(4, 4), rtol=1e-9)


def test_it_descends_faster_than_adam():
    """Least squares with features as unlike in size as 1 and 1000, mixed by rotations."""
    rng = np.random.default_rng(3)
    q = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    features = rng.normal(size=(200, 8)) * np.logspace(0, 3, 8) @ q
    features /= 1000
    wanted = features @ rng.normal(size=(8, 8))

    def loss_after(block: int | None) -> float:
        parameter = torch.nn.Parameter(torch.zeros(64, dtype=torch.float64))
        soap = Soap(parameter, [(8, 8)], lr=0.03, weight_decay=0.0, block=block)
        for _ in range(400):
            error = features @ parameter.detach().numpy().reshape(8, 8) - wanted
            parameter.grad = torch.tensor((features.T @ error).ravel() / 200)
            soap.step()
        return float((error**2).mean())

    assert loss_after(8) < 0.1 * loss_after(None)


def test_arrays_hold_the_whole_state():
    rng = np.random.default_rng(4)
    start, gradients = rng.normal(size=COUNT), [rng.normal(size=COUNT) for _ in range(37)]
    first = torch.nn.Parameter(torch.tensor(start))
    one = Soap(first, SHAPES, lr=0.01, weight_decay=0.1, block=4)
    for gradient in gradients[:23]:
        first.grad = torch.tensor(gradient)
        one.step()
    second = torch.nn.Parameter(first.detach().clone())
    other = Soap(second, SHAPES, lr=0.01, weight_decay=0.1, block=4)
    other.load({k: v.copy() for k, v in one.arrays().items()}, one.steps)
    for gradient in gradients[23:]:
        second.grad = torch.tensor(gradient)
        other.step()
    assert np.array_equal(second.detach().numpy(), run(start, gradients, block=4))
    with pytest.raises(KeyError):
        other.load({"mean": one.arrays()["mean"]}, 1)


def test_cleared_it_starts_again():
    rng = np.random.default_rng(5)
    start, gradients = rng.normal(size=COUNT), [rng.normal(size=COUNT) for _ in range(12)]
    parameter = torch.nn.Parameter(torch.tensor(start))
    soap = Soap(parameter, SHAPES, lr=0.01, weight_decay=0.1, block=4)
    parameter.grad = torch.tensor(rng.normal(size=COUNT))
    soap.step()
    soap.clear()
    with torch.no_grad():
        parameter.copy_(torch.tensor(start))
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        soap.step()
    assert np.array_equal(parameter.detach().numpy(), run(start, gradients, block=4))


def test_the_first_step_along_one_direction_keeps_it():
    """In the eigenbases a gradient of rank one has a single entry, so Adam's first step is along it, of length lr."""
    rng = np.random.default_rng(4)
    u, v = (x / np.linalg.norm(x) for x in rng.normal(size=(2, 5)))
    moved = run(np.zeros(25), [np.outer(3 * u, v).ravel()], [(5, 5)], lr=0.01, weight_decay=0.0)
    np.testing.assert_allclose(moved.reshape(5, 5), -0.01 * np.outer(u, v), atol=1e-6)
