"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv:2409.11321)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class _Group:
    """Blocks of one shape, (K, r, c), that are preconditioned together.

    ``place``: their slice of the permuted weights. ``left``, ``right``: the averaged G Gᵀ (K, r, r)
    and Gᵀ G (K, c, c). ``left_basis``, ``right_basis``: their eigenvectors, as columns.
    """

    place: slice
    shape: tuple[int, int, int]
    left: Tensor
    right: Tensor
    left_basis: Tensor
    right_basis: Tensor

    def of(self, permuted: Tensor) -> Tensor:
        """View of the blocks of an array ordered like the permuted weights."""
        return permuted[self.place].view(self.shape)


class Soap(torch.optim.Optimizer):
    """SOAP with decoupled weight decay over one flat parameter.

    Matrices are cut into blocks of at most ``block`` rows and columns (one matrix holds all parts of a PaiNN
    message); blocks of equal shape are computed together. Biases and vectors get plain Adam, as do all
    weights without ``block``. The first moment is kept in the eigenbasis and rotated with it.

    Parameters
    ----------
    flat: (P,) the parameter.  shapes: of the arrays in it, in their order.  every: steps between two
    power iterations of the eigenbases.
    """

    def __init__(
        self,
        flat: torch.nn.Parameter,
        shapes: Iterable[tuple[int, ...]],
        *,
        lr: float,
        weight_decay: float,
        block: int | None = 128,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        every: int = 10,
    ) -> None:
        super().__init__([flat], {"lr": lr, "weight_decay": weight_decay})
        self.flat, self.betas, self.eps, self.every = flat, betas, eps, every
        blocks = _blocks(shapes, block)
        self._order = torch.from_numpy(np.concatenate([np.ravel(index) for index in blocks]))
        self._back = torch.argsort(self._order)
        self._groups = list(_groups(blocks, flat.dtype))
        self.clear()

    def clear(self) -> None:
        """Reset all averages."""
        self.steps = 0
        self._mean, self._square = torch.zeros_like(self.flat.detach()), torch.zeros_like(self.flat.detach())
        for group in self._groups:
            for array in (group.left, group.right, group.left_basis, group.right_basis):
                array.zero_()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step along ``flat.grad``, at the learning rate of the parameter group. No closure."""
        if closure is not None:
            raise TypeError("SOAP evaluates no closure")
        if self.flat.grad is None:
            raise TypeError("no gradient to step along")
        slow, slower = self.betas
        self.steps += 1
        gradient = self.flat.grad[self._order]
        for group in self._groups:
            blocks = group.of(gradient)
            torch.baddbmm(group.left, blocks, blocks.mT, beta=slower, alpha=1 - slower, out=group.left)
            torch.baddbmm(group.right, blocks.mT, blocks, beta=slower, alpha=1 - slower, out=group.right)
            if self.steps == 1:
                group.left_basis.copy_(_eigenvectors(group.left))
                group.right_basis.copy_(_eigenvectors(group.right))
            blocks.copy_(group.left_basis.mT @ blocks @ group.right_basis)
        self._mean.lerp_(gradient, 1 - slow)
        self._square.lerp_(gradient * gradient, 1 - slower)
        size = (self._square / (1 - slower**self.steps)).sqrt_().add_(self.eps)
        change = self._mean.div(size).mul_(1 / (1 - slow**self.steps))
        for group in self._groups:
            blocks = group.of(change)
            blocks.copy_(group.left_basis @ blocks @ group.right_basis.mT)
        settings = self.param_groups[0]
        self.flat.mul_(1 - settings["lr"] * settings["weight_decay"])
        self.flat.sub_(change[self._back], alpha=settings["lr"])
        if self.steps % self.every == 0:
            for group in self._groups:
                self._turn(group)

    def _turn(self, group: _Group) -> None:
        """One power iteration of both bases, with the averages in them rotated along."""
        mean, square = group.of(self._mean), group.of(self._square)
        for left in (True, False):
            factor, basis = (group.left, group.left_basis) if left else (group.right, group.right_basis)
            product = factor @ basis
            order = (basis * product).sum(1).argsort(dim=-1, descending=True)  # by eigenvalue, (K, n)
            fresh, _ = torch.linalg.qr(product.gather(2, order[:, None].expand_as(product)))
            turn = fresh.mT @ basis  # from the old basis into the new one
            if left:
                mean.copy_(turn @ mean)
                square.copy_(square.gather(1, order[:, :, None].expand_as(square)))
            else:
                mean.copy_(mean @ turn.mT)
                square.copy_(square.gather(2, order[:, None].expand_as(square)))
            basis.copy_(fresh)

    # ---- checkpoints ----------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        parts = ("left", "right", "left_basis", "right_basis")
        factors = {f"{p}_{k}": getattr(g, p) for k, g in enumerate(self._groups) for p in parts}
        return {"mean": self._mean, "square": self._square, **factors}

    def arrays(self) -> dict[str, np.ndarray]:
        """The averages by name; with ``steps`` the whole state."""
        return {name: array.numpy() for name, array in self._state().items()}

    def load(self, arrays: Mapping[str, np.ndarray], steps: int) -> None:
        """Restore the state; KeyError where an array is missing."""
        for name, array in self._state().items():
            array.copy_(torch.from_numpy(arrays[name]))
        self.steps = steps


def _eigenvectors(factor: Tensor) -> Tensor:
    """As columns, by falling eigenvalue."""
    return torch.linalg.eigh(factor)[1].flip(-1)


def _blocks(shapes: Iterable[tuple[int, ...]], block: int | None) -> list[np.ndarray]:
    """Places in the flat weights: of blocks (k, r, c) by shape, then of all other weights (n,)."""
    matrices: dict[tuple[int, ...], list[np.ndarray]] = {}
    rest, at = [], 0
    for shape in shapes:
        count = int(np.prod(shape))
        places = np.arange(at, at + count).reshape(shape)
        at += count
        if block is None or len(shape) != 2 or min(shape) < 2:
            rest.append(places.ravel())
            continue
        for rows in range(0, shape[0], block):
            for columns in range(0, shape[1], block):
                part = places[rows : rows + block, columns : columns + block]
                matrices.setdefault(part.shape, []).append(part)
    return [*(np.stack(parts) for parts in matrices.values()), *rest]


def _groups(blocks: Iterable[np.ndarray], dtype: torch.dtype) -> Iterable[_Group]:
    at = 0
    for index in blocks:
        place = slice(at, at + index.size)
        at += index.size
        if index.ndim != 3:
            continue
        k, r, c = index.shape
        sizes = {"left": (k, r, r), "right": (k, c, c), "left_basis": (k, r, r), "right_basis": (k, c, c)}
        yield _Group(place, (k, r, c), **{n: torch.zeros(s, dtype=dtype) for n, s in sizes.items()})
