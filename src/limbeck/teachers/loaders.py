"""What several loaders share: batches, wrappers for restricted packages, counts of parameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from limbeck.core.labels import Labels, join_labels
from limbeck.core.potential import Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError


class Batched(Potential):
    """Evaluates small structures by ``several`` in one call, to share fixed costs, others by ``single``.

    The capabilities of ``single`` include ``batch_atoms``.
    """

    def __init__(self, single: Potential, several: Callable[[StructureBatch], Labels]) -> None:
        self.single, self.several = single, several
        self.name, self.capabilities = single.name, single.capabilities

    def evaluate(self, batch: StructureBatch) -> Labels:
        parts = []
        for group in groups(batch.counts, self.capabilities.batch_atoms or 0):
            chosen = batch if len(group) == len(batch) else batch.select(group)
            parts.append((self.several if len(group) > 1 else self.single.evaluate)(chosen))
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


class RightHandedCells(Potential):
    """Passes only right-handed cells to ``inner``: the negative lattice vectors span the same lattice.

    For packages that divide the stress by a signed volume, so that a left-handed cell flips its sign.
    """

    def __init__(self, inner: Potential) -> None:
        self.inner, self.name, self.capabilities = inner, inner.name, inner.capabilities

    def evaluate(self, batch: StructureBatch) -> Labels:
        handedness = np.where(np.linalg.det(batch.cell) < 0, -1.0, 1.0)  # (S,)
        return self.inner.evaluate(replace(batch, cell=batch.cell * handedness[:, None, None]))


class VacuumPadded(Potential):
    """Passes slabs and chains (and ``molecules``) to ``inner`` as periodic, with ``gap`` Å of vacuum.

    For packages that treat all structures as periodic. If ``gap`` is the cutoff, images do not interact.
    """

    def __init__(self, inner: Potential, gap: float, *, molecules: bool = True) -> None:
        self.inner, self.name, self.capabilities = inner, inner.name, inner.capabilities
        self.gap, self.molecules = gap, molecules

    def evaluate(self, batch: StructureBatch) -> Labels:
        padded = ~batch.periodic & (batch.pbc.any(axis=1) | self.molecules)  # (S,)
        frames = batch.to_atoms()
        for s in np.flatnonzero(padded):
            frames[s].center(vacuum=self.gap, axis=np.flatnonzero(~frames[s].pbc))
            frames[s].pbc = True
        labels = self.inner.evaluate(StructureBatch.from_atoms(frames))
        if labels.stress is None:
            return labels
        return replace(labels, stress=np.where(padded[:, None, None], np.nan, labels.stress))


def groups(counts: np.ndarray, batch_atoms: int) -> Iterator[list[int]]:
    """Consecutive indices in groups of at most ``batch_atoms`` atoms; larger structures are single."""
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


def float64(tensor: Any) -> np.ndarray:
    """A torch tensor as an array."""
    return tensor.detach().cpu().numpy().astype(np.float64)


def count_parameters(network: Any, *, frozen: bool = True) -> int:
    """Number of parameters of a ``torch.nn.Module``, with or without frozen ones."""
    return sum(int(weight.numel()) for weight in network.parameters() if frozen or weight.requires_grad)


def elements_of_types(types: Sequence[str]) -> frozenset[int]:
    """Atomic numbers of a model's type names; InputError unless all are chemical symbols."""
    if foreign := [name for name in types if name not in atomic_numbers]:
        what, wanted = "atom types of the model are not elements", "type names that are chemical symbols"
        raise InputError(what, got=", ".join(foreign[:5]), wanted=wanted)
    return frozenset(atomic_numbers[name] for name in types)
