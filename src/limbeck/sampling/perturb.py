"""Steps that copy each incoming frame without a Potential: rattled, strained, turned about its bonds.

- {kind: rattle, stdev_a: [0.05, 0.1], n: 10}
- {kind: strain, max: 0.05, n: 8, modes: [volumetric, shear]}
- {kind: torsions, n: 40}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import natural_cutoffs, neighbor_list
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from limbeck.core.checks import contacts
from limbeck.core.frames import group_of, make_frame
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.sampling.steps import Drawn, Made, Ratio, RngOf, n_blocks, wrong_periodicity

Mode = Literal["uniaxial", "volumetric", "shear", "random"]

REDRAWS = 200
_NARROWED_EVERY = 20  # draws
_BONDED = 1.2  # of the sum of covalent radii
#: of the same sum: shorter bonds are double, aromatic or amide bonds (C=C 0.88, C-N of an amide 0.93,
#: C-C of butadiene's middle 0.96, C-C 1.01)
_SINGLE = 0.945
_LINEAR_A = 0.2  # atoms within this of the axis stand on it


class Copying(Drawn):
    """Makes ``n`` copies of each frame for each of its labels (amplitudes, modes)."""

    n: PositiveInt = 10

    @property
    def labels(self) -> Sequence[str]:
        raise NotImplementedError

    def copies(self, parent: Atoms, rng: np.random.Generator) -> Iterator[list[Atoms]]:
        """The copies for each label; none where the structure allows none."""
        raise NotImplementedError

    def count(self, n_incoming: int, n_pairs: int) -> int:
        return n_incoming * len(self.labels) * self.n

    def frames(self, incoming: Sequence[Atoms], rng_of: RngOf) -> Made:
        frames: list[Atoms] = []
        notes: list[str] = []
        blocks = n_blocks(self.n, len(incoming))
        for k, parent in enumerate(incoming):
            for label, copies in zip(self.labels, self.copies(parent, rng_of(k)), strict=True):
                if not copies:
                    notes.append(f"{self.title}: {group_of(parent)} has no rotatable bond")
                for n, copy in enumerate(copies):
                    # copies of sampled frames stay with the frame that they resemble
                    block = "" if self.from_ else f"/{self.title}-{label}-b{n * blocks // self.n}"
                    frames.append(make_frame(copy, group_of(parent) + block, self.title))
        return frames, notes


class Rattle(Copying):
    """Normal displacements of every coordinate.

    stdev_a: standard deviations, Å. n: frames an amplitude and start. min_ratio: no pair comes
    closer than this fraction of its sum of covalent radii.
    """

    kind: Literal["rattle"] = "rattle"
    said: ClassVar[str] = "{stdev_a} Å"
    stdev_a: tuple[PositiveFloat, ...] | PositiveFloat
    min_ratio: Ratio = 0.6

    @property
    def amplitudes(self) -> tuple[float, ...]:
        return self.stdev_a if isinstance(self.stdev_a, tuple) else (self.stdev_a,)

    @property
    def labels(self) -> Sequence[str]:
        return [f"{stdev:g}A" for stdev in self.amplitudes]

    def copies(self, parent: Atoms, rng: np.random.Generator) -> Iterator[list[Atoms]]:
        for stdev in self.amplitudes:
            shaken = [rattle(parent, stdev, self.min_ratio, rng, self.where(parent)) for _ in range(self.n)]
            yield [moved(parent, positions) for positions in shaken]


class Strain(Copying):
    """Random symmetric strains of the cell, positions scaled with it.

    max: greatest component. n: frames a mode and start. modes: uniaxial (one Cartesian axis),
    volumetric (all three alike), shear (one off-diagonal pair), random (all six components).
    """

    kind: Literal["strain"] = "strain"
    said: ClassVar[str] = "{max}"
    max: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    modes: tuple[Mode, ...] = ("random",)

    @property
    def labels(self) -> Sequence[str]:
        return self.modes

    def copies(self, parent: Atoms, rng: np.random.Generator) -> Iterator[list[Atoms]]:
        for mode in self.modes:
            yield [apply_strain(parent, strain) for strain in strains(self, mode, rng)]


class Torsions(Copying):
    """Random rotations about the rotatable bonds of molecules, and a small rattle.

    Rotatable are single bonds between atoms that have other neighbours too, outside rings. n: frames a
    start. max_degrees: greatest rotation either way. stdev_a: standard deviation of the rattle, Å
    (0: bond lengths and angles stay exactly). min_ratio: no pair comes closer than this fraction of its
    sum of covalent radii.
    """

    kind: Literal["torsions"] = "torsions"
    said: ClassVar[str] = "{stdev_a} Å"
    n: PositiveInt = 20
    max_degrees: Annotated[float, Field(gt=0, le=180)] = 180.0
    stdev_a: NonNegativeFloat = 0.02
    min_ratio: Ratio = 0.6

    @property
    def labels(self) -> Sequence[str]:
        return [f"{self.max_degrees:g}deg"]

    def copies(self, parent: Atoms, rng: np.random.Generator) -> Iterator[list[Atoms]]:
        """Every rotatable bond turned by a random angle.

        Copies with a pair too close are drawn again, from a range of angles that is halved every 20
        draws, so that crowded molecules turn a little instead of not at all.
        """
        if parent.pbc.any():
            remedy = "leave the step out, or sample the liquid by md"
            what = "torsions are sampled for molecules only"
            raise wrong_periodicity(what, self.where(parent), parent, remedy)
        bonds = rotatable_bonds(parent)

        def turned(draw: int) -> np.ndarray:
            reach = np.deg2rad(self.max_degrees) / 2 ** (draw // _NARROWED_EVERY)
            positions = parent.positions
            for bond in bonds:
                positions = rotate(positions, bond, rng.uniform(-reach, reach))
            return positions + rng.normal(0.0, self.stdev_a, positions.shape)

        what, got, remedy = "turned atoms stay too close", f"{REDRAWS} draws", "lower stdev_a or min_ratio"
        refusal = too_close(what, self.where(parent), got, self.min_ratio, remedy)
        n = self.n if bonds else 0
        yield [moved(parent, drawn_apart(parent, turned, self.min_ratio, refusal)) for _ in range(n)]


def moved(atoms: Atoms, positions: np.ndarray) -> Atoms:
    """A copy with other positions (N, 3), Å."""
    copy = atoms.copy()
    copy.positions = positions
    return copy


def too_close(what: str, where: str, got: str, min_ratio: float, remedy: str) -> InputError:
    wanted = f"pairs beyond {min_ratio:g} of the sum of covalent radii"
    return InputError(what, where=where, got=got, wanted=wanted, remedy=remedy)


def drawn_apart(
    atoms: Atoms, draw: Callable[[int], np.ndarray], min_ratio: float, refusal: InputError
) -> np.ndarray:
    """The first of up to 200 drawn positions (N, 3) with no pair closer than ``min_ratio`` of its radii.

    Raises
    ------
    InputError: the ``refusal``, where there is none.
    """
    for k in range(REDRAWS):
        positions = draw(k)
        frame = make_frame(atoms, "", positions=positions)
        if not len(contacts(StructureBatch.from_atoms([frame]), min_ratio)[0]):
            return positions
    raise refusal


def rattle(
    atoms: Atoms, stdev_a: float, min_ratio: float, rng: np.random.Generator, where: str
) -> np.ndarray:
    """Displaced positions (N, 3), Å, with no pair closer than ``min_ratio`` of its covalent radii.

    Displacements of atoms in too close a pair are drawn again; the others stay.

    Raises
    ------
    InputError: the pairs stay too close (the amplitude is too great, or the start too dense).
    """
    batch = StructureBatch.from_atoms([atoms])
    shift = rng.normal(0.0, stdev_a, batch.positions.shape)  # (N, 3)
    for _ in range(REDRAWS):
        displaced = replace(batch, positions=batch.positions + shift)
        i, j, distance, _ = contacts(displaced, min_ratio)
        if not len(distance):
            return displaced.positions
        again = np.union1d(i, j)
        shift[again] = rng.normal(0.0, stdev_a, (len(again), 3))
    got = f"a stdev of {stdev_a:g} Å and a pair at {distance.min():.2f} Å after {REDRAWS} draws"
    raise too_close("rattled atoms stay too close", where, got, min_ratio, "lower stdev_a or min_ratio")


def strains(config: Strain, mode: str, rng: np.random.Generator) -> np.ndarray:
    """Symmetric strain tensors (n, 3, 3); the sizes are stratified over [-max, max].

    One draw in each of n equal intervals, in random order (Latin hypercube), so that few frames
    cover the range evenly.
    """
    components = 6 if mode == "random" else 1
    layers = np.stack([rng.permutation(config.n) for _ in range(components)], axis=1)  # (n, components)
    size = config.max * (2.0 * (layers + rng.random(layers.shape)) / config.n - 1.0)
    strain = np.zeros((config.n, 3, 3))
    frame, axis = np.arange(config.n), rng.integers(3, size=config.n)
    if mode == "uniaxial":
        strain[frame, axis, axis] = size[:, 0]
    elif mode == "volumetric":
        strain[:, [0, 1, 2], [0, 1, 2]] = size
    elif mode == "shear":
        strain[frame, axis, (axis + 1) % 3] = size[:, 0]
        strain[frame, (axis + 1) % 3, axis] = size[:, 0]
    else:
        rows, columns = np.array([0, 1, 2, 0, 0, 1]), np.array([0, 1, 2, 1, 2, 2])
        strain[:, rows, columns] = size
        strain[:, columns, rows] = size
    return strain


def apply_strain(atoms: Atoms, strain: np.ndarray) -> Atoms:
    """The structure with cell @ (1 + strain) and positions scaled with it.

    Raises
    ------
    InputError: the structure is not periodic in all three directions.
    """
    if not atoms.pbc.all():
        what = "strain needs a structure that is periodic in three directions"
        where = f"step strain, start {group_of(atoms)}"
        raise wrong_periodicity(what, where, atoms, "leave the step out, or rattle instead")
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return strained


@dataclass(frozen=True)
class RotatableBond:
    """Atoms i and j of the bond, and the (K,) atoms on the side of j, which is the smaller."""

    i: int
    j: int
    moved: np.ndarray


def rotatable_bonds(atoms: Atoms) -> list[RotatableBond]:
    """Single bonds outside rings with atoms beside the axis at both ends.

    Bonds are pairs within 1.2 of the sum of their covalent radii, single where also beyond 0.945 of it:
    geometry alone decides, so the start should be near a minimum.
    """
    n = len(atoms)
    i, j, distance = neighbor_list("ijd", atoms, natural_cutoffs(atoms, mult=_BONDED))
    degree = np.bincount(i, minlength=n)
    single = distance > _SINGLE * (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]])
    bonds = []
    for k in np.flatnonzero((i < j) & single & (degree[i] > 1) & (degree[j] > 1)):
        a, b = int(i[k]), int(j[k])
        others = ~(((i == a) & (j == b)) | ((i == b) & (j == a)))
        graph = coo_array((np.ones(int(others.sum())), (i[others], j[others])), shape=(n, n))
        part = connected_components(graph, directed=False)[1]
        if part[a] == part[b]:
            continue  # in a ring
        sides = [np.flatnonzero(part == part[end]) for end in (a, b)]
        if any(_on_the_axis(atoms.positions, a, b, side) for side in sides):
            continue  # as in C-C≡N: turning moves nothing
        if len(sides[1]) <= len(sides[0]):
            bonds.append(RotatableBond(a, b, sides[1]))
        else:
            bonds.append(RotatableBond(b, a, sides[0]))
    return bonds


def _on_the_axis(positions: np.ndarray, a: int, b: int, side: np.ndarray) -> bool:
    axis = positions[b] - positions[a]
    off = np.linalg.norm(np.cross(positions[side] - positions[a], axis / np.linalg.norm(axis)), axis=1)
    return bool(off.max() < _LINEAR_A)


def rotate(positions: np.ndarray, bond: RotatableBond, angle: float) -> np.ndarray:
    """Positions (N, 3) with one side of the bond turned by ``angle`` (rad), right-handed from i to j."""
    axis = positions[bond.j] - positions[bond.i]
    axis = axis / np.linalg.norm(axis)
    arm = positions[bond.moved] - positions[bond.j]  # (K, 3)
    turned = (
        arm * np.cos(angle)
        + np.cross(axis, arm) * np.sin(angle)
        + axis * (arm @ axis)[:, None] * (1.0 - np.cos(angle))
    )  # Rodrigues
    out = positions.copy()
    out[bond.moved] = positions[bond.j] + turned
    return out
