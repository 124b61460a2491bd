"""LAMMPS: lammps input, check, build."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from limbeck.cli.options import Debug, JsonFile, Student
from limbeck.cli.output import print_rows, write_json
from limbeck.cli.root import app

lammps = typer.Typer(no_args_is_help=True)
app.add_typer(
    lammps,
    name="lammps",
    short_help="Run a student in LAMMPS: input, check, build.",
    epilog="Example: limbeck lammps input silicon-tiny si.cif --out si",
)


@lammps.callback()
def _lammps(debug: Debug = False) -> None:
    """Run a student in LAMMPS by pair_style limbeck: write an input, check the plugin, compile it."""


@lammps.command(
    "input",
    short_help="Write an input and a data file that run as they are.",
    epilog="Example: limbeck lammps input silicon-tiny si.cif --ensemble npt --temperature 300 --out si",
)
def write_lammps_input(
    student: Student,
    structure: Annotated[Path, Argument(help="A structure: any file ASE reads (its last frame).")],
    out: Annotated[Path, Option(help="Folder for in.limbeck and structure.data.")],
    ensemble: Annotated[str, Option(help="nve, nvt (Langevin) or npt.")] = "nvt",
    temperature: Annotated[float, Option(help="K.")] = 300.0,
    pressure: Annotated[float, Option(help="GPa, for npt.")] = 0.0,
    steps: Annotated[int, Option(help="Time steps.")] = 10_000,
    timestep: Annotated[float | None, Option(help="fs (default: what the lightest element allows).")] = None,
    seed: Annotated[int, Option(help="Seed of velocities and thermostat.")] = 1,
    debug: Debug = False,
) -> None:
    """Write in.limbeck and structure.data: units metal, thermostat, time step, dump with elements."""
    from limbeck.core.reading import read_any
    from limbeck.interfaces.lammps import LammpsRun, write_input
    from limbeck.planning.recipes import timestep_fs

    atoms = read_any(structure)[-1]
    fs = timestep_fs([atoms]) if timestep is None else timestep
    run = LammpsRun(ensemble, temperature, pressure, steps, fs, seed)  # type: ignore[arg-type]
    path = write_input(student, atoms, run, out)
    typer.echo(f"wrote {path}\nrun it: cd {out} && mpirun -np 2 lmp -in {path.name}")


@lammps.command(
    "check",
    short_help="Check that LAMMPS loads the plugin and gives the right energy.",
    epilog="Example: limbeck lammps check",
)
def check_lammps(json: JsonFile = None, debug: Debug = False) -> None:
    """Report the program, the plugin, whether it loads and its energy against ASE; exit code 1 if not."""
    from dataclasses import asdict

    from limbeck.interfaces.lammps import check

    rows = [asdict(line) for line in check()]
    print_rows(rows)
    write_json(json, rows)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


@lammps.command(
    "build",
    short_help="Compile the plugin for another LAMMPS.",
    epilog="Example: limbeck lammps build --include lammps/src --out plugins",
)
def build_plugin(
    include: Annotated[Path, Option(help="The src folder of the LAMMPS sources.")],
    out: Annotated[Path, Option(help="Folder for limbeckplugin.so; put it into LAMMPS_PLUGIN_PATH.")],
    mpi_include: Annotated[
        Path | None, Option(help="Folder with mpi.h, if the compiler does not find it.")
    ] = None,
    bigbig: Annotated[bool, Option("--bigbig", help="For a LAMMPS compiled with -DLAMMPS_BIGBIG.")] = False,
    debug: Debug = False,
) -> None:
    """Compile limbeckplugin.so for the LAMMPS release of these sources; needs cmake and a compiler."""
    from limbeck.interfaces.lammps import build

    path = build(include, out, mpi_include=mpi_include, bigbig=bigbig)
    typer.echo(f"wrote {path}\nuse it: export LAMMPS_PLUGIN_PATH={out}")
