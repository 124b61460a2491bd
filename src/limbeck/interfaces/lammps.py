"""LAMMPS: an input that runs as it is, the plugin checked, the plugin compiled for another LAMMPS."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols

from limbeck.core.files import write_whole
from limbeck.errors import InputError, LimbeckError, MissingPackageError
from limbeck.runtime.released import find_student
from limbeck.runtime.student import Calculator, Student

Ensemble = Literal["nve", "nvt", "npt"]
ENSEMBLES: tuple[Ensemble, ...] = ("nve", "nvt", "npt")
INPUT, DATA, DUMP = "in.limbeck", "structure.data", "trajectory.lammpstrj"
_BAR_PER_GPA = 1e4
_VACUUM_A = 10.0  # around what does not repeat; the box shrinks to the atoms
_TIMEOUT_S = 120.0
_ENERGY_TOLERANCE_EV = 1e-4  # single precision, 8 atoms


@dataclass(frozen=True)
class LammpsRun:
    """What an input is for: K, GPa (``npt``), time steps, fs, seed of velocities and thermostat."""

    ensemble: Ensemble = "nvt"
    temperature_k: float = 300.0
    pressure_gpa: float = 0.0
    steps: int = 10_000
    timestep_fs: float = 1.0
    seed: int = 1

    def __post_init__(self) -> None:
        if self.ensemble not in ENSEMBLES:
            raise InputError("unknown ensemble", got=repr(self.ensemble), wanted=", ".join(ENSEMBLES))
        values = {"temperature_k": self.temperature_k, "steps": self.steps, "timestep_fs": self.timestep_fs}
        for name, value in values.items():
            if not 0 < value < np.inf:
                raise InputError(f"invalid {name}", got=value, wanted="a number above zero")


def write_input(student: str, atoms: Atoms, run: LammpsRun, out: Path) -> Path:
    """``in.limbeck`` and its data file in the folder ``out``, for ``lmp -in``; the path of the input.

    Raises
    ------
    InputError: an element that the student does not know, ``npt`` without a periodic cell.
    """
    from ase.io.lammpsdata import write_lammps_data

    path = find_student(student)
    known = Student.load(student).architecture.elements
    numbers = sorted(set(atoms.numbers.tolist()))
    if foreign := [chemical_symbols[z] for z in numbers if z not in known]:
        raise InputError(
            "elements that the student does not know", where=student, got=" ".join(foreign),
            wanted="among " + " ".join(chemical_symbols[z] for z in known),
        )  # fmt: skip
    if run.ensemble == "npt" and not atoms.pbc.all():
        what, got = "npt needs a structure that repeats in three directions", f"pbc {atoms.pbc.tolist()}"
        raise InputError(what, got=got, remedy="--ensemble nvt")
    atoms = _in_a_box(atoms)
    symbols = [chemical_symbols[z] for z in numbers]
    write_whole(
        out / DATA,
        lambda temporary: write_lammps_data(
            temporary, atoms, specorder=symbols, masses=True, units="metal", atom_style="atomic"
        ),
    )
    # a bundled student goes by its name, so that the folder can be moved to another machine
    named = student if path != Path(student) else os.path.relpath(path, out)
    write_whole(out / INPUT, "\n".join(_input_lines(named, atoms, symbols, run)) + "\n")
    return out / INPUT


def _in_a_box(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    if not atoms.pbc.all():
        lengths = atoms.cell.lengths()
        for axis in np.flatnonzero(~atoms.pbc):
            if atoms.pbc.any() and lengths[axis] > 0:
                continue
            span = np.ptp(atoms.positions[:, axis]) + 2 * _VACUUM_A
            vectors = atoms.cell.array.copy()
            vectors[axis] = np.eye(3)[axis] * span
            atoms.set_cell(vectors)
            atoms.positions[:, axis] += _VACUUM_A - atoms.positions[:, axis].min()
    return atoms


def _input_lines(student: str, atoms: Atoms, symbols: Sequence[str], run: LammpsRun) -> list[str]:
    ps = run.timestep_fs / 1000.0
    boundary = " ".join("p" if periodic else "s" for periodic in atoms.pbc)
    every, bar = max(1, run.steps // 100), f"{run.pressure_gpa * _BAR_PER_GPA:g}"
    kelvin = f"{run.temperature_k:g}"
    integrator = {
        "nve": ["fix             1 all nve"],
        "nvt": [
            "fix             1 all nve",
            f"fix             2 all langevin {kelvin} {kelvin} 0.1 {run.seed} zero yes",
        ],
        "npt": [
            f"fix             1 all npt temp {kelvin} {kelvin} {100 * ps:g} "
            f"{_barostat(atoms)} {bar} {bar} {1000 * ps:g}"
        ],
    }[run.ensemble]
    return [
        f"# {atoms.get_chemical_formula()} by the Limbeck student {student}: mpirun -np 2 lmp -in {INPUT}",
        "units           metal",
        "atom_style      atomic",
        f"boundary        {boundary}",
        f"read_data       {DATA}",
        "",
        "pair_style      limbeck",
        f"pair_coeff      * * {student} {' '.join(symbols)}",
        "neighbor        1.0 bin",
        "neigh_modify    every 1 delay 0 check yes",
        "",
        f"velocity        all create {kelvin} {run.seed} mom yes rot {'no' if atoms.pbc.any() else 'yes'}",
        f"timestep        {ps:g}  # ps",
        *integrator,
        "thermo_style    custom step time temp pe etotal press vol density",
        f"thermo          {every}",
        f"dump            1 all custom {every} {DUMP} id type element x y z vx vy vz",
        f"dump_modify     1 element {' '.join(symbols)} sort id",
        f"run             {run.steps}",
        "write_data      final.data",
    ]


def _barostat(atoms: Atoms) -> str:
    """``iso`` for a cube, ``aniso`` for other right angles, else ``tri``."""
    cell = atoms.cell
    if np.abs(cell.angles() - 90.0).max() > 1e-4:
        return "tri"
    return "iso" if np.ptp(cell.lengths()) < 1e-4 else "aniso"


@dataclass(frozen=True)
class Check:
    """One line of ``limbeck lammps check``: what was looked at, whether it is right, and what helps."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def check() -> list[Check]:
    """Whether LAMMPS and the plugin are installed, load, and give the energy that ASE gives."""
    found = []
    lammps = shutil.which(
        "lmp", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    )
    install = "pip install -c constraints.txt . ./lammps"
    found.append(Check("lmp", lammps is not None, lammps or "not found", "" if lammps else install))
    spec = find_spec("limbeck_lammps")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    folders += [folder for folder in os.environ.get("LAMMPS_PLUGIN_PATH", "").split(os.pathsep) if folder]
    plugin = next((p for folder in folders for p in Path(folder).glob("limbeckplugin.so")), None)
    found.append(Check("plugin", plugin is not None, str(plugin or "not found"), "" if plugin else install))
    if lammps is None or plugin is None:
        return found
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=1)
    student = "silicon-tiny"
    atoms.calc = Calculator(student)
    wanted = float(atoms.get_potential_energy())
    with tempfile.TemporaryDirectory() as folder:
        path = write_input(student, atoms, LammpsRun("nve", steps=1), Path(folder))
        text = path.read_text().split("velocity")[0]
        path.write_text(text + 'thermo_modify format float %.10g\nrun 0\nprint "energy $(pe:%.10g)"\n')
        command = [lammps, "-in", INPUT, "-log", "none"]
        try:
            ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S)
            output = ran.stdout + ran.stderr
        except (OSError, subprocess.TimeoutExpired) as error:
            output = str(error)
    values = [line.split()[1] for line in output.splitlines() if line.startswith("energy ")]
    faults = [line for line in output.splitlines() if "ERROR" in line]
    runs = "pair_style limbeck runs" if values else (faults or ["no output"])[0]
    other = "" if values else "limbeck lammps build --include DIR, for a LAMMPS of another release"
    found.append(Check("loads", bool(values), runs, other))
    if values:
        difference = abs(float(values[0]) - wanted)
        ok = difference < _ENERGY_TOLERANCE_EV
        found.append(Check("energy", ok, f"{values[0]} eV in LAMMPS, {wanted:.6f} eV in ASE"))
    return found


def build(include: Path, out: Path, *, mpi_include: Path | None = None, bigbig: bool = False) -> Path:
    """Compile the plugin for the LAMMPS whose sources' ``src`` folder is ``include``; the path of the plugin.

    Raises
    ------
    InputError: no pair.h there. MissingPackageError: limbeck_lammps or cmake is missing.
    LimbeckError: the compiler failed.
    """
    if not (include / "pair.h").is_file():
        raise InputError(
            "no LAMMPS sources", where=include, wanted="the folder with pair.h and version.h: lammps/src"
        )
    source = _sources()
    cmake = shutil.which("cmake")
    if cmake is None:
        raise MissingPackageError("cmake is missing", remedy="pip install cmake")
    options = [
        f"-DLIMBECK_LAMMPS_INCLUDE={include.resolve()}",
        f"-DLIMBECK_LAMMPS_BIGBIG={'ON' if bigbig else 'OFF'}",
    ]
    if mpi_include is not None:
        options.append(f"-DLIMBECK_MPI_INCLUDE={mpi_include.resolve()}")
    with tempfile.TemporaryDirectory() as folder:
        for command in ([cmake, "-S", str(source), "-B", folder, *options], [cmake, "--build", folder]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                lines = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line]
                raise LimbeckError(
                    "the plugin does not compile", where=include, got=(lines or ["no message"])[0].strip()
                )
        built = next(Path(folder).glob("*plugin.so"))
        write_whole(out / built.name, built.read_bytes())
    return out / built.name


def _sources() -> Path:
    """The plugin's sources, in its package or in a checkout."""
    spec = find_spec("limbeck_lammps")
    roots = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    for folder in [*(root / "source" / "lammps" for root in roots), *(root.parent for root in roots),
                   Path(__file__).resolve().parents[3] / "lammps"]:  # fmt: skip
        if (folder / "CMakeLists.txt").is_file():
            return folder
    raise MissingPackageError("limbeck_lammps is missing", remedy="pip install -c constraints.txt ./lammps")
