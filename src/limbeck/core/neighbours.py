"""Neighbour lists by vesin's C library: the only module that finds pairs of atoms to compute with."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import sys
import types
from dataclasses import dataclass
from typing import Any

import numpy as np

from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError, MissingPackageError

FARTHEST_A = 1e8  #: float64 resolves 1e-8 Å there
PAIR_CUTOFF_A = 6.0  #: pairs of elements that never come closer are left out of a model card
CROWDED = 100_000  #: neighbours an atom; a solid has 45,000 within 60 Å
_FLAT, _THIN_A = 1e-5, 1e-6  # smallest singular value of the periodic vectors, of the largest and in Å
_WIDE_A = 1000.0  # extent along an open direction from which gaps are shortened


@dataclass(frozen=True)
class Pairs:
    """Undirected pairs closer than a cutoff, each listed once, structure after structure.

    Attributes
    ----------
    first, second: (P,) int32, atom indices counted from the structure's first atom; an atom
        pairs with its own images too, each image once.
    vectors: (P, 3) float64, Å, x_second + shift @ cell - x_first.
    offsets: (S + 1,) int64; structure s owns pairs ``offsets[s]:offsets[s + 1]``.
    """

    first: np.ndarray
    second: np.ndarray
    vectors: np.ndarray
    offsets: np.ndarray

    @property
    def distances(self) -> np.ndarray:
        """(P,) float64, Å."""
        return np.linalg.norm(self.vectors, axis=1)


def find_pairs(batch: StructureBatch, cutoff: float) -> Pairs:
    """Half neighbour list of every structure; any cell, any mix of periodic directions.

    Raises
    ------
    InputError: what :func:`neighbour_list` refuses, naming the structure; two atoms at the same
        place (no direction between them).
    """
    parts = [(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 3)))]
    for s in range(len(batch)):
        points, cell = batch.positions[batch.offsets[s] : batch.offsets[s + 1]], batch.cell[s]
        i, j, shifts = neighbour_list(points, cell, batch.pbc[s], cutoff, where=f"structure {s}")
        parts.append((i, j, pair_vectors(points, cell, i, j, shifts)))
    counts = [len(i) for i, _, _ in parts]
    offsets = np.cumsum(counts, dtype=np.int64)
    first, second, vectors = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    pairs = Pairs(first, second, vectors, offsets)
    check_apart(pairs)
    return pairs


def neighbour_list(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    cutoff: float,
    *,
    where: str | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half neighbour list of one structure: each undirected pair closer than ``cutoff`` once.

    Ascending in the first atom.

    Parameters
    ----------
    positions: (N, 3), Å, also far outside the cell. cell: (3, 3), Å, rows; of either hand, also smaller
        than the cutoff; rows of open directions are ignored. pbc: (3,). cutoff: Å.
    where: names the structure in errors.

    Returns
    -------
    first, second: (P,) int32; pairs of an atom with its own images too, of an image and its mirror image one.
    shifts: (P, 3) int32; the vector is x_second + shift @ cell - x_first.

    Raises
    ------
    InputError: numbers that are not finite or too large, periodic vectors that are not independent,
        a cell so small that atoms have over ``CROWDED`` neighbours.
    """
    points = np.ascontiguousarray(positions, np.float64)
    box, periodic = np.array(cell, np.float64), np.array(pbc, bool)
    _check_shapes(points, box, periodic, cutoff, where)
    if not len(points):
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 3), np.int32)
    check_cell(box, periodic, where)
    if not periodic.all():
        points, box = _open_directions(points, box, periodic, cutoff)
    _check_crowding(points, box, periodic, cutoff, where)
    return _search(points, box, periodic, cutoff, where)


def pair_vectors(
    positions: np.ndarray, cell: np.ndarray, first: np.ndarray, second: np.ndarray, shifts: np.ndarray
) -> np.ndarray:
    """x_second + shift @ cell - x_first, (P, 3), Å."""
    vectors = positions[second] - positions[first]
    if shifts.any():
        vectors += shifts @ cell
    return vectors


def check_apart(pairs: Pairs) -> None:
    """InputError where two atoms are at the same place: their pair has no direction."""
    touching = np.flatnonzero(~(pairs.distances > 1e-6))
    if len(touching):
        p = int(touching[0])
        s = int(np.searchsorted(pairs.offsets, p, side="right")) - 1
        raise InputError(
            "two atoms are at the same place",
            where=f"structure {s}, atoms {pairs.first[p]} and {pairs.second[p]}",
            got=f"{pairs.distances[p]:.3g} Å apart",
            wanted="finite positions, no two alike",
            remedy="remove the duplicate atom",
        )


def _check_shapes(
    points: np.ndarray, box: np.ndarray, periodic: np.ndarray, cutoff: float, where: str | None
) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or box.shape != (3, 3) or periodic.shape != (3,):
        raise InputError(
            "wrong shapes of a structure's arrays",
            where=where,
            got=f"positions {points.shape}, cell {box.shape}, pbc {periodic.shape}",
            wanted="(N, 3), (3, 3), (3,)",
        )
    if not 0 < cutoff < np.inf:
        raise InputError("invalid cutoff", where=where, got=cutoff, wanted="Å, above zero")
    largest = np.maximum(np.abs(points).max(initial=0.0), np.abs(box).max())  # NaN wins, unlike max()
    if not largest <= FARTHEST_A:
        raise InputError(
            "positions or cell are out of range",
            where=where,
            got=f"{largest:.3g} Å",
            wanted=f"finite numbers within {FARTHEST_A:.0e} Å",
            remedy="look where the structure, or the dynamics that made it, went wrong",
        )


def check_cell(cell: np.ndarray, pbc: np.ndarray, where: str | None = None) -> None:
    """InputError unless the periodic vectors are independent: dependent ones make vesin divide by zero."""
    if not pbc.any():
        return
    widths = np.linalg.svd(
        cell[pbc], compute_uv=False
    )  # |det| would not do for a slab without a third vector
    if widths.min() <= max(_FLAT * widths.max(), _THIN_A):
        raise InputError(
            "a periodic cell without volume",
            where=where,
            got=f"cell {np.round(cell, 6).tolist()}, pbc {pbc.tolist()}",
            wanted="independent periodic vectors (left-handed cells are accepted)",
            remedy="set the cell, or pbc=False for a molecule",
        )


def _open_directions(
    points: np.ndarray, box: np.ndarray, periodic: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions without wide gaps, and a box whose open directions are normal to the periodic ones.

    vesin 0.6 lays its grid over the whole extent: atoms 1e6 Å apart overflow its count of grid
    cells, which kills the process. Shifts have no part along the open directions, so a gap there shortened
    to twice the cutoff adds and removes no pair.
    """
    n = int(periodic.sum())
    basis = np.linalg.svd(box[periodic])[2][n:] if n else np.eye(3)  # (3 - n, 3), orthonormal
    along = points @ basis.T  # (N, 3 - n)
    if np.ptp(along, axis=0).max() > _WIDE_A:
        order = np.argsort(along, axis=0)
        steps = np.minimum(np.diff(np.take_along_axis(along, order, 0), axis=0), 2 * cutoff)
        closed = np.zeros_like(along)
        np.put_along_axis(closed, order[1:], np.cumsum(steps, axis=0), axis=0)
        points, along = points + (closed - along) @ basis, closed
    box = box.copy()
    box[~periodic] = basis * (np.ptp(along, axis=0) + cutoff)[:, None]
    return np.ascontiguousarray(points), box


def _check_crowding(
    points: np.ndarray, box: np.ndarray, periodic: np.ndarray, cutoff: float, where: str | None
) -> None:
    """Refuse a cell so small that the images within the cutoff would not fit into memory."""
    mean = len(points) * 4.19 * cutoff**3 / abs(np.linalg.det(box)) if periodic.any() else 0.0
    if mean > CROWDED:
        raise InputError(
            "the periodic cell is too small",
            where=where,
            got=f"{mean:.2g} neighbours an atom within {cutoff:g} Å",
            wanted=f"at most {CROWDED}",
            remedy="check the cell's unit (Å)",
        )


@functools.cache
def _vesin() -> tuple[Any, Any]:
    """vesin's C library and its declarations, without running ``vesin/__init__.py``, which imports torch.

    The declarations come with the library, so that structs fit the installed release.
    """
    found = importlib.util.find_spec("vesin")
    if found is None or not found.submodule_search_locations:
        raise MissingPackageError("vesin is not installed", remedy="pip install -c constraints.txt vesin")
    stand_in = types.ModuleType("_limbeck_vesin")
    stand_in.__path__ = list(found.submodule_search_locations)
    sys.modules[stand_in.__name__] = stand_in
    interface = importlib.import_module("_limbeck_vesin._c_api")
    if not hasattr(interface.VesinOptions, "n_threads"):
        raise MissingPackageError(
            "vesin is too old", wanted="0.6 or newer", remedy="pip install -c constraints.txt vesin"
        )
    library = importlib.import_module("_limbeck_vesin._c_lib").get_library()
    # plain addresses: building typed pointers costs more than the list of a small molecule
    kinds = library.vesin_neighbors.argtypes
    library.vesin_neighbors.argtypes = [ctypes.c_void_p if k in (0, 2, 3) else t for k, t in enumerate(kinds)]
    return library, interface


def _search(
    points: np.ndarray, box: np.ndarray, periodic: np.ndarray, cutoff: float, where: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Call vesin on checked, contiguous arrays (it releases the GIL) and copy its results."""
    library, interface = _vesin()
    options = interface.VesinOptions()
    options.cutoff, options.full, options.sorted = cutoff, False, True
    # two threads gained nothing at 1,000 atoms; callers run structures in parallel
    options.n_threads, options.return_shifts = 1, True
    device = interface.VesinDevice(interface.VesinCPU, 0)
    found, message = interface.VesinNeighborList(), ctypes.c_char_p()
    try:
        data = (points.ctypes.data, len(points), box.ctypes.data, periodic.ctypes.data)
        if library.vesin_neighbors(*data, device, options, ctypes.byref(found), ctypes.byref(message)):
            text = (message.value or b"no reason given").decode(errors="replace")
            raise LimbeckError("the neighbour list could not be built", where=where, got=text)
        pairs = np.empty((found.length, 2), np.uintp)
        shifts = np.empty((found.length, 3), np.int32)
        if found.length:
            ctypes.memmove(pairs.ctypes.data, found.pairs, pairs.nbytes)
            ctypes.memmove(shifts.ctypes.data, found.shifts, shifts.nbytes)
    finally:
        library.vesin_free(ctypes.byref(found))
    return pairs[:, 0].astype(np.int32), pairs[:, 1].astype(np.int32), shifts
