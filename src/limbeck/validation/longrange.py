"""How much force a teacher carries beyond what a student can see.

An atom of a student feels no more than what lies within its receptive field: with L interactions of
cutoff rc its energy depends on atoms up to L rc away (a force mixes the energies of neighbours, so a
trace of it reaches up to twice that). Teachers reach further, by electrostatics, dispersion or more
layers. The measure: all atoms beyond a radius of a probe atom are displaced at random, everything
within stays, and the probe's force changes by what no student of that reach can learn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.geometry import get_distances

from limbeck.core.charge import copy_charge, repeat_charge
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError, WorkerDied
from limbeck.progress import format_seconds
from limbeck.records.metrics import LongRangeReport
from limbeck.units import EV_TO_MEV

DISPLACEMENT_A = 0.1  #: standard deviation of a coordinate, that of a warm crystal
MOST_ATOMS = 1600
MOST_EVALUATIONS = 8
_ERRORS = (LimbeckError, RuntimeError, ValueError, ArithmeticError)


def long_range_force(
    teacher: Potential,
    structures: Sequence[Atoms],
    radius_a: float,
    *,
    seed: int = 0,
    displacement_a: float = DISPLACEMENT_A,
    evaluations: int = MOST_EVALUATIONS,
    max_atoms: int = MOST_ATOMS,
    budget_s: float | None = None,
) -> LongRangeReport:
    """Measure ``teacher``'s forces beyond ``radius_a`` of probe atoms.

    Periodic structures are repeated until the sphere around a probe meets none of its images (every
    width at least twice the radius). Others are probed where they are wider than the radius.

    Parameters
    ----------
    structures: warm ones: at a minimum the rms force, and with it the share, mean nothing.
    evaluations: at most, shared by the structures, each at least two (one before, the others
        after a displacement; each has a probe atom of its own, of each element in turn).
    max_atoms: a structure that would need more is not tested.
    budget_s: seconds; a structure whose two evaluations would take longer is not tested.
    """
    rng = np.random.default_rng(seed)
    began = time.monotonic()
    changes: list[np.ndarray] = []  # (3,) each, eV/Å
    forces: list[np.ndarray] = []
    reasons: list[str] = []
    widest = 0
    most = max(2, evaluations // max(len(structures), 1))
    for atoms in structures:
        left = None if budget_s is None else budget_s - (time.monotonic() - began)
        try:
            wide, probes = _widen(atoms, radius_a, max_atoms, rng)
            most_here = _affordable(teacher, atoms, len(wide), most, left)
            before, after = _displaced(teacher, wide, probes[: most_here - 1], radius_a, displacement_a, rng)
        except _NotTested as error:
            reasons.append(str(error))
            continue
        except WorkerDied:
            raise
        except _ERRORS as error:
            reasons.append(f"the teacher failed: {' '.join(str(error).split())[:200]}")
            continue
        widest = max(widest, len(wide))
        changes += list(after)
        forces.append(before)
    rms = _rms(changes) if changes else None
    whole = _rms(forces) if forces else 0.0
    return LongRangeReport(
        radius_a=float(radius_a),
        displacement_a=displacement_a,
        force_rms_mev_per_a=None if rms is None else EV_TO_MEV * rms,
        share=None if rms is None or whole < 1e-6 else rms / whole,
        n_atoms_probed=len(changes),
        n_atoms=widest,
        reason=reasons[0] if reasons else "" if changes else "no structure",
    )


class _NotTested(Exception):
    """This structure cannot be tested; the text says why."""


def repeats(atoms: Atoms, width_a: float) -> tuple[int, int, int]:
    """The fewest repeats that make the cell at least ``width_a`` wide wherever it is periodic."""
    heights = np.full(3, np.inf)
    if atoms.pbc.any():
        inverse = np.linalg.inv(atoms.cell.complete().array)
        heights = np.where(atoms.pbc, 1.0 / np.linalg.norm(inverse, axis=0), np.inf)
    return tuple(int(np.ceil(width_a / h - 1e-9)) if np.isfinite(h) else 1 for h in heights)  # type: ignore[return-value]


def _widen(atoms: Atoms, radius: float, max_atoms: int, rng: np.random.Generator) -> tuple[Atoms, list[int]]:
    """The structure made wide enough, and its probe atoms in the order they are taken."""
    times = repeats(atoms, 2 * radius)
    needed = len(atoms) * int(np.prod(times))
    if needed > max_atoms:
        raise _NotTested(
            f"it would take {needed:,} atoms (a cell {2 * radius:.0f} Å wide), more than {max_atoms:,}"
        )
    wide = atoms.repeat(times) if needed > len(atoms) else atoms.copy()
    wide.info = dict(atoms.info)
    (repeat_charge if needed > len(atoms) else copy_charge)(atoms, wide)
    able = range(len(wide))
    if not atoms.pbc.all():
        able = [k for k in able if (_distances(wide, k) > radius).any()]  # type: ignore[assignment]
    if not able:
        raise _NotTested(f"the structure is no wider than {radius:.1f} Å")
    queues: dict[int, list[int]] = {}
    for k in rng.permutation(list(able)):
        queues.setdefault(int(wide.numbers[k]), []).append(int(k))
    longest = max(map(len, queues.values()))
    # each element in turn, so that few probes still see all of them
    return wide, [queue[turn] for turn in range(longest) for queue in queues.values() if turn < len(queue)]


def _affordable(teacher: Potential, atoms: Atoms, n_wide: int, most: int, left_s: float | None) -> int:
    """Evaluations of the wide structure that fit, timed on the structure as it is."""
    if left_s is None:
        return most
    began = time.monotonic()
    elsewhere = atoms.copy()
    elsewhere.positions += 0.1  # a teacher that keeps its last answer must not show its memory's speed
    teacher.evaluate(StructureBatch.from_atoms([elsewhere]))
    took = time.monotonic() - began
    each = took * n_wide / len(atoms)
    fit = int((left_s - took) / max(each, 1e-9))
    if fit < 2:
        raise _NotTested(
            f"the budget leaves too little time: two evaluations of {n_wide:,} atoms would take about "
            f"{format_seconds(2 * each)}"
        )
    return min(most, fit)


def _displaced(
    teacher: Potential,
    wide: Atoms,
    probes: Sequence[int],
    radius: float,
    displacement: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Forces before (N, 3), and the change of each probe's force (n, 3), eV/Å."""
    moved = []
    for k in probes:
        frame = wide.copy()
        shift = rng.normal(scale=displacement, size=frame.positions.shape)
        frame.positions += np.where(_distances(wide, k) > radius, 1.0, 0.0)[:, None] * shift
        # what would come in stays where it was: nothing within the radius may change
        inside = _distances(frame, k) <= radius
        frame.positions[inside] = wide.positions[inside]
        moved.append(frame)
    before = teacher.evaluate(StructureBatch.from_atoms([wide])).forces
    after = teacher.evaluate(StructureBatch.from_atoms(moved)).forces.reshape(len(moved), len(wide), 3)
    return before, after[np.arange(len(moved)), list(probes)] - before[list(probes)]


def _distances(atoms: Atoms, k: int) -> np.ndarray:
    """From atom ``k`` to the nearest image of every atom, Å, (N,)."""
    _, distance = get_distances(atoms.positions[[k]], atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    return distance[0]


def _rms(parts: Sequence[np.ndarray]) -> float:
    return float(np.sqrt(np.mean(np.concatenate([np.ravel(p) for p in parts]) ** 2)))
