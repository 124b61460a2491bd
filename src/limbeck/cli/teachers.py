"""Teachers that there are, and their environments: teachers, teachers install."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from limbeck.cli.options import Debug, JsonFile
from limbeck.cli.output import write_json
from limbeck.cli.root import app

if TYPE_CHECKING:
    from limbeck.teachers import TeacherCard

_INDENT = " " * 4

teachers_app = typer.Typer(
    help="List the teachers, and install one in an environment of its own.",
    epilog="Example: limbeck teachers --json teachers.json",
    rich_markup_mode=None,
)
app.add_typer(teachers_app, name="teachers", short_help="List the teachers; install one.")


@teachers_app.callback(invoke_without_command=True)
def teachers(context: typer.Context, json: JsonFile = None, debug: Debug = False) -> None:
    """List the teachers: elements, domain, licence, where installed or the command that installs it."""
    if context.invoked_subcommand is not None:
        return
    from limbeck.teachers import list_cards

    rows = [_row(card) for card in list_cards()]
    for row in rows:
        typer.echo(_describe(row))
    write_json(json, rows)


@teachers_app.command(
    short_help="Install a teacher in an environment of its own.",
    epilog="Example: limbeck teachers install mace",
)
def install(
    name: Annotated[str, Argument(help="A teacher of the list: mace.")],
    folder: Annotated[
        Path | None,
        Option("--dir", help="Its folder, instead of one in $LIMBECK_HOME/teachers."),
    ] = None,
    python: Annotated[Path | None, Option(help="Interpreter to build on, instead of this one.")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Make it anew if it is there.")] = False,
    debug: Debug = False,
) -> None:
    """Install a teacher with the pins that work, in an environment of its own that Limbeck finds."""
    from limbeck.teachers import get_card
    from limbeck.teachers.environments import install_environment

    card = get_card(name)
    made = install_environment(card, folder=folder, python=python, overwrite=overwrite, say=typer.echo)
    use = f"--teacher {name}" + ("" if folder is None else f" --set teacher.python={made}")
    typer.echo(f"installed; use it with {use}")


def _row(card: TeacherCard) -> dict[str, Any]:
    from limbeck.teachers.environments import environment_folder, installed_python, is_current
    from limbeck.teachers.registry import describe_elements

    folder = environment_folder(card)
    own, there = card.installed, installed_python(card) is not None
    older = not own and there and not is_current(card)
    return {
        "name": card.name,
        "elements": "by model" if card.elements is None else describe_elements(card.elements),
        "structures": " ".join(["crystals"] * card.periodic + ["molecules"] * card.molecular),
        "stress": card.stress,
        "charge": card.charge,
        "spin": card.spin,
        "precision": " or ".join(["float32", "float64"] if "dtype" in card.options else [card.precision]),
        "licence": card.licence,
        "domain": card.domain,
        "models": list(card.models),
        "model_file": card.file_option is not None,
        "trust": card.unpickles,
        "installed": "this environment" if own else str(folder) if there else None,
        "install": f"{card.remedy} --overwrite" if older else None if own or there else card.remedy,
    }


def _describe(row: dict[str, Any]) -> str:
    """One teacher in lines of at most 100 columns."""
    stress = "stress" if row["stress"] else "no stress"
    states = " and ".join(["total charge"] * row["charge"] + ["spin"] * row["spin"])
    treats = f"{stress}; {states}" if states else stress
    facts = f"{row['structures']}; {treats}; {row['precision']}; {row['licence']}"
    lines = [f"{row['name']}  ({row['elements']})", row["domain"], facts]
    if row["models"]:
        lines.append("models: " + ", ".join(row["models"]))
    if row["model_file"]:
        trust = " (with --trust: its package unpickles it)" if row["trust"] else ""
        lines.append(f"takes a model file{trust}")
    place = f"installed in {row['installed']}" if row["installed"] else "not installed"
    renew = "with older pins; " if row["installed"] and row["install"] else ""
    lines.append(place + (f": {renew}{row['install']}" if row["install"] else ""))
    wrapped = []
    for k, line in enumerate(lines):
        indent, rest = _INDENT * (k > 0), _INDENT * (2 if k else 1)
        wrap = textwrap.TextWrapper(100, indent, rest, break_long_words=False, break_on_hyphens=False)
        wrapped += wrap.wrap(line)
    return "\n".join(wrapped)
