"""Checks of every structure before anything is computed on it.

One k-d tree finds the distances of many structures at once, periodic images included: the atoms of structure
s get the fourth coordinate ``s * 2 * cutoff``, so no pair within the cutoff joins two structures. ASE and
SciPy only, so that a teacher's worker needs no vesin (imported with the first neighbour list).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from scipy.spatial import cKDTree

from limbeck.core.charge import ChargeState, spin_multiplicity, total_charge
from limbeck.core.neighbours import check_cell
from limbeck.core.scans import is_scan
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError

OVERLAP_FRACTION = 0.3  #: of the sum of covalent radii; the shortest real bond, H2, has 1.2
_ATOMS_PER_TREE = 20_000


@dataclass(frozen=True)
class Images:
    """The home atoms of a batch and the periodic copies within a cutoff of their cells.

    Attributes
    ----------
    points: (P, 4) float64, Å; wrapped positions and the coordinate that keeps structures apart.
        The first N rows are the home atoms in the order of the batch.
    atom: (P,) int64, the home atom that each row copies.
    """

    points: np.ndarray
    atom: np.ndarray


def periodic_images(batch: StructureBatch, cutoff: float) -> Images:
    """Home atoms wrapped into their cells, then every copy within ``cutoff`` (Å) of a cell.

    The cells must be checked: periodic vectors finite and independent.
    """
    cell = _complete_cells(batch)  # (S, 3, 3)
    inverse = np.linalg.inv(cell)
    structure = batch.structure_of_atom  # (N,)
    pbc = batch.pbc[structure]  # (N, 3)
    fraction = np.einsum("ni,nij->nj", batch.positions, inverse[structure])  # (N, 3)
    fraction -= np.where(pbc, np.floor(fraction), 0.0)
    home = np.einsum("ni,nij->nj", fraction, cell[structure])  # (N, 3)
    apart = structure * 2.0 * cutoff  # (N,)
    # A column of the inverse cell is normal to a face, its length one over the width there.
    margin = cutoff * np.linalg.norm(inverse, axis=1)  # (S, 3)
    images = np.where(batch.pbc, np.ceil(margin), 0.0)  # (S, 3)
    low, high = -margin[structure], 1.0 + margin[structure]  # (N, 3)
    points, atoms = [np.column_stack([home, apart])], [np.arange(batch.n_atoms)]
    spans = [range(-int(n), int(n) + 1) for n in images.max(axis=0, initial=0.0)]
    for shift in itertools.product(*spans):
        if shift == (0, 0, 0):
            continue
        moved = fraction + shift  # (N, 3)
        inside = (moved >= low) & (moved <= high)
        near = np.where(pbc, inside, np.array(shift) == 0).all(axis=1)
        chosen = np.flatnonzero(near)
        if len(chosen):
            copies = np.einsum("ni,nij->nj", moved[chosen], cell[structure[chosen]])
            points.append(np.column_stack([copies, apart[chosen]]))
            atoms.append(chosen)
    return Images(points=np.concatenate(points), atom=np.concatenate(atoms))


def close_pairs(batch: StructureBatch, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of atoms closer than ``cutoff`` (Å), each once or twice.

    Returns
    -------
    i, j: (E,) int64, indices into the batch's atoms; i == j where an atom meets its own image.
    distance: (E,) float64, Å.
    """
    if not batch.n_atoms:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    images = periodic_images(batch, cutoff)
    pairs = cKDTree(images.points).query_pairs(cutoff, output_type="ndarray")  # (E, 2), first < second
    pairs = pairs[pairs[:, 0] < batch.n_atoms]  # pairs of two copies repeat one with a home atom
    distance = np.linalg.norm(images.points[pairs[:, 0], :3] - images.points[pairs[:, 1], :3], axis=1)
    return images.atom[pairs[:, 0]], images.atom[pairs[:, 1]], distance


def chunks(
    batch: StructureBatch, atoms: int = _ATOMS_PER_TREE
) -> Iterator[tuple[np.ndarray, StructureBatch]]:
    """The batch in parts of about ``atoms`` atoms, with the structure indices of each part."""
    part = batch.offsets[:-1] // atoms
    for index in (np.flatnonzero(part == value) for value in np.unique(part)):
        yield index, batch.select(index)


def contacts(batch: StructureBatch, fraction: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs closer than ``fraction`` times the sum of their covalent radii.

    Returns
    -------
    i, j: (E,) int64, atom indices in the batch. distance: (E,) float64, Å.
    ratio: (E,) float64, distance over the sum of radii.
    """
    radius = covalent_radii[batch.numbers]
    i, j, distance = close_pairs(batch, fraction * 2.0 * float(radius.max(initial=0.1)))
    ratio = distance / (radius[i] + radius[j])
    close = ratio < fraction
    return i[close], j[close], distance[close], ratio[close]


def closest_contact(batch: StructureBatch, fraction: float) -> tuple[int, int, float] | None:
    """The worst of :func:`contacts` as (i, j, distance) with i <= j, or None."""
    i, j, distance, ratio = contacts(batch, fraction)
    if not len(ratio):
        return None
    worst = int(ratio.argmin())
    first, second = sorted((int(i[worst]), int(j[worst])))
    return first, second, float(distance[worst])


def check_structures(frames: Sequence[Atoms], where: str) -> None:
    """Refuse structures that no Potential can treat; left-handed cells are accepted.

    Parameters
    ----------
    where: what is checked (a file, a step), for the message.

    Raises
    ------
    InputError: no structure; a structure without atoms; positions or a cell that are not finite;
        an unknown element; a periodic cell without volume; partial occupancies; atoms closer than
        0.3 of the sum of their covalent radii (frames of contact scans, by ``info["config_type"]``, may hold
        such atoms); a multiplicity that the number of electrons does not allow; total charges or
        spins that are not one for the whole set, see :func:`first_other`.
    """
    if not len(frames):
        raise InputError("no structures", where=where, wanted="at least one structure")
    for k, frame in enumerate(frames):
        if not len(frame):
            raise InputError("no atoms", where=_at(where, k), wanted="at least one atom")
        _check_occupancy(frame, _at(where, k))
        total_charge(frame, _at(where, k))
        spin_multiplicity(frame, _at(where, k))
    batch = StructureBatch.from_atoms(frames)
    _check_numbers(batch, where)
    for s in range(len(batch)):
        check_cell(batch.cell[s], batch.pbc[s], _at(where, s))
    ordinary = [not is_scan(str(frame.info.get("config_type", ""))) for frame in frames]
    _check_overlap(batch, np.flatnonzero(ordinary), where)
    _check_spins(batch, where)
    check_one_state(batch, where)


def compared(batch: StructureBatch) -> tuple[np.ndarray, np.ndarray]:
    """Structures that must share one charge, and those that must share one spin: two masks, (S,).

    Neutral single atoms are left out, since they give reference energies to sets of any charge; so are
    structures without a spin entry, which fit any spin.
    """
    single = (batch.counts == 1) & (batch.charge == 0)
    return ~single, ~single & (batch.spin > 0)


def first_other(values: np.ndarray, among: np.ndarray) -> tuple[int, int] | None:
    """Places of the first of ``values`` (S,) under the mask and of the first that differs, or None."""
    index = np.flatnonzero(among)
    differing = index[values[index] != values[index[0]]] if len(index) else index
    return (int(index[0]), int(differing[0])) if len(differing) else None


def state_of_set(batch: StructureBatch) -> ChargeState:
    """Total charge and spin that the structures share; :func:`check_structures` makes sure that they do."""
    charged, spinning = (np.flatnonzero(mask) for mask in compared(batch))
    return ChargeState(
        float(batch.charge[charged[0]]) if len(charged) else 0.0,
        int(batch.spin[spinning[0]]) if len(spinning) else 0,
    )


def suits(student: ChargeState, batch: StructureBatch) -> bool:
    """Whether the set has the student's total charge and spin; a set without entries fits any."""
    found = state_of_set(batch)
    return student.differs(found.charge or student.charge, found.spin) is None


def check_suits(student: ChargeState, batch: StructureBatch, where: object) -> None:
    """InputError unless the set has the student's total charge and spin."""
    if not suits(student, batch):
        raise InputError(
            "structures of another total charge or spin than the student's",
            where=where,
            got=str(state_of_set(batch)),
            wanted=str(student),
            remedy="train a student on these, or correct their entries",
        )


def check_one_state(batch: StructureBatch, where: str) -> None:
    """InputError unless the structures share one total charge and one spin, as a student has."""
    charged, spinning = compared(batch)
    for what, name, values, among in (
        ("total charge", "charge", batch.charge, charged),
        ("spin", "multiplicity", batch.spin, spinning),
    ):
        if (pair := first_other(values, among)) is not None:
            first, k = pair
            raise InputError(
                f"structures of different {what} in one set",
                where=_at(where, k),
                got=f"{name} {values[k]:g} here and {values[first]:g} in frame {first}",
                wanted=f"one {what} in the set",
                remedy=f"train one student per {what}",
            )


def _check_spins(batch: StructureBatch, where: str) -> None:
    """2S + 1 and the number of electrons differ in parity; periodic cells may be metals with any."""
    z = np.add.reduceat(batch.numbers, batch.offsets[:-1])  # (S,)
    electrons = np.rint(z - batch.charge).astype(np.int64)
    wrong = ((electrons + batch.spin) % 2 == 0) | (batch.spin > electrons + 1)
    wrong &= (batch.spin > 0) & ~batch.pbc.any(axis=1) & (batch.charge % 1 == 0)
    if wrong.any():
        k = int(np.flatnonzero(wrong)[0])
        raise InputError(
            "spin multiplicity does not fit the number of electrons",
            where=_at(where, k),
            got=f"multiplicity {batch.spin[k]} with {electrons[k]} electrons",
            wanted="2S + 1: odd with an even number of electrons, even with an odd one",
            remedy="correct the charge or the spin; 2S or S must be given as 2S + 1",
        )


def _at(where: str, frame: int) -> str:
    return f"{where}, frame {frame}"


def _place(batch: StructureBatch, index: int) -> tuple[int, int]:
    """Structure of an atom, and its index there."""
    s = int(np.searchsorted(batch.offsets, index, side="right")) - 1
    return s, int(index - batch.offsets[s])


def _atom(batch: StructureBatch, index: int) -> str:
    return f"atom {_place(batch, index)[1]} ({chemical_symbols[batch.numbers[index]]})"


def _complete_cells(batch: StructureBatch) -> np.ndarray:
    """Cells, (S, 3, 3), with missing vectors along open directions filled in."""
    cell = batch.cell.copy()
    for s in np.flatnonzero(np.abs(np.linalg.det(cell)) < 1e-9):
        rows = cell[s] * batch.pbc[s][:, None]
        # The remaining right singular vectors span what the periodic vectors do not.
        basis = np.linalg.svd(rows)[2][int(batch.pbc[s].sum()) :]
        cell[s][~batch.pbc[s]] = basis
    return cell


def _check_occupancy(frame: Atoms, where: str) -> None:
    """Refuse partial occupancies: of each site ASE's CIF reader keeps the most occupied species alone."""
    occupancy = frame.info.get("occupancy")
    if not isinstance(occupancy, dict):
        return
    for site, species in occupancy.items():
        if isinstance(species, dict) and (len(species) > 1 or any(float(x) < 1 for x in species.values())):
            listed = ", ".join(f"{symbol} {float(x):g}" for symbol, x in species.items())
            raise InputError(
                "a site is partially occupied",
                where=where,
                got=f"site {site} with {listed}",
                wanted="one species with occupancy 1 on every site",
                remedy="make an ordered supercell first",
            )


def _check_numbers(batch: StructureBatch, where: str) -> None:
    """Positions and cells are finite, atoms elements."""
    wanted = "finite numbers in Å"
    bad = np.flatnonzero(~np.isfinite(batch.positions).all(axis=1))
    if len(bad):
        k, atom = _place(batch, bad[0])
        got = f"atom {atom} at {batch.positions[bad[0]].tolist()}"
        raise InputError("a position is not finite", where=_at(where, k), got=got, wanted=wanted)
    bad = np.flatnonzero(~np.isfinite(batch.cell).all(axis=(1, 2)))
    if len(bad):
        where = _at(where, int(bad[0]))
        raise InputError(
            "the cell is not finite", where=where, got=batch.cell[bad[0]].tolist(), wanted=wanted
        )
    bad = np.flatnonzero((batch.numbers < 1) | (batch.numbers >= len(chemical_symbols)))
    if len(bad):
        k, atom = _place(batch, bad[0])
        got = f"atom {atom} with atomic number {batch.numbers[bad[0]]}"
        wanted = f"1 to {len(chemical_symbols) - 1}"
        raise InputError("an atom has no element", where=_at(where, k), got=got, wanted=wanted)


def _check_overlap(batch: StructureBatch, among: np.ndarray, where: str) -> None:
    """``among``: the structures in question, (S',)."""
    for index, part in chunks(batch.select(among)):
        contact = closest_contact(part, OVERLAP_FRACTION)
        if contact is None:
            continue
        i, j, distance = contact
        overlapping = np.union1d(*contacts(part, OVERLAP_FRACTION)[:2])
        most = 2 * len(overlapping) > part.n_atoms > 2
        k = int(among[index[part.structure_of_atom[i]]])
        other = "its own periodic image" if i == j else _atom(part, j)
        limit = OVERLAP_FRACTION * (covalent_radii[part.numbers[i]] + covalent_radii[part.numbers[j]])
        raise InputError(
            "overlapping atoms",
            where=_at(where, k),
            got=f"{_atom(part, i)} and {other} at {distance:.3f} Å",
            wanted=f"at least {limit:.2f} Å (0.3 of the sum of covalent radii)",
            remedy="give lengths in Å: most atoms overlap, as if they were in nm" if most else None,
        )
