"""Normal-mode sampling of molecules.

The scheme of ANI (Smith, Isayev, Roitberg 2017, arXiv:1610.08935) with the harmonic Boltzmann
distribution itself in place of its random shares of the thermal energy: exp(-xᵀHx / 2kT) does not
depend on masses, so the Cartesian Hessian H gives mode vectors and force constants k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.optimize import BFGS

from limbeck.core.checks import contacts
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.sampling.dynamics import Trajectory
from limbeck.sampling.frames import make_frame
from limbeck.sampling.moves import Modes

_REDRAWS = 200
_RANK = 1e-6  # a linear molecule has two rotations


@dataclass(frozen=True)
class NormalModes:
    """Modes of a molecule without translation and rotation, M = 3N - 6 (3N - 5 where it is linear).

    Attributes
    ----------
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


def sample_modes(
    start: Atoms,
    potential: Potential,
    config: Modes,
    rng: np.random.Generator,
    family_of: Callable[[float, int], str],
    on_step: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> Trajectory:
    """``n`` frames at each temperature from one start.

    ``family_of(temperature_K, number)`` names the family of each. Once ``stop()`` is true after an
    evaluation, the present structure is the only frame. A start that cannot be relaxed gives none, and
    ``stopped`` says so.

    Raises
    ------
    InputError: a periodic start, or one whose displaced copies stay too close.
    """
    name = start.info.get("family", "")
    step = config.name or config.kind
    if start.pbc.any():
        raise InputError(
            "normal modes are sampled for molecules only",
            where=f"step {step}, start {name}",
            got=f"pbc {start.pbc.tolist()}",
            remedy="leave the step out, or rattle instead",
        )
    atoms = make_frame(start, name)

    def count() -> None:
        on_step()
        if stop():
            raise _Stopped

    try:
        force = _relax(atoms, potential, config, count)
        if force > config.fmax_ev_per_a:
            return Trajectory(
                [],
                f"{name}/{step} has no frames: the greatest force is {force:.3f} eV/Å after "
                f"{config.relax_steps} steps of relaxation, wanted {config.fmax_ev_per_a:g}",
            )
        modes = normal_modes(atoms.positions, hessian(atoms, potential, config.step_a, count))
    except _Stopped:
        return Trajectory([make_frame(atoms, family_of(config.temperatures[0], 0), step)], cut=True)
    frames = []
    for temperature in config.temperatures:
        for n in range(config.n):
            positions = _displaced(atoms, modes, temperature, config, rng)
            family = family_of(temperature, n)
            frames.append(make_frame(atoms, family, step, temperature, positions))
    return Trajectory(frames)


def normal_modes(positions: np.ndarray, hessian: np.ndarray) -> NormalModes:
    """Eigenvectors of the Hessian (N, 3, N, 3), eV/Å², among the directions that change the shape."""
    n = len(positions)
    arm = positions - positions.mean(axis=0)
    rigid = [np.tile(axis, (n, 1)) for axis in np.eye(3)] + [np.cross(axis, arm) for axis in np.eye(3)]
    left, size, _ = np.linalg.svd(np.array(rigid).reshape(6, 3 * n).T)  # (3N, 3N)
    shape = left[:, int((size > _RANK * size[0]).sum()) :]  # (3N, M)
    constants, vectors = np.linalg.eigh(shape.T @ hessian.reshape(3 * n, 3 * n) @ shape)
    return NormalModes((shape @ vectors).T.reshape(-1, n, 3), constants)


def hessian(
    atoms: Atoms, potential: Potential, step_a: float, on_step: Callable[[], None] = lambda: None
) -> np.ndarray:
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


def _relax(atoms: Atoms, potential: Potential, config: Modes, on_step: Callable[[], None]) -> float:
    """Relax in place; the greatest force that is left, eV/Å."""
    atoms.calc = potential.make_calculator()
    force = _greatest(atoms)
    on_step()
    optimiser = BFGS(atoms, logfile=None)
    for _ in range(config.relax_steps):
        if not force > config.fmax_ev_per_a:
            break
        optimiser.step()
        force = _greatest(atoms)
        on_step()
    atoms.calc = None
    return force


def _greatest(atoms: Atoms) -> float:
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())


def _displaced(
    atoms: Atoms, modes: NormalModes, temperature_k: float, config: Modes, rng: np.random.Generator
) -> np.ndarray:
    """Positions (N, 3) of one draw; drawn again where a pair comes too close."""
    for _ in range(_REDRAWS):
        positions = atoms.positions + modes.draw(temperature_k, config.max_stdev_a, rng)
        moved = make_frame(atoms, "", positions=positions)
        if not len(contacts(StructureBatch.from_atoms([moved]), config.min_ratio)[0]):
            return positions
    raise InputError(
        "displaced atoms stay too close",
        where=f"step {config.name or config.kind}, start {atoms.info.get('family', '')}",
        got=f"{temperature_k:g} K and {_REDRAWS} draws",
        wanted=f"pairs beyond {config.min_ratio:g} of the sum of covalent radii",
        remedy="lower temperature_K, max_stdev_a or min_ratio",
    )
