"""Finished trajectories on disk, so that an interrupted run repeats none of them."""

from __future__ import annotations

import json
from pathlib import Path

from limbeck.core.files import write_whole
from limbeck.errors import InputError
from limbeck.sampling.dynamics import Trajectory
from limbeck.sampling.frames import read_frames, write_frames


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
            frames = read_frames(self.folder / f"{key}.extxyz") if entry["frames"] else []
            cut, left_out = entry.get("cut", False), entry.get("left_out", False)
            trajectory = Trajectory(frames, entry["stopped"], cut, left_out)
        except (OSError, ValueError, KeyError, InputError):
            return None  # made again, which is always right
        return trajectory if len(frames) == entry["frames"] else None

    def put(self, key: str, trajectory: Trajectory) -> None:
        """Keep a trajectory, finished, cut or left out; the JSON file comes last and makes it count."""
        if self.folder is None:
            return
        if trajectory.frames:
            write_frames(self.folder / f"{key}.extxyz", trajectory.frames)
        entry = {
            "frames": len(trajectory.frames),
            "stopped": trajectory.stopped,
            "cut": trajectory.cut,
            "left_out": trajectory.left_out,
        }
        write_whole(self.folder / f"{key}.json", json.dumps(entry))
