"""The step ``contacts``: pairs of atoms pushed together where they stand.

- {kind: contacts, n: 12}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Annotated, ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.neighborlist import neighbor_list
from pydantic import Field, PositiveInt, model_validator

from limbeck.core.frames import group_of, make_frame
from limbeck.core.scans import SCAN_STEP, is_scan
from limbeck.sampling.steps import Drawn, Made, RngOf

REACH_A = 8.0  #: pairs farther apart are not pushed together
_FREE = 0.5  # of the sum of covalent radii: a third atom nearer than this to the moved ones blocks the way
_ON_THE_WAY = 9  # points along the way at which that is evaluated


class Contacts(Drawn):
    """Close-contact scans of every pair of elements, like pairs included.

    The nearest pair that no third atom blocks is pushed together along its line, both atoms alike, all
    others fixed: what a student meets in hot dynamics. Teachers have holes there, so the labels of
    these frames are evaluated (:mod:`limbeck.labelling.repair`).

    n: distances a scan, geometric from that of the start (left out) to ``shortest_a``. scans: scans a
    pair of elements, spread over the incoming frames.
    """

    kind: Literal["contacts"] = "contacts"
    said: ClassVar[str] = "{shortest_a} Å"
    n: Annotated[int, Field(ge=3)] = 12
    shortest_a: Annotated[float, Field(ge=0.2)] = 0.3
    scans: PositiveInt = 1

    @model_validator(mode="after")
    def _known_by_name(self) -> Contacts:
        if self.name is not None and not is_scan(self.name):
            raise ValueError(
                f"contacts: got name {self.name!r}; wanted one that begins with {SCAN_STEP!r}, "
                "by which their labels are known"
            )
        return self

    def count(self, n_incoming: int, n_pairs: int) -> int:
        return n_pairs * min(self.scans, n_incoming) * self.n

    def frames(self, incoming: Sequence[Atoms], rng_of: RngOf) -> Made:
        """Each scan is a group; ``info`` holds ``scan_pair`` ("Cl-Li") and ``scan_distance_a``."""
        frames: list[Atoms] = []
        notes: list[str] = []
        for a, b in element_pairs(incoming):
            name = "-".join(sorted((chemical_symbols[a], chemical_symbols[b])))
            found = [(frame, pair) for frame in incoming if (pair := nearest_pair(frame, a, b)) is not None]
            if not found:
                notes.append(
                    f"{self.title}: no two atoms {name} can be pushed together within {REACH_A:g} Å, so they "
                    "are not scanned; a supercell may have such a pair"
                )
            chosen = sorted({int(k * len(found) / self.scans) for k in range(self.scans)}) if found else []
            for k, place in enumerate(chosen):
                parent, pair = found[place]
                part = np.arange(1, self.n + 1) / self.n
                for distance in pair.distance ** (1.0 - part) * self.shortest_a**part:
                    pushed = push_together(parent, pair, float(distance))
                    frame = make_frame(pushed, f"{group_of(parent)}/{self.title}-{name}-s{k}", self.title)
                    frame.info.update(scan_pair=name, scan_distance_a=float(distance))
                    frames.append(frame)
        return frames, notes


@dataclass(frozen=True)
class ContactPair:
    """Atoms i and j and the vector from i to the image of j, Å."""

    i: int
    j: int
    vector: np.ndarray

    @property
    def distance(self) -> float:
        return float(np.linalg.norm(self.vector))


def element_pairs(frames: Sequence[Atoms]) -> list[tuple[int, int]]:
    """Every pair of the elements present, like pairs included, (Z, Z') with Z <= Z'."""
    elements = sorted({int(z) for frame in frames for z in frame.numbers})
    return list(combinations_with_replacement(elements, 2))


def nearest_pair(atoms: Atoms, a: int, b: int) -> ContactPair | None:
    """The nearest two atoms of these elements that meet no third atom on their way to each other."""
    among = np.flatnonzero(np.isin(atoms.numbers, (a, b)))
    if len(among) < 2:
        return None
    part = atoms[among]
    i, j, distance, vector = neighbor_list("ijdD", part, REACH_A)
    order = np.flatnonzero((part.numbers[i] == a) & (part.numbers[j] == b) & (i != j))
    order = order[np.lexsort((j[order], i[order], np.round(distance[order], 6)))]
    pairs = (ContactPair(int(among[i[k]]), int(among[j[k]]), vector[k]) for k in order)
    return next((pair for pair in pairs if _is_free(atoms, pair)), None)


def _is_free(atoms: Atoms, pair: ContactPair) -> bool:
    """Whether neither atom comes too close to a third, an image of its own included."""
    radii = covalent_radii[atoms.numbers]
    for fraction in np.linspace(0.0, 1.0, _ON_THE_WAY):
        pushed = push_together(atoms, pair, pair.distance * (1.0 - fraction))
        i, j, distance = neighbor_list("ijd", pushed, 2 * _FREE * radii.max())
        one = np.isin(i, (pair.i, pair.j))
        own = one & np.isin(j, (pair.i, pair.j)) & (i != j)
        if (one & ~own & (distance < _FREE * (radii[i] + radii[j]))).any():
            return False
    return True


def push_together(atoms: Atoms, pair: ContactPair, distance_a: float) -> Atoms:
    """A copy with the two atoms so far apart, their midpoint and line kept."""
    copy = atoms.copy()
    inward = pair.vector * (1.0 - distance_a / pair.distance) / 2
    copy.positions[pair.i] += inward
    copy.positions[pair.j] -= inward
    return copy
