"""Labels that a Potential gives for a batch, and labelled sets of structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from limbeck.core.structures import StructureBatch, concatenate


@dataclass(frozen=True)
class Labels:
    """Energies and their derivatives for S structures of N atoms in all.

    Attributes
    ----------
    energy: (S,) float64, eV.
    forces: (N, 3) float64, eV/Å.
    stress: (S, 3, 3) float64, eV/Å³, symmetric, positive in tension (ASE's sign), rows of
        NaN for structures where it is absent; None where the Potential has no stress at all.
    atom_energies: (N,) float64, eV, or None.
    """

    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray | None = None
    atom_energies: np.ndarray | None = None

    def select(self, structures: StructureBatch, index: Sequence[int] | np.ndarray) -> Labels:
        """The labels of the ``structures`` at ``index`` (integers), in that order."""
        index, atoms = np.asarray(index, np.int64), structures.atom_index(index)
        return Labels(
            energy=self.energy[index],
            forces=self.forces[atoms],
            stress=None if self.stress is None else self.stress[index],
            atom_energies=None if self.atom_energies is None else self.atom_energies[atoms],
        )


_COLUMNS = ("group", "config_type", "temperature_k", "frame")


@dataclass(frozen=True)
class LabelledSet:
    """Structures, their labels and the origin of each; what training and validation read.

    Attributes
    ----------
    structures, labels: S structures and their labels.
    group: (S,) str; frames of one trajectory share it ("" where unknown).
    config_type: (S,) str, the kind of frame; for Limbeck's own, the sampling step ("" where unknown).
    temperature_k: (S,) float64, K, NaN where unknown.
    frame: (S,) int64, its number in the file or store it was read from, kept in selections; the place in the
        set unless given.
    """

    structures: StructureBatch
    labels: Labels
    group: np.ndarray
    config_type: np.ndarray
    temperature_k: np.ndarray
    frame: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if len(self.frame) != len(self.structures):
            object.__setattr__(self, "frame", np.arange(len(self.structures)))

    def __len__(self) -> int:
        return len(self.structures)

    def select(self, index: Sequence[int] | np.ndarray) -> LabelledSet:
        """The structures at ``index`` (integers), in that order."""
        index = np.asarray(index, dtype=np.int64)
        columns = {name: getattr(self, name)[index] for name in _COLUMNS}
        labels = self.labels.select(self.structures, index)
        return LabelledSet(self.structures.select(index), labels, **columns)

    def to_atoms(self) -> list[Atoms]:
        """ASE structures with labels on a SinglePointCalculator and the columns in ``info``."""
        frames = self.structures.to_atoms()
        offsets = self.structures.offsets
        for s, frame in enumerate(frames):
            atoms = slice(offsets[s], offsets[s + 1])
            results = {"energy": float(self.labels.energy[s]), "forces": self.labels.forces[atoms]}
            if self.labels.stress is not None and np.isfinite(self.labels.stress[s]).all():
                results["stress"] = full_3x3_to_voigt_6_stress(self.labels.stress[s])
            if self.labels.atom_energies is not None:
                results["energies"] = self.labels.atom_energies[atoms]
            frame.calc = SinglePointCalculator(frame, **results)
            for name in ("group", "config_type"):
                if text := getattr(self, name)[s]:
                    frame.info[name] = str(text)
            if np.isfinite(self.temperature_k[s]):
                frame.info["temperature_K"] = float(self.temperature_k[s])
        return frames


def concatenate_labelled(sets: Sequence[LabelledSet]) -> LabelledSet:
    """One set from several; stress and atomic energies become NaN where a part has none."""
    return LabelledSet(
        concatenate([s.structures for s in sets]),
        join_labels([s.labels for s in sets], fill=True),
        **{name: np.concatenate([getattr(s, name) for s in sets]) for name in _COLUMNS},
    )


def join_labels(parts: Sequence[Labels], *, fill: bool = False) -> Labels:
    """One Labels from several; stress and atomic energies only where every part has them.

    ``fill``: where any part has them, with NaN for the others.
    """
    if not parts:
        return Labels(np.zeros(0), np.zeros((0, 3)))

    def join(name: str, like: str, *rest: int) -> np.ndarray | None:
        values = [getattr(part, name) for part in parts]
        missing = [value is None for value in values]
        if all(missing) or (any(missing) and not fill):
            return None
        sizes = [(len(getattr(part, like)), *rest) for part in parts]
        return np.concatenate(
            [np.full(n, np.nan) if v is None else v for v, n in zip(values, sizes, strict=True)]
        )

    energy = np.concatenate([part.energy for part in parts])
    forces = np.concatenate([part.forces for part in parts])
    return Labels(energy, forces, join("stress", "energy", 3, 3), join("atom_energies", "forces"))
