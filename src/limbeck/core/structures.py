"""Batches of structures as plain arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from limbeck.core.charge import spin_multiplicity, total_charge, write_charge


@dataclass(frozen=True)
class StructureBatch:
    """S structures of N atoms in all, laid end to end.

    Attributes
    ----------
    numbers: (N,) int64, atomic numbers.
    positions: (N, 3) float64, Å.
    cell: (S, 3, 3) float64, Å; rows are the lattice vectors, all zero without a cell.
    pbc: (S, 3) bool.
    offsets: (S + 1,) int64; structure s owns atoms ``offsets[s]:offsets[s + 1]``.
    charge: (S,) float64, total charge in units of e (``atoms.info["charge"]``, else 0).
    spin: (S,) int64, multiplicity 2S + 1 (``atoms.info["spin"]``), 0 where it is not given.

    Other usual keys of ``atoms.info`` count too: see ``limbeck/core/charge.py``.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    offsets: np.ndarray
    charge: np.ndarray
    spin: np.ndarray = None  # type: ignore[assignment]  # zeros unless given

    def __post_init__(self) -> None:
        if self.spin is None:
            object.__setattr__(self, "spin", np.zeros(len(self), np.int64))

    @classmethod
    def from_atoms(cls, frames: Iterable[Atoms]) -> StructureBatch:
        """Collect ASE structures; an empty iterable gives an empty batch."""
        frames = list(frames)
        counts = np.array([len(a) for a in frames], dtype=np.int64)

        def stack(rows: list[np.ndarray], shape: tuple[int, ...], dtype: type) -> np.ndarray:
            return np.concatenate(rows).astype(dtype) if rows else np.zeros(shape, dtype)

        return cls(
            numbers=stack([a.numbers for a in frames], (0,), np.int64),
            positions=stack([a.positions for a in frames], (0, 3), np.float64),
            cell=np.array([a.cell.array for a in frames], np.float64).reshape(-1, 3, 3),
            pbc=np.array([a.pbc for a in frames], bool).reshape(-1, 3),
            offsets=_offsets(counts),
            charge=np.array([total_charge(a) for a in frames], np.float64),
            spin=np.array([spin_multiplicity(a) for a in frames], np.int64),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)

    @property
    def counts(self) -> np.ndarray:
        """Atoms in each structure, (S,) int64."""
        return np.diff(self.offsets)

    @property
    def structure_of_atom(self) -> np.ndarray:
        """Structure index of each atom, (N,) int64."""
        return np.repeat(np.arange(len(self)), self.counts)

    @property
    def volume(self) -> np.ndarray:
        """|det(cell)|, (S,), Å³; zero without a cell."""
        return np.abs(np.linalg.det(self.cell)) if len(self) else np.zeros(0)

    @property
    def periodic(self) -> np.ndarray:
        """Whether the structure is periodic in all three directions, so that stress is defined, (S,)."""
        return self.pbc.all(axis=1) & (self.volume > 0)

    def atom_index(self, index: Sequence[int] | np.ndarray) -> np.ndarray:
        """Atom indices of the chosen structures, in the order chosen."""
        index = np.asarray(index, dtype=np.int64)
        if not len(index):
            return np.zeros(0, np.int64)
        return np.concatenate([np.arange(self.offsets[s], self.offsets[s + 1]) for s in index])

    def select(self, index: Sequence[int] | np.ndarray) -> StructureBatch:
        """The structures at ``index`` (integers), in that order."""
        index = np.asarray(index, dtype=np.int64)
        rows = dict.fromkeys(_OF_ATOMS, self.atom_index(index)) | dict.fromkeys(_OF_STRUCTURES, index)
        parts = {name: getattr(self, name)[row] for name, row in rows.items()}
        return StructureBatch(offsets=_offsets(self.counts[index]), **parts)

    def to_atoms(self) -> list[Atoms]:
        """ASE structures, without labels or columns."""
        frames = []
        for s in range(len(self)):
            atoms = slice(self.offsets[s], self.offsets[s + 1])
            frame = Atoms(self.numbers[atoms], self.positions[atoms], cell=self.cell[s], pbc=self.pbc[s])
            write_charge(frame.info, self.charge[s], self.spin[s])
            frames.append(frame)
        return frames


def concatenate(batches: Sequence[StructureBatch]) -> StructureBatch:
    """One batch from several, in order."""
    names = (*_OF_ATOMS, *_OF_STRUCTURES)
    parts = {name: np.concatenate([getattr(b, name) for b in batches]) for name in names}
    return StructureBatch(offsets=_offsets(np.concatenate([b.counts for b in batches])), **parts)


_OF_ATOMS, _OF_STRUCTURES = ("numbers", "positions"), ("cell", "pbc", "charge", "spin")


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
