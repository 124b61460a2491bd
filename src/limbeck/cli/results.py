"""What a run came to: finalize, learning-curve, report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from limbeck.cli.options import (
    Debug,
    JsonFile,
    LabelKeyOptions,
    Seed,
    Sets,
    Target,
    Trust,
    counts,
    grouped,
    words,
)
from limbeck.cli.output import write_json
from limbeck.cli.root import app, invocation
from limbeck.errors import InputError
from limbeck.progress import open_progress


@app.command(
    short_help="From a run or students to all that is shipped: validated, exported, measured, reported.",
    epilog="Example: limbeck finalize runs/si --target-force-rmse 30",
)
@grouped
def finalize(
    context: typer.Context,
    given: Annotated[
        list[str],
        Argument(
            metavar="RUN|STUDENT...", help="A run folder; or student files, released students, old .pt files."
        ),
    ],
    *,
    out: Annotated[
        Path | None, Option(help="Folder for everything (the run folder; else 'finalized').")
    ] = None,
    data: Annotated[Path | None, Option(help="Labels to validate on (test.extxyz of the run).")] = None,
    teacher: Annotated[
        str | None, Option(help="Measured beside the students: a name, or none (as the card says).")
    ] = None,
    to: Annotated[
        str | None,
        Option(metavar="FORMATS", help="onnx, torch-export, torchscript (all that are installed)."),
    ] = None,
    quantize: Annotated[
        str, Option(metavar="NAMES", help="Weights to evaluate in fewer bits, with commas; or none.")
    ] = "float16,int8",
    skip: Annotated[
        str, Option(metavar="PARTS", help="Leave out: validate, bench, export, quantize, report.")
    ] = "",
    target_force_rmse: Target = None,
    budget: Annotated[
        str, Option(help="Time for everything; the benchmark gets what the other parts leave.")
    ] = "10m",
    threads: Annotated[
        int | None, Option(min=1, help="Of the benchmark (all cores) and of timed exports (1).")
    ] = None,
    row_limit: Annotated[str, Option(help="Time that one row of the benchmark may take.")] = "20s",
    trust: Trust = None,
    keys: LabelKeyOptions,
    sets: Sets = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Do finished parts again too.")] = False,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Validate, export with parity certificates, evaluate rounded weights, measure speed, recommend, report.

    A part that fails does not stop the others: it is told, and the command ends with 1. The same command
    resumes; finished parts are not repeated.
    """
    from limbeck.cli.bench import teacher_choice
    from limbeck.cli.exports import parse_formats
    from limbeck.config import load_label_keys, parse_budget

    names, limits = load_label_keys(**keys), (parse_budget(budget), parse_budget(row_limit))
    choice = teacher_choice(teacher, bool(trust), None, sets or ())
    formats = None if to is None else parse_formats(to)
    rounded = () if quantize == "none" else words("--quantize", quantize)
    from limbeck.workflows.finalize import finalize as run_finalize
    from limbeck.workflows.finalize import require_success
    from limbeck.workflows.finalize_inputs import FinalizeSettings

    settings = FinalizeSettings(
        out, data, names, choice, formats, rounded,  # type: ignore[arg-type]
        skip=frozenset(words("--skip", skip) if skip else ()),
        target_force_rmse_mev_per_a=target_force_rmse, budget_s=limits[0], row_limit_s=limits[1],
        began=invocation(context).began, threads=threads, overwrite=overwrite, debug=debug,
    )  # fmt: skip
    with open_progress() as progress:
        found = run_finalize(given, settings, progress=progress, say=typer.echo)
    write_json(json, found)
    require_success(found, Path(found["out"]))


@app.command(
    "learning-curve",
    short_help="Whether labels, training time or capacity limits a student.",
    epilog="Example: limbeck learning-curve runs/si --preset tiny --budget 20m --plot curves.png",
)
@grouped
def learning_curve(
    context: typer.Context,
    data: Annotated[
        Path, Argument(metavar="RUN|DATA", help="A run folder; or a label store or labelled file.")
    ],
    preset: Annotated[str, Option(help="The student in question: original, tiny, ultra-tiny.")],
    *,
    labels: Annotated[
        str | None, Option(help="Numbers of labels, with commas between (1/8, 1/4, 1/2 and all).")
    ] = None,
    times: Annotated[
        str | None, Option(help="Training times: 1m,3m (1/9, 1/3 and all of what the budget allows).")
    ] = None,
    widths: Annotated[
        str | None, Option(metavar="PRESETS", help="Presets of other widths, or none (all others).")
    ] = None,
    budget: Annotated[str, Option(help="Time for everything; what does not fit is left out.")] = "20m",
    seed: Seed = None,
    keys: LabelKeyOptions,
    out: Annotated[
        Path | None,
        Option(help="Folder of the trainings (learning-curve in the run folder or beside the data)."),
    ] = None,
    json: JsonFile = None,
    plot: Annotated[Path | None, Option(help="Draw the curves into this PNG file.")] = None,
    debug: Debug = False,
) -> None:
    """Train a preset on nested subsets of the labels, in less time and at other widths; what limits it.

    Errors are of test structures that no training sees. The same command resumes an interrupted run.
    """
    from limbeck.config import load_label_keys, parse_budget

    names, budget_s = load_label_keys(**keys), parse_budget(budget)
    numbers = None if labels is None else counts("--labels", labels)
    durations = None if times is None else tuple(parse_budget(one) for one in words("--times", times))
    others = None if widths is None else () if widths == "none" else words("--widths", widths)
    from limbeck.workflows.curve_data import read_curve_data
    from limbeck.workflows.curve_plot import check_curve_plot, write_curve_plot
    from limbeck.workflows.learning_curve import CurveSettings
    from limbeck.workflows.learning_curve import learning_curve as run_curve

    settings = CurveSettings(
        preset, numbers, durations, others, budget_s, began=invocation(context).began, seed=seed or 0
    )
    if plot is not None:
        check_curve_plot(plot)
    found = read_curve_data(data, names, settings.seed, typer.echo)
    folder = out or ((data if data.is_dir() else data.parent) / "learning-curve")
    with open_progress() as progress:
        result = run_curve(found, settings, folder, progress=progress, say=typer.echo)
    write_json(json, result)
    if plot is not None:
        write_curve_plot(result, plot)
        typer.echo(f"wrote {plot}")


@app.command(
    short_help="One page about a run, and a card beside each student.",
    epilog="Example: limbeck report runs/si --target-force-rmse 30",
)
@grouped
def report(
    run: Annotated[Path, Argument(metavar="RUN", help="Folder of a finished run.")],
    *,
    out: Annotated[
        Path | None, Option(help="The page, cards beside it (report.html in the run folder).")
    ] = None,
    target_force_rmse: Target = None,
    data: Annotated[
        Path | None,
        Option(help="Labels to evaluate the students on, instead of the run's test structures."),
    ] = None,
    keys: LabelKeyOptions,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Write report.html, which needs no network and no other file, and PRESET.card.md for model hubs."""
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise InputError("the report is a page", where=out, wanted="a name that ends in .html")
    from limbeck.config import load_label_keys

    names = load_label_keys(**keys).model_dump()
    if data is None and any(names.values()):
        raise InputError("names of labels without a file", wanted="--data FILE beside them")
    from limbeck.workflows.report import write_report

    with open_progress() as progress:
        written = write_report(
            run, out, target_force_rmse_mev_per_a=target_force_rmse, data=data, keys=names, progress=progress
        )
    for note in written.notes:
        typer.echo(f"note: {note}")
    typer.echo(written.recommendation.text)
    typer.echo(f"wrote {written.page} ({written.page.stat().st_size / 1e6:.1f} MB)")
    for card in written.cards:
        typer.echo(f"wrote {card}")
    rows = [asdict(row) for row in written.rows]
    cards = [str(card) for card in written.cards]
    advice = asdict(written.recommendation)
    write_json(json, {"page": str(written.page), "cards": cards, "recommendation": advice, "presets": rows})
