"""The step ``modes``: normal-mode sampling of molecules.

    - {kind: modes, temperature_K: [300, 600], n: 20}

The scheme of ANI (Smith, Isayev, Roitberg 2017, arXiv:1610.08935) with the harmonic Boltzmann
distribution itself in place of its random shares of the thermal energy: exp(-xᵀHx / 2kT) does not
depend on masses, so the Cartesian Hessian H gives mode vectors and force constants k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from ase import Atoms, units
from ase.optimize import BFGS
from pydantic import Field, PositiveFloat, PositiveInt

from limbeck.core.frames import Trajectory, group_of, make_frame
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.core.trajectory import OnStep, Stop
from limbeck.errors import LimbeckError
from limbeck.sampling.perturb import REDRAWS, drawn_apart, too_close
from limbeck.sampling.steps import Driven, Ratio, Run, RunSize, n_blocks, wrong_periodicity

_RANK = 1e-6  # a linear molecule has two rotations


class Modes(Driven):
    """Normal-mode sampling of molecules (as for ANI: Smith, Isayev, Roitberg 2017, arXiv:1610.08935).

    A copy of each start is relaxed by the driver, and displaced along the eigenvectors of its
    Hessian (without translation and rotation) by amplitudes of the Boltzmann distribution: normal,
    with variance kT / k.

    temperature_K: a temperature or several. n: frames a temperature and start. max_stdev_a: cap of
    a mode's standard deviation, Å, for soft modes, whose harmonic amplitudes mean little.
    relax_steps, fmax_ev_per_a: the relaxation. step_a: displacement of the finite differences.
    """

    kind: Literal["modes"] = "modes"
    said: ClassVar[str] = "{temperature_K} K"
    temperature_K: tuple[PositiveFloat, ...] | PositiveFloat
    n: PositiveInt = 20
    max_stdev_a: PositiveFloat = 0.5
    min_ratio: Ratio = 0.6
    relax_steps: PositiveInt = 200
    fmax_ev_per_a: PositiveFloat = 0.02
    step_a: Annotated[float, Field(gt=0, le=0.1)] = 0.01

    @property
    def temperatures(self) -> tuple[float, ...]:
        return self.temperature_K if isinstance(self.temperature_K, tuple) else (self.temperature_K,)

    def n_runs(self, n_incoming: int) -> int:
        return n_incoming

    def size(self, n_atoms: int) -> RunSize:
        evaluations = self.relax_steps + 1 + 6 * n_atoms
        return RunSize(self.n * len(self.temperatures), evaluations, evaluations)

    @property
    def hottest_K(self) -> float:
        return max(self.temperatures)

    def runs(self, incoming: Sequence[Atoms], potential: Potential) -> list[Run]:
        blocks = n_blocks(self.n, len(incoming))
        return [
            Run(start, (k, 0), group_of(start), partial(self.expand, start, potential, blocks), 0, [blocks])
            for k, start in enumerate(incoming)
        ]

    def expand(
        self,
        start: Atoms,
        potential: Potential,
        blocks: int,
        rng: np.random.Generator,
        on_step: OnStep,
        stop: Stop,
    ) -> Trajectory:
        """``n`` frames at each temperature from one start, in ``blocks`` groups.

        Once ``stop()`` is true after an evaluation, the present structure is the only frame. A start that
        cannot be relaxed gives none, and ``stopped`` says so.
        """
        name, where = group_of(start), self.where(start)
        if start.pbc.any():
            what = "normal modes are sampled for molecules only"
            raise wrong_periodicity(what, where, start, "leave the step out, or rattle instead")
        atoms = make_frame(start, name)

        def group(kelvin: float, number: int) -> str:
            return name if self.from_ else f"{name}/{self.title}-{kelvin:g}K-b{number * blocks // self.n}"

        def count() -> None:
            on_step()
            if stop():
                raise _Stopped

        try:
            force = self._relax(atoms, potential, count)
            if force > self.fmax_ev_per_a:
                told = f"{name}/{self.title} has no frames: the greatest force is {force:.3f} eV/Å after "
                told += f"{self.relax_steps} steps of relaxation, wanted {self.fmax_ev_per_a:g}"
                return Trajectory([], told)
            modes = normal_modes(atoms.positions, hessian(atoms, potential, self.step_a, count))
        except _Stopped:
            return Trajectory([make_frame(atoms, group(self.temperatures[0], 0), self.title)], cut=True)
        frames = []
        what, remedy = "displaced atoms stay too close", "lower temperature_K, max_stdev_a or min_ratio"
        for kelvin in self.temperatures:
            refusal = too_close(what, where, f"{kelvin:g} K and {REDRAWS} draws", self.min_ratio, remedy)

            def displaced(_: int, kelvin: float = kelvin) -> np.ndarray:
                return atoms.positions + modes.draw(kelvin, self.max_stdev_a, rng)

            for n in range(self.n):
                positions = drawn_apart(atoms, displaced, self.min_ratio, refusal)
                frames.append(make_frame(atoms, group(kelvin, n), self.title, kelvin, positions))
        return Trajectory(frames)

    def _relax(self, atoms: Atoms, potential: Potential, on_step: OnStep) -> float:
        """Relax in place; the greatest force that is left, eV/Å."""
        atoms.calc = potential.make_calculator()
        optimiser = BFGS(atoms, logfile=None)
        for k in range(self.relax_steps + 1):
            if k:
                optimiser.step()
            force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
            on_step()
            if not force > self.fmax_ev_per_a:
                break
        atoms.calc = None
        return force


@dataclass(frozen=True)
class NormalModes:
    """Modes of a molecule without translation and rotation, M = 3N - 6 (3N - 5 where it is linear).

    vectors: (M, N, 3), orthonormal. force_constants: (M,) eV/Å², ascending.
    """

    vectors: np.ndarray
    force_constants: np.ndarray

    def draw(self, temperature_k: float, cap_a: float, rng: np.random.Generator) -> np.ndarray:
        """Random displacements (N, 3), Å: each mode normal with variance kT / k, at most ``cap_a`` squared.

        Modes of k <= 0 (the start is no minimum along them) take the cap.
        """
        kt = units.kB * temperature_k
        stdev = np.sqrt(kt / np.maximum(self.force_constants, kt / cap_a**2))  # (M,)
        return np.einsum("m,mni->ni", stdev * rng.standard_normal(len(stdev)), self.vectors)


class _Stopped(Exception):
    """Time is up."""


def normal_modes(positions: np.ndarray, hessian: np.ndarray) -> NormalModes:
    """Eigenvectors of the Hessian (N, 3, N, 3), eV/Å², among the directions that change the shape."""
    n = len(positions)
    arm = positions - positions.mean(axis=0)
    rigid = [np.tile(axis, (n, 1)) for axis in np.eye(3)] + [np.cross(axis, arm) for axis in np.eye(3)]
    left, size, _ = np.linalg.svd(np.array(rigid).reshape(6, 3 * n).T)  # (3N, 3N)
    shape = left[:, int((size > _RANK * size[0]).sum()) :]  # (3N, M)
    constants, vectors = np.linalg.eigh(shape.T @ hessian.reshape(3 * n, 3 * n) @ shape)
    return NormalModes((shape @ vectors).T.reshape(-1, n, 3), constants)


def hessian(atoms: Atoms, potential: Potential, step_a: float, on_step: OnStep = lambda: None) -> np.ndarray:
    """Second derivatives of the energy, (N, 3, N, 3), eV/Å²: the student's own, or central differences."""
    own = getattr(potential, "hessian", None)
    if own is not None:
        try:
            return np.asarray(own(atoms))
        except LimbeckError:  # a student without the native core; the differences say what else is wrong
            pass
    n = len(atoms)
    rows = np.zeros((n, 3, n, 3))
    for i in range(n):
        for k in range(3):
            slope = np.zeros((n, 3))
            for sign in (1.0, -1.0):
                moved = atoms.copy()
                moved.positions[i, k] += sign * step_a
                slope -= sign * potential.evaluate(StructureBatch.from_atoms([moved])).forces
                on_step()
            rows[i, k] = slope / (2 * step_a)
    flat = rows.reshape(3 * n, 3 * n)
    return ((flat + flat.T) / 2).reshape(n, 3, n, 3)
