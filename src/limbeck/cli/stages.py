"""The stages as commands: distill, sample, label, lint, train, validate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from limbeck.cli.options import (
    ActiveLearningOption,
    Budget,
    Debug,
    Device,
    JsonFile,
    LabelKeyOptions,
    Labels,
    Overwrite,
    Presets,
    SamplingOptions,
    Seed,
    Sets,
    StartOptions,
    Student,
    Trust,
    Val,
    Workers,
    grouped,
    words,
)
from limbeck.cli.output import write_json
from limbeck.cli.root import app, invocation
from limbeck.errors import InputError
from limbeck.progress import open_progress

if TYPE_CHECKING:
    from limbeck.config import DistillConfig


@app.command(
    short_help="From structures and a teacher to students, in one command.",
    epilog="Example: limbeck distill examples/silicon.yaml --set training.batch_atoms=512 --out runs/si",
)
@grouped
def distill(
    context: typer.Context,
    *,
    config: Annotated[Path | None, Argument(help="YAML configuration; options override it.")] = None,
    start: StartOptions,
    sampling: SamplingOptions,
    preset: Presets = None,
    budget: Budget = None,
    epochs: Annotated[int | None, Option(help="Train for this many epochs, not to the budget.")] = None,
    active_learning: ActiveLearningOption = None,
    val: Val = None,
    keys: LabelKeyOptions,
    sets: Sets = None,
    out: Annotated[Path | None, Option(help="Run folder; the same command resumes the run.")] = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Print the plan with its times and stop.")] = False,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Sample, label, train and validate: from structures and a teacher to student files."""
    from limbeck.config import load_config

    settings = load_config(
        config, sets or (), **start, **sampling, **keys, presets=preset, budget=budget, epochs=epochs,
        active_learning=active_learning, val=val, out=out,
    )  # fmt: skip
    settings = _settle_end(settings, budget, epochs, sets or ())
    settings.required_teacher(writes=not dry_run)
    if not dry_run:
        settings.run_folder()
    from limbeck.workflows import distill as run

    called = invocation(context)
    with open_progress() as progress:
        result = run(
            settings, overwrite=overwrite, dry_run=dry_run, progress=progress, say=typer.echo,
            began=called.began, command=called.command,
        )  # fmt: skip
    write_json(json, result)


def _settle_end(
    settings: DistillConfig, budget: str | None, epochs: int | None, sets: Sequence[str]
) -> DistillConfig:
    """What the command line says of the end goes before what the file says; both at once are refused.

    Epochs go before a budget without more ado, so only the other case needs work here.
    """
    from limbeck.config import format_budget

    given = {text.partition("=")[0].strip() for text in sets}
    by_budget = budget is not None or "budget" in given
    if not by_budget or settings.training.epochs is None:
        return settings
    if epochs is not None or "training.epochs" in given:
        raise InputError(
            "both a budget and a number of epochs are given",
            got=f"{format_budget(settings.budget or 0)} and {settings.training.epochs}",
            wanted="one of --budget and --epochs",
        )
    typer.echo(f"note: the budget takes the place of the configuration's {settings.training.epochs} epochs")
    training = settings.training.model_copy(update={"epochs": None})
    return settings.model_copy(update={"training": training})


@app.command(
    short_help="Make frames from structures: rattle, strain, dynamics.",
    epilog="Example: limbeck sample --bulk Si --teacher sevennet-0 --out frames.extxyz",
)
@grouped
def sample(
    out: Annotated[Path, Option(help="The frames, as extxyz.")],
    *,
    config: Annotated[Path | None, Option(help="YAML configuration with a 'sampling' part.")] = None,
    start: StartOptions,
    sampling: SamplingOptions,
    sets: Sets = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Make frames from starting structures: rattled, strained, and by MD where a teacher is given."""
    from limbeck.config import load_config

    settings = load_config(config, sets or (), **start, **sampling)
    from limbeck.workflows import run_sample

    with open_progress() as progress:
        run_sample(settings, out, overwrite=overwrite, progress=progress, say=typer.echo)


@app.command(
    short_help="Evaluate a teacher on frames; can be interrupted.",
    epilog="Example: limbeck label frames.extxyz --teacher sevennet-0 --workers 2 --out labels",
)
def label(
    frames: Annotated[Path, Argument(help="Structures to label: any file ASE reads.")],
    teacher: Annotated[str, Option(help="Name of a teacher (see 'limbeck teachers') or module:callable.")],
    out: Annotated[Path, Option(help="Label store (a folder); labels it already holds are not repeated.")],
    extxyz: Annotated[
        Path | None, Option(help="Write all labels of the store to this extended XYZ file too.")
    ] = None,
    trust: Trust = None,
    workers: Workers = None,
    device: Device = None,
    sets: Sets = None,
    debug: Debug = False,
) -> None:
    """Evaluate a teacher on frames; can be interrupted at any moment and started again."""
    from limbeck.config import load_label_config

    settings = load_label_config(sets or (), teacher=teacher, trust=trust, workers=workers, device=device)
    from limbeck.workflows import run_label

    with open_progress() as progress:
        run_label(settings, frames, out, extxyz=extxyz, progress=progress, say=typer.echo)


@app.command(
    short_help="Look for what would spoil a training on labelled data.",
    epilog="Example: limbeck lint my_dft.extxyz --elements H,C,N,O --val test.extxyz",
)
@grouped
def lint(
    data: Labels,
    *,
    elements: Annotated[
        str | None, Option(help="Elements the data should hold, with commas between.")
    ] = None,
    like: Annotated[
        Path | None, Option(help="Structures the data should be made of: any file ASE reads.")
    ] = None,
    val: Annotated[Path | None, Option(help="Validation labels: look for leaks.")] = None,
    ignore: Annotated[str | None, Option(help="Codes of findings to pass over, with commas between.")] = None,
    keys: LabelKeyOptions,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Look for what would spoil a training: units, signs, references, duplicates, damaged frames.

    Exit code 0 without errors, 1 with, 2 where the data cannot be read.
    """
    from limbeck.config import load_label_keys

    names = load_label_keys(**keys).model_dump()
    passed = words("--ignore", ignore) if ignore else ()
    from limbeck.workflows.lint import run_lint

    report = run_lint(data, keys=names, elements=elements, like=like, val=val, ignore=passed, say=typer.echo)
    write_json(json, report.to_dict())
    if report.errors:
        raise typer.Exit(1)


@app.command(
    short_help="Train students on labels: a teacher's or your own.",
    epilog="Example: limbeck train my_dft.extxyz --preset tiny --budget 30m --out runs/dft",
)
@grouped
def train(
    context: typer.Context,
    data: Labels,
    out: Annotated[Path, Option(help="Run folder; the same command resumes the run.")],
    *,
    preset: Presets = None,
    budget: Budget = None,
    epochs: Annotated[int | None, Option(help="Train for this many epochs, not to a budget.")] = None,
    val: Val = None,
    seed: Seed = None,
    init: Annotated[Path | None, Option(help="Start from this student's weights.")] = None,
    device: Device = None,
    keys: LabelKeyOptions,
    sets: Sets = None,
    overwrite: Overwrite = False,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Train students on labels: a teacher's or your own."""
    from limbeck.config import load_train_config

    settings = load_train_config(
        sets or (), **keys, presets=preset, budget=budget, epochs=epochs, val=val, seed=seed, init=init,
        device=device,
    )  # fmt: skip
    from limbeck.workflows import run_train

    called = invocation(context)
    with open_progress() as progress:
        result = run_train(
            settings, data, out, overwrite=overwrite, progress=progress, say=typer.echo,
            began=called.began, command=called.command,
        )  # fmt: skip
    write_json(json, result)


@app.command(
    short_help="Compare a student with reference labels.",
    epilog="Example: limbeck validate runs/si/tiny.safetensors test.extxyz --plots plots",
)
@grouped
def validate(
    student: Student,
    data: Annotated[Path, Argument(help="A label store or a labelled file that ASE reads.")],
    *,
    plots: Annotated[Path | None, Option(help="Draw parity and error plots (PNG) into this folder.")] = None,
    worst: Annotated[
        Path | None,
        Option(
            metavar="FILE.extxyz",
            help="Write the frames with the largest force errors, reference and predicted labels in them.",
        ),
    ] = None,
    n_worst: Annotated[int, Option(min=1, help="Number of worst frames.")] = 10,
    device: Device = None,
    keys: LabelKeyOptions,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Compare a student with reference labels: all, by element, by group, by temperature."""
    from limbeck.config import load_label_keys

    names = load_label_keys(**keys)
    from limbeck.workflows import run_validate

    with open_progress() as progress:
        result = run_validate(
            student, data, keys=names, plots=plots, worst_file=worst, n_worst=n_worst,
            device=device or "cpu", progress=progress, say=typer.echo,
        )  # fmt: skip
    write_json(json, result)
