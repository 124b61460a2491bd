"""Close-contact scans: pairs of atoms pushed together where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.neighborlist import neighbor_list

from limbeck.sampling.frames import make_frame
from limbeck.sampling.moves import Contacts

REACH_A = 8.0  #: pairs farther apart are not pushed together
_FREE = 0.5  # of the sum of covalent radii: a third atom nearer than this to the moved ones blocks the way
_ON_THE_WAY = 9  # points along the way at which that is judged


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


def scan_contacts(incoming: Sequence[Atoms], config: Contacts, step: str) -> tuple[list[Atoms], list[str]]:
    """Frames of all scans, and a sentence for each pair of elements that cannot be pushed together.

    Each scan is a family; ``info`` holds ``scan_pair`` ("Cl-Li") and ``scan_distance_a``.
    """
    frames: list[Atoms] = []
    notes: list[str] = []
    for a, b in element_pairs(incoming):
        name = "-".join(sorted((chemical_symbols[a], chemical_symbols[b])))
        found = [(frame, pair) for frame in incoming if (pair := nearest_pair(frame, a, b)) is not None]
        if not found:
            notes.append(
                f"{step}: no two atoms {name} can be pushed together within {REACH_A:g} Å, so they are not "
                "scanned; a supercell may have such a pair"
            )
            continue
        chosen = sorted({int(k * len(found) / config.scans) for k in range(config.scans)})
        for k, place in enumerate(chosen):
            parent, pair = found[place]
            family = f"{parent.info.get('family', '')}/{step}-{name}-s{k}"
            frames += _scan(parent, pair, config, step, family, name)
    return frames, notes


def nearest_pair(atoms: Atoms, a: int, b: int) -> ContactPair | None:
    """The nearest two atoms of these elements that meet no third atom on their way to each other."""
    among = np.flatnonzero(np.isin(atoms.numbers, (a, b)))
    if len(among) < 2:
        return None
    part = atoms[among]
    i, j, distance, vector = neighbor_list("ijdD", part, REACH_A)
    fits = (part.numbers[i] == a) & (part.numbers[j] == b) & (i != j)
    order = np.flatnonzero(fits)
    order = order[np.lexsort((j[order], i[order], np.round(distance[order], 6)))]
    for k in order:
        pair = ContactPair(int(among[i[k]]), int(among[j[k]]), vector[k])
        if _is_free(atoms, pair):
            return pair
    return None


def _is_free(atoms: Atoms, pair: ContactPair) -> bool:
    """Whether neither atom comes too close to a third, an image of its own included."""
    for fraction in np.linspace(0.0, 1.0, _ON_THE_WAY):
        moved = pushed(atoms, pair, pair.distance * (1.0 - fraction))
        reach = _FREE * (covalent_radii[atoms.numbers].max() * 2)
        i, j, distance = neighbor_list("ijd", moved, reach)
        one = np.isin(i, (pair.i, pair.j))
        own = ((i == pair.i) & (j == pair.j)) | ((i == pair.j) & (j == pair.i))
        near = distance < _FREE * (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]])
        if (one & ~own & near).any():
            return False
    return True


def pushed(atoms: Atoms, pair: ContactPair, distance_a: float) -> Atoms:
    """A copy with the two atoms so far apart, their midpoint and line kept."""
    copy = atoms.copy()
    inward = pair.vector * (1.0 - distance_a / pair.distance) / 2
    copy.positions[pair.i] += inward
    copy.positions[pair.j] -= inward
    return copy


def distances(start_a: float, config: Contacts) -> np.ndarray:
    """(n,) distances, Å, geometric from below ``start_a`` to ``shortest_a``."""
    part = np.arange(1, config.n + 1) / config.n
    return start_a ** (1.0 - part) * config.shortest_a**part


def _scan(
    parent: Atoms, pair: ContactPair, config: Contacts, step: str, family: str, name: str
) -> list[Atoms]:
    frames = []
    for distance in distances(pair.distance, config):
        frame = make_frame(pushed(parent, pair, float(distance)), family, step)
        frame.info["scan_pair"], frame.info["scan_distance_a"] = name, float(distance)
        frames.append(frame)
    return frames
