"""Configuration of the steps that prepare starting structures: each replaces the starts of all later steps.

    - {kind: thin, max: 50}
    - {kind: relax, fmax_ev_per_a: 0.05, steps: 200, cell: true}
    - {kind: slab, miller: [1, 1, 1], min_thickness_a: 9, vacuum_a: 12, max_atoms: 64}
    - {kind: supercell, repeat: [[2, 2, 2], [3, 2, 2]]}
    - {kind: vacancy, element: Si, where: surface, variants: 2}
    - {kind: interstitial, element: Si, variants: 2}

``slab``, ``vacancy`` and ``interstitial`` keep the structures that they start from as well, unless
they say ``add: false``, so that a student knows both. What they make is named after its origin:
``Si#0/slab-111/vacancy-0``.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from ase.data import chemical_symbols
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from limbeck.sampling.step import Frozen

Repeat = tuple[PositiveInt, PositiveInt, PositiveInt]


def _known_element(symbol: str) -> str:
    if symbol not in chemical_symbols[1:]:
        raise ValueError(f"no such element; got {symbol!r}; wanted a chemical symbol such as Si")
    return symbol


Element = Annotated[str, AfterValidator(_known_element)]


class Preparing(Frozen):
    """A step that replaces the starting structures."""

    #: how many starts come of it depends on the structures; :meth:`count` is then the most
    counts_vary: ClassVar[bool] = False

    def count(self, n_starts: int) -> int:
        """Starts that the step makes of so many, at most."""
        return n_starts

    def evaluations(self, n_starts: int) -> int:
        """Evaluations of a Potential that it takes, at most."""
        return 0

    @property
    def said(self) -> str:
        """Its settings in a few words."""
        raise NotImplementedError


def _exactly_one(step: Preparing, kind: str, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(step, name) is not None]
    if len(given) != 1:
        raise ValueError(
            f"{kind}: got {', '.join(given) or 'nothing'}; wanted exactly one of {', '.join(names)}"
        )


class Supercell(Preparing):
    """Replace each start by a supercell; exactly one of the four ways is given.

    repeat: repeats along the three cell vectors, or a list of such: each start in each size.
    matrix: integer rows P, new cell = P @ cell.
    min_length_a: the fewest repeats with every periodic width at least this, Å.
    max_atoms: the repeats with the greatest shortest width that hold at most so many atoms.
    """

    kind: Literal["supercell"] = "supercell"
    repeat: Repeat | Annotated[tuple[Repeat, ...], Field(min_length=1)] | None = None
    matrix: tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]] | None = None
    min_length_a: PositiveFloat | None = None
    max_atoms: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Supercell:
        _exactly_one(self, "supercell", ("repeat", "matrix", "min_length_a", "max_atoms"))
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError("supercell: got the same repeat twice; wanted each size once")
        return self

    @property
    def sizes(self) -> tuple[Repeat, ...]:
        """The repeats of a list of sizes; empty where ``repeat`` is no list."""
        if self.repeat is None or isinstance(self.repeat[0], int):
            return ()
        return self.repeat  # type: ignore[return-value]  # pydantic has told the two apart

    @property
    def variants(self) -> tuple[Supercell, ...]:
        """The step once for each size."""
        return tuple(Supercell(repeat=size) for size in self.sizes) or (self,)

    def count(self, n_starts: int) -> int:
        return n_starts * len(self.variants)

    @property
    def said(self) -> str:
        if self.matrix is not None:
            return str(self.matrix).replace(" ", "")
        if self.min_length_a is not None:
            return f"{self.min_length_a:g} Å"
        if self.max_atoms is not None:
            return f"of at most {self.max_atoms} atoms"
        return ", ".join("x".join(map(str, size)) for size in self.sizes or (self.repeat,))  # type: ignore[arg-type]


class Thin(Preparing):
    """Keep at most ``max`` of the starts: exact duplicates go first, of the rest every so manieth stays."""

    kind: Literal["thin"] = "thin"
    max: PositiveInt

    counts_vary: ClassVar[bool] = True

    def count(self, n_starts: int) -> int:
        return min(n_starts, self.max)

    @property
    def said(self) -> str:
        return f"to {self.max}"


class Relax(Preparing):
    """Relax each start with the teacher.

    fmax_ev_per_a: it ends when no force is greater, or after ``steps`` steps, each one evaluation.
    cell: the cell relaxes too, to zero stress, where the teacher gives stress.
    """

    kind: Literal["relax"] = "relax"
    fmax_ev_per_a: PositiveFloat = 0.05
    steps: PositiveInt = 200
    cell: bool = False

    def evaluations(self, n_starts: int) -> int:
        return n_starts * (self.steps + 1)

    @property
    def said(self) -> str:
        return f"{'with the cell ' * self.cell}to {self.fmax_ev_per_a:g} eV/Å in at most {self.steps} steps"


class _Varying(Preparing):
    """Makes new structures of each start; ``add``: the start itself stays too."""

    add: bool = True


class Slab(_Varying):
    """Cut a slab from each start that is a crystal (periodic in three directions, no vacuum).

    miller: of the surface, in the cell as given: cut first, then make supercells. Exactly one of
    layers (lattice planes of these indices, each may hold several planes of atoms) and
    min_thickness_a (between the outermost atoms, Å). vacuum_a: empty space between the slab and its
    image, Å. At most one of repeat (along the surface) and max_atoms (the repeats along the surface
    with the greatest shorter width that hold at most so many).
    periodic: the slab repeats across the vacuum too, as some teachers need; false gives pbc TTF.
    """

    kind: Literal["slab"] = "slab"
    miller: tuple[int, int, int]
    layers: PositiveInt | None = None
    min_thickness_a: PositiveFloat | None = None
    vacuum_a: Annotated[float, Field(ge=5)] = 12.0
    repeat: tuple[PositiveInt, PositiveInt] | None = None
    max_atoms: PositiveInt | None = None
    periodic: bool = True

    counts_vary: ClassVar[bool] = True

    @model_validator(mode="after")
    def _fits(self) -> Slab:
        _exactly_one(self, "slab", ("layers", "min_thickness_a"))
        if not any(self.miller):
            raise ValueError("slab: got miller 0, 0, 0; wanted at least one index that is not zero")
        if self.repeat is not None and self.max_atoms is not None:
            raise ValueError("slab: got repeat, max_atoms; wanted at most one of them")
        return self

    def count(self, n_starts: int) -> int:
        return n_starts * (1 + self.add)

    @property
    def name(self) -> str:
        """``slab-111``, ``slab-1,-1,0``: what the families of its slabs are called."""
        between = "" if min(self.miller) >= 0 and max(self.miller) < 10 else ","
        return f"slab-{between.join(map(str, self.miller))}"

    @property
    def said(self) -> str:
        thick = f"{self.layers} layers" if self.layers else f"{self.min_thickness_a:g} Å"
        return f"{self.name.removeprefix('slab-')}, {thick} thick, {self.vacuum_a:g} Å vacuum"


class Vacancy(_Varying):
    """Remove ``n`` atoms of each start, in up to ``variants`` ways that symmetry does not make alike.

    element: which atoms may go (any unless given). where: ``surface`` takes atoms within 1.5 Å of
    the outermost of a slab and leaves starts without a surface as they are, ``bulk`` takes all
    others. The seed chooses among sites that are alike.
    """

    kind: Literal["vacancy"] = "vacancy"
    n: PositiveInt = 1
    element: Element | None = None
    where: Literal["any", "surface", "bulk"] = "any"
    variants: PositiveInt = 2

    counts_vary: ClassVar[bool] = True

    def count(self, n_starts: int) -> int:
        return n_starts * (self.variants + self.add)

    @property
    def said(self) -> str:
        place = "" if self.where == "any" else f" ({self.where})"
        return f"{self.n} {self.element or 'atom'}{place}, up to {self.variants} variants"


class Interstitial(_Varying):
    """Put ``n`` atoms of ``element`` into the widest holes of each start that is periodic.

    variants: structures with a first atom in holes of different kinds, the widest first.
    min_ratio: no atom comes closer than this fraction of the sum of covalent radii.
    """

    kind: Literal["interstitial"] = "interstitial"
    element: Element
    n: PositiveInt = 1
    variants: PositiveInt = 2
    min_ratio: Annotated[float, Field(ge=0.3, le=1.0)] = 0.5

    counts_vary: ClassVar[bool] = True

    def count(self, n_starts: int) -> int:
        return n_starts * (self.variants + self.add)

    @property
    def said(self) -> str:
        return f"{self.n} {self.element}, up to {self.variants} variants"
