"""What a sampled frame carries, and frames as extxyz files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write

from limbeck.core.charge import copy_charge
from limbeck.core.files import write_whole
from limbeck.core.reading import read_any

POSITION_DECIMALS = 8  #: what ASE's extxyz keeps, so that a frame has one content hash in memory and on disk

#: what ``info`` holds of a frame
_KEPT = {
    "family": str, "step": str, "temperature_K": float, "scan_pair": str, "scan_distance_a": float,
}  # fmt: skip


def make_frame(
    atoms: Atoms,
    family: str,
    step: str = "",
    temperature_k: float | None = None,
    positions: np.ndarray | None = None,
) -> Atoms:
    """Elements, positions, cell, periodicity, charge and spin of ``atoms``, and its provenance.

    Positions are rounded to 1e-8 Å; constraints, momenta, labels and other entries stay behind.
    """
    frame = Atoms(
        numbers=atoms.numbers,
        positions=np.round(atoms.positions if positions is None else positions, POSITION_DECIMALS),
        cell=atoms.cell.array,
        pbc=atoms.pbc,
    )
    frame.info["family"] = family
    if step:
        frame.info["step"] = step
    if temperature_k is not None:
        frame.info["temperature_K"] = float(temperature_k)
    copy_charge(atoms, frame)
    return frame


def write_frames(path: Path | str, frames: Sequence[Atoms]) -> None:
    """Frames with their ``info`` and any labels as one extxyz file, whole or not at all.

    Positions keep eight decimals: sampled frames come back exactly.
    """
    write_whole(path, lambda temporary: write(temporary, list(frames), format="extxyz"))


def read_frames(path: Path | str) -> list[Atoms]:
    """Frames that :func:`write_frames` wrote, with plain Python values in ``info``.

    Raises
    ------
    InputError: the file is missing, empty or not extxyz.
    """
    frames = read_any(path, format="extxyz")
    for frame in frames:
        for key, convert in _KEPT.items():
            if key in frame.info:
                frame.info[key] = convert(frame.info[key])
        copy_charge(frame, frame)
    return frames
