"""Several small structures in one call of a network: its fixed costs are paid once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from ase import Atoms

from limbeck.core.labels import Labels, join_labels
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch


class Batched(Potential):
    """A Potential whose small structures are evaluated together, ``batch_atoms`` atoms at once.

    Parameters
    ----------
    one_by_one: evaluates what is alone in its group; its capabilities name ``batch_atoms``.
    together: evaluates a batch of several structures in one call.
    """

    def __init__(self, one_by_one: Potential, together: Callable[[StructureBatch], Labels]) -> None:
        self.inner, self.together = one_by_one, together
        self.name, self.capabilities = one_by_one.name, one_by_one.capabilities

    def evaluate(self, batch: StructureBatch) -> Labels:
        parts = []
        for group in groups(batch.counts, self.capabilities.batch_atoms or 0):
            chosen = batch if len(group) == len(batch) else batch.select(group)
            parts.append((self.together if len(group) > 1 else self.inner.evaluate)(chosen))
        return join_labels(parts)

    def close(self) -> None:
        self.inner.close()


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
