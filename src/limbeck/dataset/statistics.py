"""Statistics of a labelled set: counts, ranges, shortest pairs, reference energies."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase.data import atomic_masses, chemical_symbols
from scipy.spatial import cKDTree

from limbeck.core.checks import chunks, periodic_images
from limbeck.core.hashing import hash_structure
from limbeck.core.labels import LabelledSet
from limbeck.core.neighbours import PAIR_CUTOFF_A
from limbeck.core.scans import scan_mask
from limbeck.core.structures import StructureBatch
from limbeck.units import G_PER_CM3

_RANK_TOLERANCE = 1e-6  # singular values of composition fractions; rounding is near 1e-15

Range = tuple[float, float]


@dataclass(frozen=True)
class DataStatistics:
    """Plain Python values for the model card.

    Ranges are (minimum, maximum), None where nothing is known. Pairs of elements are written "H-O".
    """

    n_structures: int
    n_atoms: int
    n_groups: int
    atoms_per_structure: tuple[int, int]
    elements: dict[str, int]
    content_hash: str
    temperature_k: Range | None
    density_g_per_cm3: Range | None
    energy_ev_per_atom: Range
    force_rms_ev_per_a: float
    force_max_ev_per_a: float
    n_stress: int
    shortest_pair_a: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, tuples as lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def statistics(labelled: LabelledSet) -> DataStatistics:
    """Statistics of a set with finite labels, as the audit leaves it.

    Counts and the hash are of all structures; ranges and shortest pairs leave out close-contact scans, which
    go far beyond the structures that a student is meant for.
    """
    whole, labelled = labelled, without_scans(labelled)
    batch, labels, stress = labelled.structures, labelled.labels, whole.labels.stress
    numbers, counts = np.unique(whole.structures.numbers, return_counts=True)
    force = np.linalg.norm(labels.forces, axis=1)  # (N,)
    periodic = batch.periodic
    mass = np.add.reduceat(atomic_masses[batch.numbers], batch.offsets[:-1])  # (S,) amu
    density = mass[periodic] / batch.volume[periodic] * G_PER_CM3
    return DataStatistics(
        n_structures=len(whole),
        n_atoms=whole.structures.n_atoms,
        n_groups=len(set(whole.group) - {""}),
        atoms_per_structure=(int(batch.counts.min()), int(batch.counts.max())),
        elements={chemical_symbols[z]: int(c) for z, c in zip(numbers, counts, strict=True)},
        content_hash=content_hash(whole),
        temperature_k=_range(labelled.temperature_k),
        density_g_per_cm3=_range(density),
        energy_ev_per_atom=_range(labels.energy / batch.counts) or (np.nan, np.nan),
        force_rms_ev_per_a=float(np.sqrt(np.mean(labels.forces**2))),
        force_max_ev_per_a=float(force.max()),
        n_stress=0 if stress is None else int(np.isfinite(stress).all(axis=(1, 2)).sum()),
        shortest_pair_a=shortest_pairs(batch),
    )


def without_scans(labelled: LabelledSet) -> LabelledSet:
    """The set without its close-contact scans; unchanged where it holds nothing else."""
    scans = scan_mask(labelled.config_type)
    return labelled.select(np.flatnonzero(~scans)) if scans.any() and not scans.all() else labelled


def content_hash(labelled: LabelledSet) -> str:
    """SHA-256 of structures, energies and forces; independent of the order of structures."""
    offsets, labels = labelled.structures.offsets, labelled.labels
    parts = []
    for s, atoms in enumerate(labelled.structures.to_atoms()):
        digest = hashlib.sha256(hash_structure(atoms).encode())
        for values in (labels.energy[s], labels.forces[offsets[s] : offsets[s + 1]]):
            digest.update(np.ascontiguousarray(values, "<f8").tobytes())
        parts.append(digest.hexdigest())
    return hashlib.sha256("".join(sorted(parts)).encode()).hexdigest()


def shortest_pairs(batch: StructureBatch, cutoff: float = PAIR_CUTOFF_A) -> dict[str, float]:
    """Shortest distance (Å) of each pair of elements under periodic images."""
    elements = np.unique(batch.numbers)
    shortest: dict[str, float] = {}
    for _, part in chunks(batch):
        images = periodic_images(part, cutoff)
        number = part.numbers[images.atom]
        home = np.arange(len(images.atom)) < part.n_atoms
        trees = {z: cKDTree(images.points[number == z]) for z in elements if (number == z).any()}
        for a, b in combinations_with_replacement(sorted(trees), 2):
            centres = images.points[home & (number == a)]
            if not len(centres):
                continue
            # the nearest of the same element is the atom itself
            rank = [2] if a == b else [1]
            distance = trees[b].query(centres, k=rank, distance_upper_bound=cutoff)[0].min()
            name = "-".join(sorted((chemical_symbols[a], chemical_symbols[b])))
            if np.isfinite(distance):
                shortest[name] = min(shortest.get(name, np.inf), float(distance))
    return dict(sorted(shortest.items()))


def fit_references(labelled: LabelledSet) -> tuple[dict[int, float], str]:
    """Reference energy of each element (eV) by least squares of energies per atom, and a note on the fit.

    Where the compositions do not determine every element (one composition alone has rank one), this is the
    solution of minimum norm. Close-contact scans are left out.
    """
    labelled = without_scans(labelled)
    batch = labelled.structures
    finite = np.isfinite(labelled.labels.energy)
    elements, column = np.unique(batch.numbers, return_inverse=True)
    counts = np.zeros((len(batch), len(elements)))
    np.add.at(counts, (batch.structure_of_atom, column), 1.0)
    fractions = (counts / batch.counts[:, None])[finite]
    per_atom = (labelled.labels.energy / batch.counts)[finite]
    x, _, rank, _ = np.linalg.lstsq(fractions, per_atom, rcond=_RANK_TOLERANCE)
    residual = float(np.sqrt(np.mean((fractions @ x - per_atom) ** 2)))
    note = f"reference energies by least squares over {len(per_atom)} structures, "
    note += f"residual rms {residual:.4g} eV/atom"
    if rank < len(elements):
        note += (
            f"; the compositions determine {rank} of {len(elements)} reference energies (solution of minimum "
            "norm): energies of other compositions are meaningless"
        )
    return {int(z): float(e) for z, e in zip(elements, x, strict=True)}, note


def _range(values: np.ndarray) -> Range | None:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if len(known) else None
