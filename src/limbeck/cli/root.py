"""The program itself: its name, its help, and what a command knows of how it was called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from limbeck import __version__

app = typer.Typer(
    name="limbeck",
    help="Distil slow, accurate interatomic potentials into compact, fast students.",
    epilog="Example: limbeck distill --bulk Si --teacher sevennet-0 --preset tiny --budget 20m --out runs/si",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@dataclass(frozen=True)
class Invocation:
    """How the program was called.

    Attributes
    ----------
    began: ``time.monotonic()`` at which its process began, from which budgets count.
    command: the command line as typed, quoted for a shell.
    """

    began: float | None = None
    command: str | None = None


def invocation(context: typer.Context) -> Invocation:
    """What ``main`` knows; nothing where the app was called without it."""
    return context.obj or Invocation()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"limbeck {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Distil slow, accurate interatomic potentials into compact, fast students."""
