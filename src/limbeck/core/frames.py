"""Sampled frames: what each carries, fewer of them, and frames and trajectories on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write

from limbeck.core.charge import copy_charge
from limbeck.core.files import write_whole
from limbeck.core.hashing import hash_structure
from limbeck.core.reading import read_any
from limbeck.errors import InputError

POSITION_DECIMALS = 8  #: what ASE's extxyz keeps, so that a frame has one content hash in memory and on disk

#: what ``info`` holds of a frame
_KEPT = {
    "group": str, "config_type": str, "temperature_K": float, "scan_pair": str, "scan_distance_a": float,
}  # fmt: skip


def make_frame(
    atoms: Atoms,
    group: str,
    config_type: str = "",
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
    frame.info["group"] = group
    if config_type:
        frame.info["config_type"] = config_type
    if temperature_k is not None:
        frame.info["temperature_K"] = float(temperature_k)
    copy_charge(atoms, frame)
    return frame


def group_of(atoms: Atoms) -> str:
    """The name of where a structure comes from, "" where it has none."""
    return str(atoms.info.get("group", ""))


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


def thin(frames: Sequence[Atoms], most: int) -> list[Atoms]:
    """At most ``most`` frames: exact duplicates go, of the rest evenly spaced ones stay, ends included.

    Frames of a trajectory differ the more the further they are apart in time, so an even stride spreads them.
    """
    distinct = list({hash_structure(frame): frame for frame in reversed(frames)}.values())[::-1]
    if len(distinct) <= most:
        return distinct
    return [distinct[k] for k in np.round(np.linspace(0, len(distinct) - 1, most)).astype(int)]


@dataclass(frozen=True)
class Trajectory:
    """Frames of one trajectory and, where it ended early, why.

    frames: recorded frames in the order of time.
    stopped: one sentence with group, step and cause, or None for a trajectory that stayed physical.
    cut: it ended early because its time was up. left_out: it was never begun, for want of time.
    """

    frames: list[Atoms]
    stopped: str | None = None
    cut: bool = False
    left_out: bool = False


class TrajectoryCache:
    """A folder of trajectories keyed by what made them; without a folder it keeps nothing."""

    def __init__(self, folder: Path | str | None) -> None:
        self.folder = None if folder is None else Path(folder)

    def get(self, key: str) -> Trajectory | None:
        """The trajectory of ``key``; None where there is none or its files do not agree."""
        if self.folder is None:
            return None
        try:
            entry = json.loads((self.folder / f"{key}.json").read_text())
            count = entry.pop("frames")
            frames = read_frames(self.folder / f"{key}.extxyz") if count else []
            trajectory = Trajectory(frames, **entry)
        except (OSError, ValueError, KeyError, TypeError, InputError):
            return None  # made again, which is always right
        return trajectory if len(frames) == count else None

    def put(self, key: str, trajectory: Trajectory) -> None:
        """Keep a trajectory, finished, cut or left out; the JSON file comes last and makes it count."""
        if self.folder is None:
            return
        if trajectory.frames:
            write_frames(self.folder / f"{key}.extxyz", trajectory.frames)
        entry = {**vars(trajectory), "frames": len(trajectory.frames)}
        write_whole(self.folder / f"{key}.json", json.dumps(entry))
