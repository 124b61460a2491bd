"""Descriptors of atomic environments, for choosing frames that differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from limbeck.core.checks import check_structures
from limbeck.errors import InputError, LimbeckError

CUTOFF_A = 5.0  # what a student sees directly
MOST_ENVIRONMENTS = 100_000
_DIMENSIONS = 48
_FITTED = 4_000  # environments that the principal axes are fitted to
_CHUNK = 64  # frames described at a time: bounds memory

#: a frame and its centres (A,) -> their SOAP vectors (A, D0)
Describe = Callable[[Atoms, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Environments:
    """E described environments of F frames.

    Attributes
    ----------
    vectors: (E, D) float32; Euclidean distance is how far two environments differ.
    frame: (E,) int64, which frame each belongs to, rising.
    element: (E,) int64, atomic number of the centre; only like centres are compared.
    n_frames: F.
    """

    vectors: np.ndarray
    frame: np.ndarray
    element: np.ndarray
    n_frames: int


def describe_environments(
    frames: Sequence[Atoms],
    *,
    cutoff_a: float = CUTOFF_A,
    most: int = MOST_ENVIRONMENTS,
    seed: int = 0,
) -> Environments:
    """SOAP power spectra (Bartók, Kondor, Csányi 2013, arXiv:1209.3140) by dscribe, in few dimensions.

    Neighbours fade out towards ``cutoff_a`` (Å), elements mix as in ``mu1nu1`` (linear in their
    number). The vectors keep the principal axes of a sample and, as one more component, the length
    of what lies beside these axes, so that an environment unlike the sample does not collapse onto it.

    Of more than ``most`` environments each frame keeps an equal number, drawn by ``seed``.

    Raises
    ------
    InputError: no frame.
    LimbeckError: dscribe is not installed.
    """
    if not len(frames):
        raise InputError("no frames to describe", got=0, wanted="at least one")
    check_structures(frames, "frames to select from")
    rng = np.random.default_rng(seed)
    centres = _choose_centres([len(a) for a in frames], most, rng)
    describe = _describer(frames, cutoff_a)
    axes = _principal_axes(frames, centres, describe, rng)
    vectors = np.concatenate([_project(x, axes) for x in _described(frames, centres, describe)])
    return Environments(
        vectors=vectors,
        frame=np.repeat(np.arange(len(frames)), [len(c) for c in centres]),
        element=np.concatenate([a.numbers[c] for a, c in zip(frames, centres, strict=True)]).astype(np.int64),
        n_frames=len(frames),
    )


def _choose_centres(counts: Sequence[int], most: int, rng: np.random.Generator) -> list[np.ndarray]:
    if sum(counts) <= most:
        return [np.arange(n) for n in counts]
    each = max(1, most // len(counts))
    return [np.sort(rng.permutation(n)[:each]) for n in counts]


def _describer(frames: Sequence[Atoms], cutoff_a: float) -> Describe:
    """SOAP for the elements of all frames together."""
    try:
        from dscribe.descriptors import SOAP
    except ImportError as error:
        raise LimbeckError(
            "choosing frames by their environments needs dscribe",
            got=str(error),
            remedy="pip install 'limbeck[selection]', or method: random",
        ) from None
    elements = sorted({int(z) for a in frames for z in np.unique(a.numbers)})
    settings = {
        "r_cut": cutoff_a,
        "n_max": 6,
        "l_max": 4,
        "sigma": 0.4,
        "species": elements,
        "weighting": {"function": "poly", "r0": cutoff_a, "m": 1, "c": 1},
        "compression": {"mode": "mu1nu1"},
        "dtype": "float32",
    }
    by_periodicity = {p: SOAP(**settings, periodic=p) for p in {bool(a.pbc.any()) for a in frames}}

    def describe(atoms: Atoms, centres: np.ndarray) -> np.ndarray:
        soap = by_periodicity[bool(atoms.pbc.any())]
        if atoms.pbc.any() and atoms.cell.rank < 3:  # a slab without a third vector; any will do
            atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell.complete(), pbc=atoms.pbc)
        return np.asarray(soap.create(atoms, centers=centres.tolist()), np.float32)

    return describe


def _described(
    frames: Sequence[Atoms], centres: Sequence[np.ndarray], describe: Describe
) -> Iterator[np.ndarray]:
    for begin in range(0, len(frames), _CHUNK):
        chunk = slice(begin, begin + _CHUNK)
        yield np.concatenate([describe(a, c) for a, c in zip(frames[chunk], centres[chunk], strict=True)])


def _principal_axes(
    frames: Sequence[Atoms], centres: Sequence[np.ndarray], describe: Describe, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D0,) and orthonormal rows (D, D0) of a sample of frames."""
    order = rng.permutation(len(frames))
    counts = np.cumsum([len(centres[k]) for k in order])
    sample = order[: int(np.searchsorted(counts, _FITTED)) + 1]
    x = np.concatenate([describe(frames[k], centres[k]) for k in sample]).astype(np.float64)
    mean = x.mean(axis=0)
    values, rows = np.linalg.eigh((x - mean).T @ (x - mean))
    return mean, rows[:, np.argsort(values)[::-1][:_DIMENSIONS]].T


def _project(x: np.ndarray, axes: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    mean, rows = axes
    centred = x.astype(np.float64) - mean
    along = centred @ rows.T
    beside = np.sqrt(np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0.0))
    return np.concatenate([along, beside[:, None]], axis=1).astype(np.float32)
