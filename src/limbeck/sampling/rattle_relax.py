"""The step ``rattle-relax``: trees of structures that are rattled and relaxed a little.

    - {kind: rattle-relax, n: 20, trees: 3, strain: 0.03}

The procedure of augment-atoms (Gardner et al. 2025, arXiv:2506.10956), after its public description.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from ase import Atoms, units
from pydantic import Field, PositiveFloat, PositiveInt

from limbeck.core.checks import closest_contact
from limbeck.core.frames import Trajectory, group_of, make_frame
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.core.trajectory import OnStep, Stop
from limbeck.errors import LimbeckError, WorkerDied
from limbeck.sampling.perturb import moved, rattle
from limbeck.sampling.steps import Driven, Ratio, Run, RunSize

_MOST_LIKELY_STOP = 0.25  # a child that lies below its parent relaxes on with three chances in four


class RattleRelax(Driven):
    """Group trees of structures that are rattled and relaxed a little, again and again.

    After augment-atoms (Gardner et al. 2025, arXiv:2506.10956). A child's parent is drawn with
    probability ``beta * Boltzmann factor + (1 - beta) * generation``, each normalised over the tree.

    n: children a tree. trees: trees a start. stdev_a: range from which the rattle's standard
    deviation is drawn, Å. strain: greatest standard deviation of the cell's random deformation (0: the
    cell stays). temperature_K: of the Boltzmann factor of the whole structure's energy. beta: near 1
    stays at low energies, near 0 starts from the latest generations. relax_steps: evaluations a
    child at most. max_force_ev_per_a, min_ratio: a child has no greater force, and no pair closer than
    this fraction of its sum of covalent radii.
    """

    kind: Literal["rattle-relax"] = "rattle-relax"
    said: ClassVar[str] = "{stdev_a} Å, {temperature_K} K"
    n: PositiveInt = 20
    trees: PositiveInt = 2
    stdev_a: tuple[PositiveFloat, PositiveFloat] = (0.05, 0.3)
    strain: Annotated[float, Field(ge=0, le=0.2)] = 0.0
    temperature_K: PositiveFloat = 1000.0
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5
    relax_steps: PositiveInt = 10
    max_force_ev_per_a: PositiveFloat = 30.0
    min_ratio: Ratio = 0.5

    outside_key: ClassVar[frozenset[str]] = frozenset({"keep", "driver", "from_", "trees"})
    runs_are: ClassVar[str] = "trees"

    def n_runs(self, n_incoming: int) -> int:
        return self.trees * n_incoming

    def size(self, n_atoms: int) -> RunSize:
        return RunSize(self.n, 1 + self.n * self.relax_steps, 1 + self.relax_steps)

    def runs(self, incoming: Sequence[Atoms], potential: Potential) -> list[Run]:
        def run(k: int, start: Atoms, tree: int) -> Run:
            group = f"{group_of(start)}/{self.title}-t{tree}"
            return Run(start, (k, tree), group, partial(self.grow, start, potential, group), condition=k)

        return [run(k, start, tree) for k, start in enumerate(incoming) for tree in range(self.trees)]

    def grow(
        self,
        start: Atoms,
        potential: Potential,
        group: str,
        rng: np.random.Generator,
        on_step: OnStep,
        stop: Stop,
    ) -> Trajectory:
        """The children of one tree, in order of birth; one group, since each resembles its parent.

        It takes ``1 + n * relax_steps`` evaluations at most; rejected children may leave fewer than n.
        Once ``stop()`` is true after an evaluation, the tree ends with the children it has, or with the
        structure at work where it has none.
        """
        tree = _Tree(make_frame(start, group), potential, self, rng, on_step, stop)
        try:
            while len(tree.members) <= self.n and not tree.cut:
                tree.grow()
        except _Ended:
            pass
        frames = [make_frame(member.atoms, group, self.title) for member in tree.members[1:]]
        if tree.cut:
            return Trajectory(frames or [make_frame(tree.last, group, self.title)], cut=True)
        if len(frames) == self.n:
            return Trajectory(frames)
        reason = f"its {self.size(1).evaluations} evaluations are spent"
        return Trajectory(frames, f"{group} ended with {len(frames)} of {self.n} children: {reason}")


@dataclass(frozen=True)
class _Member:
    """A structure of the tree, its energy (eV) and its generation (that of the start is 1)."""

    atoms: Atoms
    energy: float
    generation: int


class _Ended(Exception):
    """The evaluations are spent, or the time is up."""


@dataclass
class _Tree:
    start: Atoms
    potential: Potential
    config: RattleRelax
    rng: np.random.Generator
    on_step: OnStep
    stop: Stop
    cut: bool = False  # the time was up

    def __post_init__(self) -> None:
        self.left = self.config.size(1).evaluations
        self.last = self.start
        self.members = [_Member(self.start, self.evaluate(self.start)[0], 1)]

    def evaluate(self, atoms: Atoms) -> tuple[float, np.ndarray]:
        """Energy, eV, and forces (N, 3), eV/Å."""
        if not self.left:
            raise _Ended
        self.left -= 1
        labels = self.potential.evaluate(StructureBatch.from_atoms([atoms]))
        self.last = atoms
        self.on_step()
        if self.left and self.stop():
            self.cut = True
        return float(labels.energy[0]), labels.forces

    def grow(self) -> None:
        """Add one child, or none where what was rattled does not relax to a sane structure."""
        config, rng = self.config, self.rng
        parent = self.members[rng.choice(len(self.members), p=parent_weights(self.members, config))]
        stdev = rng.uniform(*config.stdev_a)
        atoms = parent.atoms.copy()
        if config.strain and atoms.pbc.all():
            # of the start's cell, so that strains do not add up, and without a rotation
            strain = rng.normal(0.0, rng.uniform(0.0, config.strain), (3, 3))
            strained = self.start.cell.array @ (np.eye(3) + (strain + strain.T) / 2)
            atoms.set_cell(strained, scale_atoms=True)
        atoms.positions = rattle(atoms, stdev, config.min_ratio, rng, config.where(self.start))
        for k in range(1, config.relax_steps + 1):
            try:
                energy, forces = self.evaluate(atoms)
            except WorkerDied:
                raise
            except LimbeckError:  # a structure that the Potential cannot treat is no child
                return
            if self.cut:
                raise _Ended
            if not (np.isfinite(energy) and np.isfinite(forces).all()):
                return
            size = np.linalg.norm(forces, axis=1, keepdims=True)  # (N, 1)
            sane = size.max() < config.max_force_ev_per_a
            rise = (energy - parent.energy) / (units.kB * config.temperature_K)
            chance = 1.0 if k == config.relax_steps else min(_MOST_LIKELY_STOP, np.exp(-max(rise, 0.0)))
            if sane and rng.random() < chance:
                if closest_contact(StructureBatch.from_atoms([atoms]), config.min_ratio) is None:
                    self.members.append(_Member(atoms, energy, parent.generation + 1))
                return
            # steps that shrink as 1/k: their sum diverges, that of their squares does not
            atoms = moved(atoms, atoms.positions + stdev / k * forces / np.maximum(size, 1e-12))


def parent_weights(members: list[_Member], config: RattleRelax) -> np.ndarray:
    """Probability of each member to be the next parent, (M,)."""
    energy = np.array([m.energy for m in members]) / (units.kB * config.temperature_K)
    low = np.exp(energy.min() - energy)
    generation = np.array([float(m.generation) for m in members])
    return config.beta * low / low.sum() + (1 - config.beta) * generation / generation.sum()
