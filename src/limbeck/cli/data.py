"""Data as they are: lint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.options import Debug, EnergyKey, ForcesKey, JsonFile, StressKey, VirialKey
from limbeck.cli.output import write_json
from limbeck.cli.root import app


@app.command(
    short_help="Look for what would spoil a training on labelled data.",
    epilog="Example: limbeck lint my_dft.extxyz --elements H,C,N,O --val test.extxyz",
)
def lint(
    data: Annotated[list[Path], typer.Argument(help="Label stores or labelled files that ASE reads.")],
    elements: Annotated[
        str | None, typer.Option(help="Elements the data should hold, with commas between.")
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="Structures the data should be made of: any file ASE reads.")
    ] = None,
    val: Annotated[Path | None, typer.Option(help="Validation labels: look for leaks.")] = None,
    ignore: Annotated[
        str | None, typer.Option(help="Codes of findings to pass over, with commas between.")
    ] = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    virial_key: VirialKey = None,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Look for what would spoil a training: units, signs, references, duplicates, damaged frames.

    Exit code 0 without errors, 1 with, 2 where the data cannot be read.
    """
    from limbeck.config import load_label_keys

    keys = load_label_keys(
        energy_key=energy_key, forces_key=forces_key, stress_key=stress_key, virial_key=virial_key
    )
    from limbeck.pipeline.linting import run_lint

    passed = tuple(code.strip() for code in ignore.split(",")) if ignore else ()

    report = run_lint(
        data,
        keys=keys.model_dump(),
        elements=elements,
        like=like,
        val=val,
        ignore=passed,
        say=typer.echo,
    )
    write_json(json, report.to_dict())
    if report.errors:
        raise typer.Exit(1)
