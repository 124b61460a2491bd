"""Write docs/commands.md: every command, its options and the example of its help, from the program itself.

python docs/commands_table.py
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer

from limbeck.cli import app

TARGET = Path(__file__).with_name("commands.md")
_HEAD = """# Commands

<!-- test: given -->

Written by `python docs/commands_table.py` from the program itself; do not edit. Every command has `--help`
and `--debug` (a traceback when something fails) besides what is listed. `--json FILE` writes what is printed
as JSON too. Exit codes: 0 success; 1 the work failed; 2 wrong usage or input; 130 interrupted. An error is
one line on stderr: what, where, got, wanted, remedy.

| command | does |
|---|---|
"""
_QUIET = ("--help", "--debug")
#: what tests/test_docs.py changes in an example, so that it ends within seconds
TESTS = {
    "distill": "small; add --preset ultra-tiny --teacher ase.calculators.emt:EMT --set bulk=Cu --dry-run",
    "sample": "add --bulk Cu --teacher ase.calculators.emt:EMT "
    "--set 'sampling.steps=[{kind: rattle, stdev_a: 0.1, n: 2}]' --out new.extxyz",
    "label": "add --teacher ase.calculators.emt:EMT --workers 1",
    "train": "add --preset ultra-tiny; drop --budget; add --epochs 2",
    "lint": "add --elements Cu --ignore few-structures",
    "bench": "add --teacher none --atoms 16 --batch 1 --engines native --row-limit 2s",
    "export": "add --to torchscript",
    "teachers install": "skip: downloads packages",
    "lammps": "skip: run by tests/interfaces",
    "lammps input": "skip: run by tests/interfaces",
    "lammps check": "skip: run by tests/interfaces",
    "lammps build": "skip: needs the sources of LAMMPS",
    "finalize": "add --skip bench,export,quantize,report",
    "learning-curve": "add --preset ultra-tiny --budget 20s --times 1s --labels 8 --widths none; drop --plot",
}


def render() -> str:
    """The text of docs/commands.md."""
    found = list(_walk(typer.main.get_command(app)))
    rows = [
        f"| [`limbeck {name}`](#limbeck-{name.replace(' ', '-')}) | {c.short_help} |" for name, c in found
    ]
    parts = [_HEAD + "\n".join(rows), ""]
    for name, command in found:
        parts += _section(name, command)
    return "\n".join(parts)


def _walk(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in sorted(group.commands.items()):
        yield above + name, command
        if hasattr(command, "commands"):
            yield from _walk(command, f"{above}{name} ")


def _section(name: str, command: Any) -> list[str]:
    lines = [f"## limbeck {name}", "", *(f"{p}\n" for p in _paragraphs(command.help or ""))]
    example = str(command.epilog).removeprefix("Example: ")
    if name in TESTS:
        lines.append(f"<!-- test: {TESTS[name]} -->")
    lines += ["```sh", example, "```", ""]
    kinds = get_type_hints(inspect.unwrap(command.callback))
    rows = [_row(p, kinds[p.name]) for p in command.params if p.opts[0] not in _QUIET]
    return (
        [*lines, "| argument or option | value | default | |", "|---|---|---|---|", *rows, ""]
        if rows
        else lines
    )


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n")]


def _row(param: Any, kind: Any) -> str:
    if param.param_type_name == "argument":
        name = param.metavar or param.name.upper()
        return f"| `{name}` | | {'required' if param.required else ''} | {_cell(param.help)} |"
    flag = param.is_flag
    value = "" if flag else f"`{param.metavar or _value(kind)}`"
    names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    empty = param.default is None or param.default == "" or (flag and not param.default)
    default = "required" if param.required else "" if empty else "on" if flag else f"`{param.default}`"
    return f"| {names} | {value} | {default} | {_cell(param.help)} |"


def _value(kind: Any) -> str:
    """``INT`` for ``int | None``, ``PATH`` for ``list[Path]``."""
    if get_origin(kind) in (Union, UnionType, list):
        return _value(next(part for part in get_args(kind) if part is not type(None)))
    return "TEXT" if kind is str else str(kind.__name__).upper()


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
