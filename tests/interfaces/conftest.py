"""LAMMPS with the plugin, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io.lammpsdata import write_lammps_data

STUDENTS = Path(__file__).parents[2] / "students"
TIMEOUT_S = 100


def _programs() -> tuple[str, str, str]:
    """lmp, mpirun and the plugin's folder."""
    path = os.pathsep.join([str(Path(sys.executable).parent), sys.base_prefix, os.environ.get("PATH", "")])
    found = [shutil.which(name, path=path) for name in ("lmp", "mpirun")]
    spec = find_spec("limbeck_lammps")
    folders = [*(spec.submodule_search_locations or ())] if spec else []
    folders += os.environ.get("LAMMPS_PLUGIN_PATH", "").split(os.pathsep)
    plugin = next((f for f in folders if f and any(Path(f).glob("*plugin.so"))), None)
    if not all(found) or plugin is None:
        pytest.skip("LAMMPS or its plugin is missing: pip install -c constraints.txt ./lammps")
    return found[0], found[1], plugin


@dataclass(frozen=True)
class Lammps:
    """Runs inputs in one folder, where ``structure.data`` is."""

    folder: Path
    programs: tuple[str, str, str]

    def data(self, atoms: Atoms, symbols: str, name: str = "structure.data") -> None:
        write_lammps_data(
            self.folder / name,
            atoms,
            specorder=symbols.split(),
            masses=True,
            units="metal",
            atom_style="atomic",
        )

    def run(self, text: str, ranks: int = 1, *arguments: str) -> subprocess.CompletedProcess[str]:
        lmp, mpirun, plugin = self.programs
        (self.folder / "in.test").write_text(text)
        threads = {"OMP_NUM_THREADS": "1", "LAMMPS_PLUGIN_PATH": plugin, "LIMBECK_STUDENTS": str(STUDENTS)}
        return subprocess.run(
            [mpirun, "-np", str(ranks), lmp, "-in", "in.test", "-log", "none", *arguments],
            cwd=self.folder, env={**os.environ, **threads}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S,
        )  # fmt: skip

    def values(self, text: str, ranks: int = 1) -> dict[str, np.ndarray]:
        """What the input prints as ``NAME = numbers``."""
        done = self.run(text, ranks)
        assert done.returncode == 0, [
            line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line
        ]
        rows = [line.split(" = ", 1) for line in done.stdout.splitlines() if " = " in line]
        return {name: np.array(row.split(), float) for name, row in rows if _are_numbers(row)}

    def dump(self, name: str) -> np.ndarray:
        """The columns of a dump's last frame, sorted by id."""
        lines = (self.folder / name).read_text().split("ITEM: ATOMS")[-1].splitlines()[1:]
        return np.array([line.split() for line in lines], float)


def _are_numbers(text: str) -> bool:
    try:
        return bool([float(word) for word in text.split()])
    except ValueError:
        return False


@pytest.fixture
def lammps(tmp_path: Path) -> Lammps:
    return Lammps(tmp_path, _programs())
