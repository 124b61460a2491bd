"""What of the installation works: doctor."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import typer

from limbeck.cli.options import Debug, JsonFile
from limbeck.cli.output import write_json
from limbeck.cli.root import app
from limbeck.errors import LimbeckError

if TYPE_CHECKING:
    from limbeck.doctor.checks import Finding

_WIDTH = 110
_STATUS, _NAME = 9, 15


@app.command(
    short_help="What is installed, what is missing, and how to get it.",
    epilog="Example: limbeck doctor --json doctor.json",
)
def doctor(json: JsonFile = None, debug: Debug = False) -> None:
    """Report compiler, core, threads, torch, teachers and exporters, with a remedy for what is missing.

    Exit code 1 where something is broken that Limbeck cannot work without.
    """
    from limbeck.doctor.checks import examine

    diagnosis = examine()
    typer.echo(", ".join(f"{name} {version}" for name, version in diagnosis.versions.items()))
    group = ""
    for finding in diagnosis.findings:
        if finding.group != group:
            group = finding.group
            typer.echo(f"\n{group}")
        typer.echo(_describe(finding))
    write_json(json, diagnosis.to_dict())
    if broken := diagnosis.broken:
        raise LimbeckError(
            "Limbeck cannot work here: " + ", ".join(f"{f.name} {f.detail}" for f in broken),
            remedy=broken[0].remedy,
        )


def _describe(finding: Finding) -> str:
    """Status, name and detail, and the remedy on a line of its own."""
    indent = " " * (_STATUS + _NAME)
    head = f"{finding.status:{_STATUS}}{finding.name:{_NAME}}"
    # a name longer than its column keeps a space behind it
    head = head if head.endswith(" ") else f"{head} "
    lines = textwrap.wrap(
        finding.detail, _WIDTH, initial_indent=head, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    ) or [head.rstrip()]  # fmt: skip
    # in one piece, to be copied
    return "\n".join([*lines, *([] if finding.remedy is None else [f"{indent}remedy: {finding.remedy}"])])
