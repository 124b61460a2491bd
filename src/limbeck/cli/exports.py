"""Students for other hosts: export."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.options import Debug, JsonFile
from limbeck.cli.output import write_json
from limbeck.cli.root import app
from limbeck.errors import InputError, LimbeckError


@app.command(
    short_help="Write a student as ONNX, .pt2 or TorchScript, forces inside.",
    epilog="Example: limbeck export silicon-tiny --to onnx,torch-export --out exports",
)
def export(
    student: Annotated[str, typer.Argument(help="Student file, or the name of a released one.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMATS",
            help="onnx, torch-export (.pt2), torchscript (PyTorch calls it deprecated; many hosts load "
            "nothing else), or all; several with commas between.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the files and their certificates.")],
    quantize: Annotated[str | None, typer.Option(help="Round the weights to float16 or int8.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Keep rounded weights that cost too much, or that are slower.")
    ] = False,
    structures: Annotated[
        Path | None,
        typer.Option(
            help="Test structures for the certificate: any file ASE reads; "
            "else test.extxyz beside the student, else generated ones."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtimes that are timed.")] = 1,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Write a student for hosts without Limbeck: energy, forces and stress in one file.

    Each file is loaded again in its own runtime and compared with the student; the figures stand beside
    it as FILE.certificate.json. A file that does not agree is removed, and the command ends with 1.
    """
    wanted = parse_formats(to)
    if quantize is not None:
        _check_name(quantize, ("float16", "int8"), "--quantize")
    from limbeck.export.run import ExportOptions, export_student

    options = ExportOptions(quantize, force, structures, threads)  # type: ignore[arg-type]
    summary = export_student(student, wanted, out, options, say=typer.echo)  # type: ignore[arg-type]
    write_json(json, summary)
    failures = summary["failures"]
    if failures:
        more = f" (and {len(failures) - 1} more above)" if len(failures) > 1 else ""
        raise LimbeckError(failures[0] + more)


def parse_formats(text: str) -> tuple[str, ...]:
    known = ("onnx", "torch-export", "torchscript")
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise InputError("no format given", where="--to", wanted="onnx, torch-export, torchscript or all")
    for name in names:
        _check_name(name, (*known, "all"), "--to")
    return known if "all" in names else tuple(names)


def _check_name(name: str, known: tuple[str, ...], option: str) -> None:
    """InputError with the nearest one, unless the name is known."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise InputError(
            "unknown name", where=option, got=repr(name), wanted=", ".join(known),
            remedy=f"did you mean {near!r}?",
        )  # fmt: skip
