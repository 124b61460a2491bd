"""Why a student is as good as it is: learning-curve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.options import Debug, EnergyKey, ForcesKey, JsonFile, Seed, StressKey, VirialKey
from limbeck.cli.output import write_json
from limbeck.cli.root import app, invocation
from limbeck.errors import InputError


@app.command(
    "learning-curve",
    short_help="Whether labels, training time or capacity limits a student.",
    epilog="Example: limbeck learning-curve runs/si --preset tiny --budget 20m --plot curves.png",
)
def learning_curve(
    context: typer.Context,
    data: Annotated[
        Path, typer.Argument(metavar="RUN|DATA", help="A run folder; or a label store or labelled file.")
    ],
    preset: Annotated[str, typer.Option(help="The student in question: original, tiny, ultra-tiny.")],
    labels: Annotated[
        str | None, typer.Option(help="Numbers of labels, with commas between (1/8, 1/4, 1/2 and all).")
    ] = None,
    times: Annotated[
        str | None, typer.Option(help="Training times: 1m,3m (1/9, 1/3 and all of what the budget allows).")
    ] = None,
    widths: Annotated[
        str | None, typer.Option(metavar="PRESETS", help="Presets of other widths, or none (all others).")
    ] = None,
    budget: Annotated[str, typer.Option(help="Time for everything; what does not fit is left out.")] = "20m",
    seed: Seed = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    virial_key: VirialKey = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the trainings (learning-curve in the run folder or beside the data)."),
    ] = None,
    json: JsonFile = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves into this PNG file.")] = None,
    debug: Debug = False,
) -> None:
    """Train a preset on nested subsets of the labels, in less time and at other widths; what limits it.

    Errors are of test structures that no training sees. The same command goes on where it was.
    """
    from limbeck.config import load_label_keys, parse_budget

    keys = load_label_keys(
        energy_key=energy_key, forces_key=forces_key, stress_key=stress_key, virial_key=virial_key
    )
    wanted = {
        "labels": None if labels is None else _counts(labels),
        "times": None if times is None else tuple(parse_budget(t) for t in _words("--times", times)),
        "widths": None if widths is None else () if widths == "none" else _words("--widths", widths),
    }
    budget_s = parse_budget(budget)
    if plot is not None:
        from limbeck.pipeline.curve_plot import check_curve_plot

        check_curve_plot(plot)
    from limbeck.pipeline.curve_data import read_curve_data
    from limbeck.pipeline.learning_curve import CurveSettings
    from limbeck.pipeline.learning_curve import learning_curve as run_curve
    from limbeck.progress import open_progress
    from limbeck.students.specification import check_preset

    check_preset(preset)
    settings = CurveSettings(
        preset, budget_s=budget_s, began=invocation(context).began, seed=seed or 0,
        labels=wanted["labels"], times=wanted["times"], widths=wanted["widths"],  # type: ignore[arg-type]
    )  # fmt: skip
    found = read_curve_data(data, keys, seed or 0, typer.echo)
    folder = out or ((data if data.is_dir() else data.parent) / "learning-curve")
    with open_progress() as progress:
        result = run_curve(found, settings, folder, progress=progress, say=typer.echo)
    write_json(json, result)
    if plot is not None:
        from limbeck.pipeline.curve_plot import write_curve_plot

        write_curve_plot(result, plot)
        typer.echo(f"wrote {plot}")


def _words(flag: str, text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise InputError("nothing named", where=flag, got=repr(text))
    return words


def _counts(text: str) -> tuple[int, ...]:
    words = _words("--labels", text)
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise InputError("not a list of numbers", where="--labels", got=repr(text), wanted="such as 50,100")
    return tuple(int(word) for word in words)
