"""What the loaders of several teachers share: batches, vacuum, counts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from limbeck.core.labels import Labels, join_labels
from limbeck.core.potential import Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError


class Batched(Potential):
    """A Potential whose small structures are evaluated in one call: a network's fixed costs are paid once.

    Parameters
    ----------
    alone: evaluates what is alone in its group; its capabilities name ``batch_atoms``.
    together: evaluates a batch of several structures in one call.
    """

    def __init__(self, alone: Potential, together: Callable[[StructureBatch], Labels]) -> None:
        self.alone, self.together = alone, together
        self.name, self.capabilities = alone.name, alone.capabilities

    def evaluate(self, batch: StructureBatch) -> Labels:
        parts = []
        for group in groups(batch.counts, self.capabilities.batch_atoms or 0):
            chosen = batch if len(group) == len(batch) else batch.select(group)
            parts.append((self.together if len(group) > 1 else self.alone.evaluate)(chosen))
        return join_labels(parts)


class OneByOne(Potential):
    """A ``model`` that evaluates structure by structure."""

    def __init__(self, model: Any, capabilities: Capabilities, name: str) -> None:
        self.model, self.capabilities, self.name = model, capabilities, name

    @abstractmethod
    def single(self, atoms: Atoms) -> Labels:
        """Labels of one structure (S = 1), which may be changed."""

    def evaluate(self, batch: StructureBatch) -> Labels:
        return join_labels([self.single(atoms) for atoms in batch.to_atoms()])


def groups(counts: np.ndarray, batch_atoms: int) -> Iterator[list[int]]:
    """Indices in order, in runs of at most ``batch_atoms`` atoms; a larger structure stands alone."""
    group: list[int] = []
    atoms = 0
    for s, count in enumerate(counts):
        if group and atoms + count > batch_atoms:
            yield group
            group, atoms = [], 0
        group.append(s)
        atoms += int(count)
    if group:
        yield group


def close_cells(frames: Iterable[Atoms], gap: float) -> None:
    """Make ``frames`` periodic in all directions, with ``gap`` Å of vacuum on either side.

    With ``gap`` the reach of a potential, no two images see each other. For packages that take a
    structure as periodic in all directions whatever it says.
    """
    for frame in frames:
        if not frame.pbc.all():
            frame.center(vacuum=gap, axis=np.flatnonzero(~frame.pbc))
            frame.pbc = True


def float64(tensor: Any) -> np.ndarray:
    """A tensor of torch as an array of its shape."""
    return tensor.detach().cpu().numpy().astype(np.float64)


def count_parameters(network: Any, *, frozen: bool = True) -> int:
    """Weights of a ``torch.nn.Module``, with or without those that its package does not train."""
    return sum(int(weight.numel()) for weight in network.parameters() if frozen or weight.requires_grad)


def elements_of_types(types: Sequence[str]) -> frozenset[int]:
    """Atomic numbers of a model's type names; InputError where one is no chemical symbol."""
    if foreign := [name for name in types if name not in atomic_numbers]:
        raise InputError(
            "the model's types are not elements",
            got=", ".join(foreign[:5]),
            wanted="type names that are chemical symbols",
        )
    return frozenset(atomic_numbers[name] for name in types)
