"""Vacancies and interstitials.

Sites count as alike when the elements and distances of their neighbours within 6 Å are: that needs
no symmetry search, and holds for structures that have been strained or relaxed too. Sites deeper in
a slab than that are alike, though no symmetry joins them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import get_distances
from ase.neighborlist import neighbor_list
from pydantic import AfterValidator, Field, PositiveInt
from scipy.spatial import Voronoi, cKDTree

from limbeck.core.checks import contacts, periodic_images
from limbeck.core.frames import group_of, make_frame
from limbeck.core.kinds import heights, open_axis
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.sampling.preparing import Varying
from limbeck.sampling.steps import wrong_periodicity

SURFACE_DEPTH_A = 1.5  #: atoms of the surface are within this of the outermost; layers are further apart
_NEIGHBOURHOOD_A, _ALIKE_A = 6.0, 0.02
_TRIES = 50  # random sets of sites for each variant
_REACH_A = 9.0  # images around the cell; holes are narrower
_SAME_HOLE_A = 0.1

#: atomic number and distance of each neighbour, sorted: (M, 2)
_Surroundings = np.ndarray


def _known_element(symbol: str) -> str:
    if symbol not in chemical_symbols[1:]:
        raise ValueError(f"no such element; got {symbol!r}; wanted a chemical symbol such as Si")
    return symbol


Element = Annotated[str, AfterValidator(_known_element)]


class Vacancy(Varying):
    """Remove ``n`` atoms of each start, in up to ``variants`` ways that symmetry does not make alike.

    element: which atoms may go (any unless given). where: ``surface`` takes atoms within 1.5 Å of
    the outermost of a slab and leaves starts without a surface as they are, ``bulk`` takes all
    others. The seed chooses among sites that are alike.
    """

    kind: Literal["vacancy"] = "vacancy"
    said: ClassVar[str] = "{n}, {element}, {where}, up to {variants} variants"
    n: PositiveInt = 1
    element: Element | None = None
    where: Literal["any", "surface", "bulk"] = "any"
    variants: PositiveInt = 2

    fitting: ClassVar[str] = "a start with a surface (vacuum of more than 5 Å)"

    def vary(self, atoms: Atoms, rng: np.random.Generator) -> list[Atoms]:
        """The structure without ``n`` atoms, in up to ``variants`` ways; none where it has no such surface.

        Raises
        ------
        InputError: fewer than ``n`` such atoms, or no atom would be left.
        """
        group = group_of(atoms)
        sites = _sites(atoms, self)
        if sites is None:
            return []
        if len(sites) < self.n or len(atoms) <= self.n:
            what = self.element or "atom"
            raise InputError(
                "too few atoms for the vacancies",
                where=f"step vacancy, start {group}",
                got=f"{len(sites)} sites ({what}, where: {self.where}) among {len(atoms)} atoms",
                wanted=f"more than {self.n}" if len(atoms) <= self.n else f"at least {self.n}",
                remedy="make a supercell first, or lower n",
            )
        around = _all_surroundings(atoms)
        made: list[Atoms] = []
        known: list[tuple[list[_Surroundings], np.ndarray]] = []
        for chosen in _draws(sites, self, rng):
            mutual = get_distances(atoms.positions[chosen], cell=atoms.cell, pbc=atoms.pbc)[1]
            mark = [around[k] for k in chosen], np.sort(mutual[np.triu_indices(len(chosen), 1)])
            if any(_alike_sets(mark, other) for other in known):
                continue
            known.append(mark)
            rest = atoms.copy()
            del rest[chosen]
            made.append(make_frame(rest, f"{group}/vacancy-{len(made)}", "vacancy"))
            if len(made) == self.variants:
                break
        return made


class Interstitial(Varying):
    """Put ``n`` atoms of ``element`` into the widest holes of each start that is periodic.

    variants: structures with a first atom in holes of different kinds, the widest first.
    min_ratio: no atom comes closer than this fraction of the sum of covalent radii.
    """

    kind: Literal["interstitial"] = "interstitial"
    said: ClassVar[str] = "{n}, {element}, up to {variants} variants"
    element: Element
    n: PositiveInt = 1
    variants: PositiveInt = 2
    min_ratio: Annotated[float, Field(ge=0.3, le=1.0)] = 0.5

    fitting: ClassVar[str] = "a periodic structure"

    def vary(self, atoms: Atoms, rng: np.random.Generator) -> list[Atoms]:
        """The structure with ``n`` atoms more, the first in each of up to ``variants`` kinds of hole.

        Raises
        ------
        InputError: the structure is not periodic, or no hole is wide enough.
        """
        where = f"step interstitial, start {group_of(atoms)}"
        if not atoms.pbc.any():
            remedy = "leave the step out for molecules"
            raise wrong_periodicity("an interstitial needs a periodic structure", where, atoms, remedy)
        made: list[Atoms] = []
        refused: list[str] = []
        for place in _holes(atoms, self.variants, rng):
            larger = atoms.copy()
            for k in range(self.n):
                hole = _holes(larger, 1, rng)[0] if k else place
                larger.append(self.element)
                larger.positions[-1] = hole
            i, j, distance, _ = contacts(StructureBatch.from_atoms([larger]), self.min_ratio)
            close = distance[(i >= len(atoms)) | (j >= len(atoms))]
            if len(close):
                refused.append(f"{self.element} at {close.min():.2f} Å from its neighbour")
            else:
                group = f"{group_of(atoms)}/interstitial-{len(made)}"
                made.append(make_frame(larger, group, "interstitial"))
        if not made:
            raise InputError(
                "no hole is wide enough for an interstitial",
                where=where,
                got=refused[0] if refused else "no hole inside the slab",
                wanted=f"min_ratio {self.min_ratio:g} of the sum of covalent radii",
                remedy="take a larger supercell, a smaller element, or lower min_ratio",
            )
        return made


def _sites(atoms: Atoms, config: Vacancy) -> np.ndarray | None:
    """Atoms that may go; None where a surface is wanted and there is none."""
    allowed = np.ones(len(atoms), dtype=bool)
    if config.element is not None:
        allowed &= atoms.numbers == chemical_symbols.index(config.element)
    axis = open_axis(atoms)
    if axis is None and config.where == "surface":
        return None
    if axis is not None and config.where != "any":
        height = heights(atoms, axis)
        outer = (height < SURFACE_DEPTH_A) | (height > height.max() - SURFACE_DEPTH_A)
        allowed &= outer if config.where == "surface" else ~outer
    return np.flatnonzero(allowed)


def _draws(sites: np.ndarray, config: Vacancy, rng: np.random.Generator) -> list[list[int]]:
    if config.n == 1:
        return [[int(k)] for k in rng.permutation(sites)]
    drawn = (rng.choice(sites, config.n, replace=False).tolist() for _ in range(_TRIES * config.variants))
    return [list(chosen) for chosen in dict.fromkeys(tuple(sorted(chosen)) for chosen in drawn)]


def _all_surroundings(atoms: Atoms) -> list[_Surroundings]:
    i, j, distance = neighbor_list("ijd", atoms, _NEIGHBOURHOOD_A)
    # each atom is the first of its own surroundings, so that sites differ by their elements
    own = np.arange(len(atoms))
    i, numbers = np.append(own, i), atoms.numbers[np.append(own, j)]
    distance = np.append(np.zeros(len(atoms)), distance)
    order = np.lexsort((distance, numbers, i))
    table = np.column_stack([numbers, distance])[order]
    return np.split(table, np.searchsorted(i[order], own[1:]))


def _alike(first: _Surroundings, second: _Surroundings) -> bool:
    """Neighbours at the rim may be on one side of it only, so those are left out where the counts differ."""
    inner = [part[part[:, 1] < _NEIGHBOURHOOD_A - _ALIKE_A] for part in (first, second)]
    return any(
        len(a) == len(b) and np.abs(a - b).max(initial=0.0) < _ALIKE_A for a, b in ((first, second), inner)
    )


def _alike_sets(
    first: tuple[list[_Surroundings], np.ndarray], second: tuple[list[_Surroundings], np.ndarray]
) -> bool:
    """Whether the sites and the distances among them match."""
    if np.abs(first[1] - second[1]).max(initial=0.0) > _ALIKE_A:
        return False
    left = list(second[0])
    for site in first[0]:
        match = next((k for k, other in enumerate(left) if _alike(site, other)), None)
        if match is None:
            return False
        left.pop(match)
    return True


def _holes(atoms: Atoms, most: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One hole of each of the ``most`` widest kinds: vertices of the Voronoi cells of atoms and images.

    A vertex is as far from four atoms or more and nearer to no other, so the widest holes are among
    them (Okabe et al., Spatial Tessellations, 2000). Those in the vacuum of a slab are left out.
    """
    batch = StructureBatch.from_atoms([atoms])
    images = periodic_images(batch, _REACH_A)
    points = images.points[:, :3]
    tree = cKDTree(points)
    vertices = Voronoi(points).vertices
    fraction = vertices @ np.linalg.inv(atoms.cell.complete().array)
    # The rim keeps both copies of a vertex that lies on a face of the cell; one is dropped below.
    home = ((fraction > -1e-6) & (fraction < 1 + 1e-6) | ~atoms.pbc).all(axis=1)
    axis = open_axis(atoms)
    if axis is not None:
        home &= _inside(atoms, vertices, axis)
    vertices = vertices[home]
    radius = tree.query(vertices)[0] if len(vertices) else np.zeros(0)
    order = np.lexsort((rng.permutation(len(vertices)), -np.round(radius, 2)))
    kinds: list[np.ndarray] = []
    marks: list[_Surroundings] = []
    for k in order:
        near = np.array(tree.query_ball_point(vertices[k], _NEIGHBOURHOOD_A), dtype=int)
        distance, numbers = (
            np.linalg.norm(points[near] - vertices[k], axis=1),
            atoms.numbers[images.atom[near]],
        )
        mark = np.column_stack([numbers, distance])[np.lexsort((distance, numbers))]
        if radius[k] > _SAME_HOLE_A and not any(_alike(mark, other) for other in marks):
            marks.append(mark)
            kinds.append(vertices[k])
        if len(kinds) == most:
            break
    return kinds


def _inside(atoms: Atoms, places: np.ndarray, axis: int) -> np.ndarray:
    """Whether each place is between the outermost atoms of a slab, (P,) bool."""
    inverse = np.linalg.inv(atoms.cell.complete().array)
    own = heights(atoms, axis)
    lowest = atoms.positions[int(own.argmin())] @ inverse[:, axis]
    above = places @ inverse[:, axis] - lowest
    if atoms.pbc[axis]:
        above = above % 1.0
    height = above / np.linalg.norm(inverse[:, axis])
    return (height > _SAME_HOLE_A) & (height < own.max() - _SAME_HOLE_A)
