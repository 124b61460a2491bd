"""What a step of a sampling is: a frozen configuration with what it makes.

Steps that prepare replace the starting structures; all others add frames: drawn from those that come in,
or driven by a Potential in runs that are independent of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field

from limbeck.core.frames import Trajectory, group_of
from limbeck.core.potential import Potential
from limbeck.errors import InputError

GROUPS_PER_STEP = 10  #: that the draws from all starts make together

RngOf = Callable[[int], np.random.Generator]  #: random numbers for each incoming frame by its index
Made = tuple[list[Atoms], list[str]]  #: frames, and a sentence for each thing that could not be made
Ratio = Annotated[float, Field(ge=0.3, le=0.7)]


class Frozen(BaseModel):
    """A configuration that refuses unknown keys and never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Preparing(Frozen):
    """A step that replaces the starting structures."""

    kind: str

    #: what a plan says of it, the parts between commas where they are set
    said: ClassVar[str] = ""
    #: how many starts come of it depends on the structures; :meth:`count` is then the most
    counts_vary: ClassVar[bool] = False

    def count(self, n_starts: int) -> int:
        """Structures that the step makes of ``n``, at most."""
        return n_starts

    def evaluations(self, n_starts: int) -> int:
        """Evaluations of a Potential that it takes, at most."""
        return 0

    def build(self, starts: Sequence[Atoms], seed: Sequence[int]) -> list[Atoms]:
        """What it makes of ``starts``; ``seed`` and the number of the start fix what is drawn.

        Raises
        ------
        InputError: the step fits none of the structures, or one of them in a way that it must.
        """
        raise NotImplementedError


class Adding(Frozen):
    """A step that adds frames.

    name: what ``from`` and the frames' group call it (the kind unless given). from: an earlier
    step whose frames it starts from. keep: whether its frames belong to the result.
    """

    kind: str
    said: ClassVar[str] = ""
    name: str | None = None
    from_: str | None = Field(None, alias="from")
    keep: bool = True

    @property
    def title(self) -> str:
        return self.name or self.kind

    def where(self, start: Atoms) -> str:
        """The first words of an error about a start."""
        return f"step {self.title}, start {group_of(start)}"

    def count(self, n_incoming: int, n_pairs: int) -> int:
        """The most frames that it makes of ``n_incoming`` frames with ``n_pairs`` pairs of elements."""
        raise NotImplementedError


class Drawn(Adding):
    """A step that needs no Potential."""

    def frames(self, incoming: Sequence[Atoms], rng_of: RngOf) -> Made:
        """What it makes of the incoming frames."""
        raise NotImplementedError


@dataclass(frozen=True)
class Run:
    """One trajectory, tree or expansion.

    start: what it begins from. numbers: with seed and step they fix its random numbers.
    group: of its frames, or their prefix. make: makes it of (rng, on_step=, stop=). condition: which of the
    step's conditions (or starts of trees) it is a run of. about: what else fixes it, JSON-able.
    """

    start: Atoms
    numbers: tuple[int, int]
    group: str
    make: Callable[..., Trajectory]
    condition: int = 0
    about: list[Any] = field(default_factory=list)


class RunSize(NamedTuple):
    """Most frames and evaluations of the Potential; evaluations until the first frame."""

    frames: int
    evaluations: int
    first: int


class Driven(Adding):
    """A step whose frames a Potential makes, in runs that are independent of each other.

    driver: which Potential; the caller decides what the name stands for.
    """

    driver: Literal["teacher", "student"] = "teacher"

    #: fields of no effect on what one run gives, or given to its key in another way
    outside_key: ClassVar[frozenset[str]] = frozenset({"keep", "driver"})
    #: what its runs are called
    runs_are: ClassVar[str] = "runs"

    def runs(self, incoming: Sequence[Atoms], potential: Potential) -> list[Run]:
        """Every run (trajectory, tree, expansion), in the order of the frames."""
        raise NotImplementedError

    def n_runs(self, n_incoming: int) -> int:
        """Number of runs from ``n_incoming`` frames."""
        raise NotImplementedError

    def size(self, n_atoms: int) -> RunSize:
        """What a run of ``n_atoms`` atoms gives and takes."""
        raise NotImplementedError

    @property
    def hottest_K(self) -> float | None:
        """Highest temperature that its frames sample; None for a step without temperature."""
        return None

    def count(self, n_incoming: int, n_pairs: int) -> int:
        return self.n_runs(n_incoming) * self.size(1).frames


def n_blocks(n: int, n_incoming: int) -> int:
    """Groups that the ``n`` independent draws from one start make: enough to split, few enough to list."""
    return max(1, min(n, GROUPS_PER_STEP // n_incoming))


def wrong_periodicity(what: str, where: str, atoms: Atoms, remedy: str) -> InputError:
    return InputError(what, where=where, got=f"pbc {atoms.pbc.tolist()}", remedy=remedy)
