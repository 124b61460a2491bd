"""Speed of students beside their teacher: bench."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli.options import Debug, Device, JsonFile, Sets, Trust
from limbeck.cli.output import print_rows, write_json
from limbeck.cli.root import app
from limbeck.errors import InputError
from limbeck.progress import format_figure

if TYPE_CHECKING:
    from limbeck.benchmark.models import TeacherChoice
    from limbeck.benchmark.rows import Row


@app.command(
    short_help="Speed and memory of students beside their teacher.",
    epilog="Example: limbeck bench runs/si/tiny.safetensors --teacher sevennet-0 --json bench.json",
)
def bench(
    students: Annotated[
        list[str], typer.Argument(metavar="STUDENT...", help="Student files, or names of released students.")
    ],
    teacher: Annotated[
        str | None,
        typer.Option(help="Name of a teacher, or none (the one on the student's card unless given)."),
    ] = None,
    batch: Annotated[
        str, typer.Option(help="Structures of about 16 atoms in one call, with commas between.")
    ] = "1,2,4,8,16,32",
    atoms: Annotated[
        str, typer.Option(help="Atoms of single structures, with commas between.")
    ] = "16,100,1000,4000",
    threads: Annotated[
        int | None, typer.Option(help="Threads of each model, on as many cores (all usable ones).")
    ] = None,
    device: Device = None,
    engines: Annotated[str, typer.Option(help="native, torch, or both.")] = "native,torch",
    row_limit: Annotated[str, typer.Option(help="Time that one row may take, loading not counted.")] = "20s",
    budget: Annotated[
        str | None, typer.Option(help="Time for all rows: 90s, 20m; what does not fit is skipped.")
    ] = None,
    structures: Annotated[
        Path | None,
        typer.Option(help="Make the systems of these, not of the run folder's structures or the card."),
    ] = None,
    trust: Trust = False,
    sets: Sets = None,
    json: JsonFile = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the rates into this file (.png or .html).")] = None,
    debug: Debug = False,
) -> None:
    """Time of energies, forces and stress (neighbour lists included), memory, and speed-up over the teacher.

    Models take turns, each in a process of its own. A row that takes too long says so.
    """
    from limbeck.config import parse_budget

    batches, sizes = _counts("--batch", batch), _counts("--atoms", atoms)
    limit_s, choice = parse_budget(row_limit), teacher_choice(teacher, bool(trust), device, sets or ())
    from limbeck.benchmark.run import require_figures, run_benchmark
    from limbeck.progress import open_progress

    if plot is not None:
        from limbeck.benchmark.plots import check_plot

        check_plot(plot)
    with open_progress() as progress:
        report = run_benchmark(
            students, teacher=choice, batches=batches, sizes=sizes,
            engines=[word.strip() for word in engines.split(",")], threads=threads, device=device or "cpu",
            row_limit_s=limit_s, budget_s=math.inf if budget is None else parse_budget(budget),
            structures=structures, progress=progress,
        )  # fmt: skip
    reasons = list(dict.fromkeys(row.skipped for row in report.rows if row.skipped))
    print_rows([_shown(row, reasons) for row in report.rows])
    for number, reason in enumerate(reasons, 1):
        typer.echo(f"({number}) {reason}")
    about = report.machine
    typer.echo(
        f"{about['processor']}, {report.settings['threads']} of {about['cores']} cores, load {about['load']} "
        "at the start; medians, quartile distance in brackets"
    )
    for source in report.systems:
        typer.echo(f"systems of {source}")
    write_json(json, report.to_dict())
    require_figures(report)
    if plot is not None:
        from limbeck.benchmark.plots import write_plot

        write_plot(report.rows, plot)


def _counts(flag: str, text: str) -> list[int]:
    """``1,2,4`` as numbers; an empty text as none."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise InputError("not a list of numbers", where=flag, got=repr(text), wanted="such as 1,2,4")
    return sorted({int(word) for word in words})


def teacher_choice(
    name: str | None, trust: bool, device: str | None, sets: Sequence[str]
) -> TeacherChoice | str | None:
    """The teacher with its options as the configuration reads them; ``none`` and no name as they are."""
    if name is None or name == "none":
        if sets or trust:
            given = ", ".join([*sets, *["--trust"] * trust])
            raise InputError(
                "options of a teacher that is not named", got=given, wanted="--teacher NAME with them"
            )
        return name
    from limbeck.benchmark.models import TeacherChoice
    from limbeck.config import load_label_config

    chosen = load_label_config(sets, teacher=name, trust=trust or None, device=device).teacher
    return TeacherChoice(chosen.name, chosen.options, chosen.python, chosen.trust)


def _shown(row: Row, reasons: Sequence[str]) -> dict[str, Any]:
    """What the table has of a row; reasons are long, so they are numbered and stand below."""
    shown: dict[str, Any] = {
        "model": row.model, "engine": row.engine + (f" ({row.device})" if row.device != "cpu" else ""),
        "system": row.system, "atoms": f"{row.atoms:,}", "batch": row.batch, "threads": row.threads,
    }  # fmt: skip
    if row.skipped is not None:
        return {**shown, "ms": "-", "structures/s": "-", "atoms/s": "-", "MB": "-", "speed-up": "-",
                "skipped": f"({reasons.index(row.skipped) + 1})"}  # fmt: skip
    assert row.latency_ms_median is not None
    assert row.latency_ms_iqr is not None
    rate = row.structures_per_s
    assert rate is not None
    return {
        **shown,
        "ms": f"{format_figure(row.latency_ms_median)} ({format_figure(row.latency_ms_iqr, 2)})",
        "structures/s": f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}",
        "atoms/s": f"{row.atoms_per_s:,.0f}",
        "MB": None if row.peak_memory_mb is None else f"{row.peak_memory_mb:,.1f}",
        "speed-up": None if row.speedup_vs_teacher is None else f"{format_figure(row.speedup_vs_teacher)}x",
        "skipped": "",
    }
