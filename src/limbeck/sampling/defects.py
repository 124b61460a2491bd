"""Vacancies and interstitials.

Sites count as alike when the elements and distances of their neighbours within 6 Å are: that needs
no symmetry search, and holds for structures that have been strained or relaxed too. Sites deeper in
a slab than that are alike, though no symmetry joins them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import get_distances
from ase.neighborlist import neighbor_list
from scipy.spatial import Voronoi, cKDTree

from limbeck.core.checks import contacts, periodic_images
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.sampling.frames import make_frame
from limbeck.sampling.kinds import heights, open_axis
from limbeck.sampling.preparing import Interstitial, Vacancy

SURFACE_DEPTH_A = 1.5  #: atoms of the surface are within this of the outermost; layers are further apart
_NEIGHBOURHOOD_A, _ALIKE_A = 6.0, 0.02
_TRIES = 50  # random sets of sites for each variant
_REACH_A = 9.0  # images around the cell; holes are narrower
_SAME_HOLE_A = 0.1

#: atomic number and distance of each neighbour, sorted: (M, 2)
_Surroundings = np.ndarray


def vacancies(atoms: Atoms, config: Vacancy, rng: np.random.Generator) -> list[Atoms]:
    """The structure without ``n`` atoms, in up to ``variants`` ways; none where it has no such surface.

    Raises
    ------
    InputError: fewer than ``n`` such atoms, or no atom would be left.
    """
    family = atoms.info.get("family", "")
    sites = _sites(atoms, config)
    if sites is None:
        return []
    if len(sites) < config.n or len(atoms) <= config.n:
        what = config.element or "atom"
        raise InputError(
            "too few atoms for the vacancies",
            where=f"step vacancy, start {family}",
            got=f"{len(sites)} sites ({what}, where: {config.where}) among {len(atoms)} atoms",
            wanted=f"more than {config.n}" if len(atoms) <= config.n else f"at least {config.n}",
            remedy="make a supercell first, or lower n",
        )
    around = _all_surroundings(atoms)
    made: list[Atoms] = []
    known: list[tuple[list[_Surroundings], np.ndarray]] = []
    for chosen in _draws(sites, config, rng):
        mark = ([around[k] for k in chosen], _mutual(atoms, chosen))
        if any(_alike_sets(mark, other) for other in known):
            continue
        known.append(mark)
        rest = atoms.copy()
        del rest[list(chosen)]
        made.append(make_frame(rest, f"{family}/vacancy-{len(made)}", "vacancy"))
        if len(made) == config.variants:
            break
    return made


def _sites(atoms: Atoms, config: Vacancy) -> np.ndarray | None:
    """Atoms that may go; None where a surface is wanted and there is none."""
    allowed = np.ones(len(atoms), dtype=bool)
    if config.element is not None:
        allowed &= atoms.numbers == chemical_symbols.index(config.element)
    axis = open_axis(atoms)
    if axis is None:
        return None if config.where == "surface" else np.flatnonzero(allowed)
    height = heights(atoms, axis)
    outer = (height < SURFACE_DEPTH_A) | (height > height.max() - SURFACE_DEPTH_A)
    if config.where != "any":
        allowed &= outer if config.where == "surface" else ~outer
    return np.flatnonzero(allowed)


def _draws(sites: np.ndarray, config: Vacancy, rng: np.random.Generator) -> list[tuple[int, ...]]:
    if config.n == 1:
        return [(int(k),) for k in rng.permutation(sites)]
    sets = [tuple(sorted(rng.choice(sites, config.n, replace=False).tolist()))
            for _ in range(_TRIES * config.variants)]  # fmt: skip
    return list(dict.fromkeys(sets))


def _all_surroundings(atoms: Atoms) -> list[_Surroundings]:
    i, j, distance = neighbor_list("ijd", atoms, _NEIGHBOURHOOD_A)
    order = np.argsort(i, kind="stable")
    first = np.searchsorted(i[order], np.arange(len(atoms) + 1))
    own = [order[first[k] : first[k + 1]] for k in range(len(atoms))]
    return [
        _sorted_surroundings(
            np.append(atoms.numbers[k], atoms.numbers[j[own[k]]]), np.append(0.0, distance[own[k]])
        )
        for k in range(len(atoms))
    ]


def _sorted_surroundings(numbers: np.ndarray, distance: np.ndarray) -> _Surroundings:
    order = np.lexsort((distance, numbers))
    return np.column_stack([numbers, distance])[order]


def _alike(first: _Surroundings, second: _Surroundings) -> bool:
    """Neighbours at the rim may be on one side of it only, so those are left out where the counts differ."""
    inner = [part[part[:, 1] < _NEIGHBOURHOOD_A - _ALIKE_A] for part in (first, second)]
    if len(first) == len(second) and np.abs(first - second).max(initial=0.0) < _ALIKE_A:
        return True
    return len(inner[0]) == len(inner[1]) and bool(np.abs(inner[0] - inner[1]).max(initial=0.0) < _ALIKE_A)


def _mutual(atoms: Atoms, chosen: Sequence[int]) -> np.ndarray:
    """Sorted distances among the chosen atoms, Å."""
    distance = get_distances(atoms.positions[list(chosen)], cell=atoms.cell, pbc=atoms.pbc)[1]
    return np.sort(distance[np.triu_indices(len(chosen), 1)])


def _alike_sets(
    first: tuple[list[_Surroundings], np.ndarray], second: tuple[list[_Surroundings], np.ndarray]
) -> bool:
    if np.abs(first[1] - second[1]).max(initial=0.0) > _ALIKE_A:
        return False
    left = list(second[0])
    for site in first[0]:
        match = next((k for k, other in enumerate(left) if _alike(site, other)), None)
        if match is None:
            return False
        left.pop(match)
    return True


def interstitials(atoms: Atoms, config: Interstitial, rng: np.random.Generator) -> list[Atoms]:
    """The structure with ``n`` atoms more, the first in each of up to ``variants`` kinds of hole.

    Raises
    ------
    InputError: the structure is not periodic, or no hole is wide enough.
    """
    where = f"step interstitial, start {atoms.info.get('family', '')}"
    if not atoms.pbc.any():
        raise InputError(
            "an interstitial needs a periodic structure",
            where=where,
            got="pbc False, False, False",
            remedy="leave the step out for molecules",
        )
    kinds = _holes(atoms, config.variants, rng)
    made: list[Atoms] = []
    for place in kinds:
        larger = _with(atoms, config.element, place)
        for _ in range(config.n - 1):
            larger = _with(larger, config.element, _holes(larger, 1, rng)[0])
        if _too_close(larger, config, len(atoms)) is None:
            family = f"{atoms.info.get('family', '')}/interstitial-{len(made)}"
            made.append(make_frame(larger, family, "interstitial"))
    if not made:
        got = "no hole inside the slab"
        if kinds:
            larger = _with(atoms, config.element, kinds[0])
            for _ in range(config.n - 1):
                larger = _with(larger, config.element, _holes(larger, 1, rng)[0])
            got = f"{config.element} at {_too_close(larger, config, len(atoms)):.2f} Å from its neighbour"
        raise InputError(
            "no hole is wide enough for an interstitial",
            where=where,
            got=got,
            wanted=f"min_ratio {config.min_ratio:g} of the sum of covalent radii",
            remedy="take a larger supercell, a smaller element, or lower min_ratio",
        )
    return made


def _with(atoms: Atoms, element: str, place: np.ndarray) -> Atoms:
    larger = atoms.copy()
    larger.append(element)
    larger.positions[-1] = place
    return larger


def _too_close(atoms: Atoms, config: Interstitial, n_host: int) -> float | None:
    """The shortest distance from an added atom that is too short, Å."""
    i, j, distance, _ = contacts(StructureBatch.from_atoms([atoms]), config.min_ratio)
    own = (i >= n_host) | (j >= n_host)
    return float(distance[own].min()) if own.any() else None


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
    cell = atoms.cell.complete().array
    fraction = vertices @ np.linalg.inv(cell)
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
        distance = np.linalg.norm(points[near] - vertices[k], axis=1)
        mark = _sorted_surroundings(atoms.numbers[images.atom[near]], distance)
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
