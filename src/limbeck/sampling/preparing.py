"""Steps that replace the starts of all later steps: ``relax``, ``supercell``, ``slab``, ``thin``.

    - {kind: relax, fmax_ev_per_a: 0.05, steps: 200, cell: true}
    - {kind: thin, max: 50}
    - {kind: slab, miller: [1, 1, 1], min_thickness_a: 9, vacuum_a: 12, max_atoms: 64}
    - {kind: supercell, repeat: [[2, 2, 2], [3, 2, 2]]}

What they make is named after its origin: ``Si#0/slab-111/vacancy-0``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.build import make_supercell, surface
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from limbeck.core.charge import repeat_charge
from limbeck.core.checks import check_structures
from limbeck.core.frames import Trajectory, group_of, make_frame, thin
from limbeck.core.kinds import VACUUM_GAP_A, finite_molecules, heights, structure_kind, vacuum_gap
from limbeck.core.potential import Potential
from limbeck.core.trajectory import OnStep, Stop
from limbeck.errors import InputError, LimbeckError, WorkerDied
from limbeck.sampling.steps import Preparing, wrong_periodicity

Repeat = tuple[PositiveInt, PositiveInt, PositiveInt]

_MOST_REPEATS = 50
_MOST_LAYERS = 60
_LONGEST_STEP_A = 0.1  # an atom while relaxing; packed boxes begin far from where forces are linear


def _exactly_one(step: Preparing, *names: str) -> None:
    given = [name for name in names if getattr(step, name) is not None]
    if len(given) != 1:
        got, wanted = ", ".join(given) or "nothing", ", ".join(names)
        raise ValueError(f"{step.kind}: got {got}; wanted exactly one of {wanted}")


class Thin(Preparing):
    """Keep at most ``max`` of the starts: exact duplicates go first, of the rest every so manieth stays."""

    kind: Literal["thin"] = "thin"
    said: ClassVar[str] = "to {max}"
    max: PositiveInt

    counts_vary: ClassVar[bool] = True

    def count(self, n_starts: int) -> int:
        return min(n_starts, self.max)

    def build(self, starts: Sequence[Atoms], seed: Sequence[int]) -> list[Atoms]:
        return thin(starts, self.max)


class Supercell(Preparing):
    """Replace each start by a supercell; exactly one of the four ways is given.

    repeat: repeats along the three cell vectors, or a list of such: each start in each size.
    matrix: integer rows P, new cell = P @ cell.
    min_length_a: the fewest repeats with every periodic width at least this, Å.
    max_atoms: the repeats with the greatest shortest width that have at most this number of atoms.
    """

    kind: Literal["supercell"] = "supercell"
    said: ClassVar[str] = "{repeat}, {matrix}, {min_length_a} Å, of at most {max_atoms} atoms"
    repeat: Repeat | Annotated[tuple[Repeat, ...], Field(min_length=1)] | None = None
    matrix: tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]] | None = None
    min_length_a: PositiveFloat | None = None
    max_atoms: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Supercell:
        _exactly_one(self, "repeat", "matrix", "min_length_a", "max_atoms")
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError("supercell: got the same repeat twice; wanted each size once")
        return self

    @property
    def sizes(self) -> tuple[Repeat, ...]:
        """The repeats of a list of sizes; empty where ``repeat`` is no list."""
        if self.repeat is None or isinstance(self.repeat[0], int):
            return ()
        return self.repeat  # type: ignore[return-value]  # pydantic has told the two apart

    def count(self, n_starts: int) -> int:
        return n_starts * max(1, len(self.sizes))

    def build(self, starts: Sequence[Atoms], seed: Sequence[int]) -> list[Atoms]:
        if not any(a.pbc.any() for a in starts):
            where = f"step supercell, start {group_of(starts[0])}"
            remedy = "leave the step out for molecules"
            raise wrong_periodicity("a supercell needs a periodic structure", where, starts[0], remedy)
        made: list[Atoms] = []
        for start in starts:
            if not start.pbc.any():
                made.append(start)
            elif self.sizes:  # several sizes are groups of their own
                for size in self.sizes:
                    made.append(supercell(start, Supercell(repeat=size)))
                    made[-1].info["group"] += f"/{'x'.join(map(str, size))}"
            else:
                made.append(supercell(start, self))
        return made


def supercell(atoms: Atoms, config: Supercell) -> Atoms:
    """The supercell of a periodic structure, in the same group.

    Raises
    ------
    InputError: the matrix is not invertible, or repeats a direction that is not periodic.
    """
    matrix = np.diag(_repeats(atoms, config)) if config.matrix is None else np.array(config.matrix)
    if round(np.linalg.det(matrix)) == 0:
        raise InputError(
            "the supercell matrix is singular",
            where="step supercell", got=matrix.tolist(), wanted="det != 0",
        )  # fmt: skip
    still, identity = ~atoms.pbc, np.eye(3, dtype=int)
    if (matrix[still] != identity[still]).any() or (matrix[:, still] != identity[:, still]).any():
        what = "the supercell matrix repeats a direction that is not periodic"
        raise InputError(what, where="step supercell", got=f"{matrix.tolist()} for pbc {atoms.pbc.tolist()}")
    larger = make_supercell(atoms, matrix)
    repeat_charge(atoms, larger)
    return make_frame(larger, group_of(atoms), "supercell")


def _repeats(atoms: Atoms, config: Supercell) -> tuple[int, ...]:
    """Repeats along the cell vectors; 1 along directions that are not periodic.

    To stay below ``max_atoms``, a slab is not repeated across its vacuum either.
    """
    if config.repeat is not None:
        size: Any = config.repeat  # a list of sizes has been taken apart before
        return tuple(np.where(atoms.pbc, size, 1).tolist())
    widths = _widths(atoms)
    if config.min_length_a is not None:
        wanted = np.maximum(np.ceil(config.min_length_a / widths - 1e-9), 1).astype(int)
        return tuple(np.where(atoms.pbc, wanted, 1).tolist())
    most = max(1, int(config.max_atoms or 1) // len(atoms))
    filled = [p and vacuum_gap(atoms, k)[0] <= VACUUM_GAP_A for k, p in enumerate(atoms.pbc)]
    # a molecule in a box has vacuum everywhere
    return _widest(widths, most, filled if any(filled) else atoms.pbc)


def _widths(atoms: Atoms) -> np.ndarray:
    """(3,) Å: along vector k the distance between the two faces that it joins."""
    return 1.0 / np.linalg.norm(np.linalg.inv(atoms.cell.complete().array), axis=0)


def _widest(widths: np.ndarray, most: int, along: Sequence[bool]) -> tuple[int, ...]:
    """Of at most ``most`` copies those with the greatest shortest width, and the fewest of these."""
    ranges = [range(1, min(most, _MOST_REPEATS) + 1) if p else (1,) for p in along]
    choices = (repeats for repeats in itertools.product(*ranges) if math.prod(repeats) <= most)

    def quality(repeats: tuple[int, ...]) -> tuple[float, int]:
        shortest = min(w * r for w, r, p in zip(widths, repeats, along, strict=True) if p)
        return round(shortest, 6), -math.prod(repeats)

    return max(choices, key=quality)


class Varying(Preparing):
    """Makes new structures of each start; ``add``: the start itself stays too."""

    add: bool = True

    counts_vary: ClassVar[bool] = True
    #: what a step that makes nothing of any start would need
    fitting: ClassVar[str]

    def count(self, n_starts: int) -> int:
        return n_starts * (getattr(self, "variants", 1) + self.add)

    def vary(self, atoms: Atoms, rng: np.random.Generator) -> list[Atoms]:
        """What is made of one start; nothing where the step does not fit it."""
        raise NotImplementedError

    def build(self, starts: Sequence[Atoms], seed: Sequence[int]) -> list[Atoms]:
        made = [self.vary(atoms, np.random.default_rng([*seed, k])) for k, atoms in enumerate(starts)]
        if not any(made):
            raise InputError(
                f"the step {self.kind} fits none of the starting structures",
                where=f"step {self.kind}",
                got=f"{starts[0].get_chemical_formula()}, pbc {starts[0].pbc.tolist()}"
                + ", ..." * (len(starts) > 1),
                wanted=self.fitting,
            )
        kept: list[Atoms] = []
        for atoms, new in zip(starts, made, strict=True):
            check_structures([atoms, *new], f"step {self.kind}, start {group_of(atoms)}")
            kept += [atoms, *new] if self.add or not new else new
        return kept


class Slab(Varying):
    """Cut a slab from each start that is a crystal (periodic in three directions, no vacuum).

    miller: of the surface, in the cell as given: cut first, then make supercells. Exactly one of
    layers (lattice planes of these indices, each may hold several planes of atoms) and
    min_thickness_a (between the outermost atoms, Å). vacuum_a: empty space between the slab and its
    image, Å. At most one of repeat (along the surface) and max_atoms (the repeats along the surface
    with the greatest shorter width that have at most this number).
    periodic: the slab repeats across the vacuum too, as some teachers need; false gives pbc TTF.
    """

    kind: Literal["slab"] = "slab"
    said: ClassVar[str] = "{plane}, {layers} layers thick, {min_thickness_a} Å thick, {vacuum_a} Å vacuum"
    miller: tuple[int, int, int]
    layers: PositiveInt | None = None
    min_thickness_a: PositiveFloat | None = None
    vacuum_a: Annotated[float, Field(ge=5)] = 12.0
    repeat: tuple[PositiveInt, PositiveInt] | None = None
    max_atoms: PositiveInt | None = None
    periodic: bool = True

    fitting: ClassVar[str] = "a crystal: periodic in three directions, without vacuum and without molecules"

    @model_validator(mode="after")
    def _fits(self) -> Slab:
        _exactly_one(self, "layers", "min_thickness_a")
        if not any(self.miller):
            raise ValueError("slab: got miller 0, 0, 0; wanted at least one index that is not zero")
        if self.repeat is not None and self.max_atoms is not None:
            raise ValueError("slab: got repeat, max_atoms; wanted at most one of them")
        return self

    @property
    def plane(self) -> str:
        """``111``, ``1,-1,0``."""
        return ("" if min(self.miller) >= 0 and max(self.miller) < 10 else ",").join(map(str, self.miller))

    def vary(self, atoms: Atoms, rng: np.random.Generator) -> list[Atoms]:
        # a plane would cut molecules
        whole = atoms.pbc.all() and structure_kind(atoms) == "crystal"
        return [slab(atoms, self)] if whole and all(len(m) == 1 for m in finite_molecules(atoms)) else []


def slab(atoms: Atoms, config: Slab) -> Atoms:
    """A slab of the crystal, its surface along the first two cell vectors, the third normal to it.

    The slab keeps the crystal's composition; where a crystal ends in several ways at these indices,
    ``ase.build.surface`` chooses, so polar and reconstructed surfaces belong into a file of their own.

    Raises
    ------
    InputError: the slab has no such thickness within 60 layers, or one
        repeat of it holds more than ``max_atoms`` atoms.
    """
    where = f"step slab, start {group_of(atoms)}"
    made = _cut(atoms, config, where)
    repeat: tuple[int, ...] = config.repeat or (1, 1)
    if config.max_atoms is not None:
        if len(made) > config.max_atoms:
            raise InputError(
                "the slab holds more atoms than it may",
                where=where,
                got=f"{len(made)} atoms in one repeat",
                wanted=f"at most max_atoms {config.max_atoms}",
                remedy="raise max_atoms, or make the slab thinner",
            )
        repeat = _widest(_widths(made)[:2], config.max_atoms // len(made), (True, True))
    made = made.repeat((*repeat, 1))
    # Both sides keep half of the gap, which makes the whole gap between periodic images.
    made.center(vacuum=config.vacuum_a / 2, axis=2)
    made.pbc = [True, True, config.periodic]
    repeat_charge(atoms, made)
    return make_frame(made, f"{group_of(atoms)}/slab-{config.plane}", "slab")


def _cut(atoms: Atoms, config: Slab, where: str) -> Atoms:
    bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    for layers in [config.layers] if config.layers else range(1, _MOST_LAYERS + 1):
        made = surface(bare, config.miller, layers)
        made.center(vacuum=10.0, axis=2)
        thickness = float(np.ptp(heights(made, 2)))
        if config.min_thickness_a is None or thickness >= config.min_thickness_a - 1e-6:
            return made
    raise InputError(
        "the slab does not become thick enough",
        where=where,
        got=f"{thickness:.1f} Å with {_MOST_LAYERS} layers",
        wanted=f"min_thickness_a {config.min_thickness_a:g}",
        remedy="lower min_thickness_a",
    )


class Relax(Preparing):
    """Relax each start with the teacher.

    fmax_ev_per_a: it ends when no force is greater, or after ``steps`` steps, each one evaluation.
    cell: the cell relaxes too, to zero stress, where the teacher gives stress.
    """

    kind: Literal["relax"] = "relax"
    said: ClassVar[str] = "to {fmax_ev_per_a} eV/Å in at most {steps} steps, with the cell{cell}"
    fmax_ev_per_a: PositiveFloat = 0.05
    steps: PositiveInt = 200
    cell: bool = False

    def evaluations(self, n_starts: int) -> int:
        return n_starts * (self.steps + 1)

    def build(self, starts: Sequence[Atoms], seed: Sequence[int]) -> list[Atoms]:
        """The starts as they are: :func:`relax` needs a Potential."""
        return list(starts)


def relax(
    atoms: Atoms,
    potential: Potential,
    config: Relax,
    on_step: OnStep = lambda: None,
    stop: Stop = lambda: False,
) -> Trajectory:
    """The relaxed structure as the one frame of a trajectory, in the group of its start.

    L-BFGS (Liu and Nocedal 1989) as ASE has it; with ``cell`` by way of the Frechet derivative of
    the deformation's logarithm. ``stopped`` tells where forces stay above ``fmax_ev_per_a``.
    ``on_step`` is called after each evaluation; once ``stop()`` is true it ends where it is.

    Raises
    ------
    InputError: ``cell`` without stress or periodicity.
    LimbeckError: the Potential cannot evaluate the structure, or it comes apart.
    """
    group = group_of(atoms)
    where = f"step relax, start {group}"
    remedy = "leave 'cell: true' out"
    if config.cell and not potential.capabilities.stress:
        what = "the cell cannot relax: the teacher gives no stress"
        raise InputError(what, where=where, got=potential.name, remedy=remedy)
    if config.cell and not atoms.pbc.all():
        what = "only a cell that is periodic in three directions can relax"
        raise wrong_periodicity(what, where, atoms, remedy)
    moving = make_frame(atoms, group)
    moving.calc = potential.make_calculator()
    target: Any = FrechetCellFilter(moving) if config.cell else moving
    optimiser = LBFGS(target, logfile=None, maxstep=_LONGEST_STEP_A)
    cut = False
    try:
        for _ in optimiser.irun(fmax=config.fmax_ev_per_a, steps=config.steps):
            on_step()
            cut = stop()
            if cut:
                break
        forces = np.linalg.norm(target.get_forces(), axis=1)
    except WorkerDied:
        raise
    except LimbeckError as error:
        raise LimbeckError(f"cannot relax the structure: {error.what}", where=where, got=error.got) from error
    if not (np.isfinite(forces).all() and np.isfinite(moving.positions).all()):
        raise LimbeckError("relaxing gave forces that are not finite", where=where)
    relaxed = make_frame(moving, group, "relax")
    check_structures([relaxed], where)
    largest = float(forces.max())
    if largest <= config.fmax_ev_per_a:
        return Trajectory([relaxed], cut=cut)
    told = f"{group} relaxed for {optimiser.nsteps} steps: the largest force is {largest:.2g} eV/Å"
    return Trajectory([relaxed], f"{told}, wanted were {config.fmax_ev_per_a:g}", cut)
