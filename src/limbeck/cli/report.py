"""A page about a run: report."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.options import Debug, EnergyKey, ForcesKey, JsonFile, StressKey, VirialKey
from limbeck.cli.output import write_json
from limbeck.cli.root import app
from limbeck.errors import InputError


@app.command(
    short_help="One page about a run, and a card beside each student.",
    epilog="Example: limbeck report runs/si --target-force-rmse 30",
)
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    out: Annotated[
        Path | None, typer.Option(help="The page, cards beside it (report.html in the run folder).")
    ] = None,
    target_force_rmse: Annotated[
        float | None,
        typer.Option(metavar="MEV_PER_A", help="Recommend the cheapest student with this force RMSE, meV/Å."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Labels to judge the students on, instead of the run's test structures."),
    ] = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    virial_key: VirialKey = None,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Write report.html, which needs no network and no other file, and PRESET.card.md for model hubs."""
    if target_force_rmse is not None and not 0 < target_force_rmse < math.inf:
        raise InputError(
            "the target is no error",
            where="--target-force-rmse",
            got=target_force_rmse,
            wanted="meV/Å, above zero",
        )
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise InputError("the report is a page", where=out, wanted="a name that ends in .html")
    from limbeck.config import LabelKeys, load_label_keys
    from limbeck.progress import open_progress
    from limbeck.report.page import write_report

    keys = load_label_keys(
        energy_key=energy_key, forces_key=forces_key, stress_key=stress_key, virial_key=virial_key
    )
    if data is None and keys != LabelKeys():
        raise InputError("names of labels without a file", wanted="--data FILE beside them")
    with open_progress() as progress:
        written = write_report(
            run,
            out,
            target_force_rmse_mev_per_a=target_force_rmse,
            data=data,
            keys=keys.model_dump(),
            progress=progress,
        )
    for note in written.notes:
        typer.echo(f"note: {note}")
    typer.echo(written.recommendation.text)
    typer.echo(f"wrote {written.page} ({written.page.stat().st_size / 1e6:.1f} MB)")
    for card in written.cards:
        typer.echo(f"wrote {card}")
    write_json(
        json,
        {
            "page": str(written.page),
            "cards": [str(card) for card in written.cards],
            "recommendation": asdict(written.recommendation),
            "presets": [asdict(row) for row in written.rows],
        },
    )
