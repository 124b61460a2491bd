"""Students that there are: convert, info, students."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from limbeck.cli.options import Debug, JsonFile, Student
from limbeck.cli.output import print_rows, write_json
from limbeck.cli.root import app


@app.command(
    short_help="Turn a wrapper's state dict into a student file.",
    epilog="Example: limbeck convert old_checkpoint.pt --out student.safetensors",
)
def convert(
    old: Annotated[Path, Argument(help="Legacy weights: a .pt state dict.")],
    out: Annotated[Path, Option(help="The student file to write.")],
    debug: Debug = False,
) -> None:
    """Turn a state dict saved by a wrapper into a student file; pickled code is never run."""
    from limbeck.artifact.convert import convert_checkpoint
    from limbeck.artifact.file import read_card
    from limbeck.core.charge import ChargeState

    convert_checkpoint(old, out)
    typer.echo(f"wrote {out}")
    state = ChargeState.of_card(read_card(out), out)
    if not state.is_plain:
        typer.echo(f"note: it is for structures of {state}")


@app.command(
    short_help="Print a student's card: origin, settings, errors.",
    epilog="Example: limbeck info runs/si/tiny.safetensors",
)
def info(
    student: Student,
    card_md: Annotated[
        Path | None, Option(help="Write the card for model hubs (Markdown) to this file.")
    ] = None,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Print the card of a student: where it comes from, what it has seen, how far off it is."""
    from limbeck.artifact.file import read_card
    from limbeck.config import dump_yaml
    from limbeck.core.charge import ChargeState
    from limbeck.runtime.released import find_student

    path = find_student(student)
    card = read_card(path)
    card |= ChargeState.of_card(card, path).on_card()
    typer.echo(dump_yaml(card), nl=False)
    write_json(json, card)
    if card_md is not None:
        from limbeck.core.files import write_whole
        from limbeck.report.card import model_card

        write_whole(card_md, model_card(card, path.name))


@app.command(
    short_help="List the students that come with Limbeck.",
    epilog="Example: limbeck students",
)
def students(json: JsonFile = None, debug: Debug = False) -> None:
    """List the students that come with Limbeck; Calculator("silicon-tiny") loads one by name."""
    from ase.data import chemical_symbols

    from limbeck.runtime.released import list_students
    from limbeck.students.specification import Architecture

    rows = []
    for student in list_students():
        card, teacher = student.card, student.card.get("teacher", {})
        test = card.get("metrics", {}).get("test", {})
        row = {
            "name": student.name,
            "elements": " ".join(chemical_symbols[z] for z in sorted(card["elements"])),
            "teacher": teacher.get("name"),
            "parameters": Architecture.from_dict(card["architecture"]).n_parameters,
            "test_force_rmse_mev_per_a": test.get("force_rmse_mev_per_a"),
            "licence": teacher.get("licence"),
        }
        rows.append(row)
    print_rows(rows)
    write_json(json, rows)
