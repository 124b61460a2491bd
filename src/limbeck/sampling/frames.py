"""What a sampled frame carries, and frames as extxyz files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read, write

from limbeck.core.charge import copy_charge
from limbeck.core.files import write_whole
from limbeck.errors import InputError

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


def read_any(path: Path | str, format: str | None = None) -> list[Atoms]:
    """Every structure of a file that ASE reads.

    Raises
    ------
    InputError: the file is missing, not readable as structures, or holds none.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such file", where=path, wanted="a structure file that ASE reads")
    if not path.stat().st_size:
        raise InputError("the file is empty", where=path, wanted="at least one structure")
    try:
        found = read(path, index=":", format=format)
    except Exception as error:  # ASE's readers raise whatever their parsing runs into
        raise InputError(
            "cannot read the file as structures",
            where=path,
            got=f"{type(error).__name__}: {error}",
            wanted="a format that ASE reads (extxyz, cif, POSCAR, ...)",
        ) from error
    frames = found if isinstance(found, list) else [found]
    if not frames:
        raise InputError("no structures", where=path, wanted="at least one structure")
    return frames
