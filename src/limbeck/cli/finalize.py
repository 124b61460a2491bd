"""Everything a user ships, from one command: finalize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.cli.options import Debug, EnergyKey, ForcesKey, JsonFile, Sets, StressKey, Trust, VirialKey
from limbeck.cli.output import write_json
from limbeck.cli.root import app, invocation
from limbeck.errors import InputError

_QUANTISATIONS = ("float16", "bfloat16", "int8")


@app.command(
    short_help="From a run or students to all that is shipped: validated, exported, measured, reported.",
    epilog="Example: limbeck finalize runs/si --target-force-rmse 30",
)
def finalize(
    context: typer.Context,
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|STUDENT...", help="A run folder; or student files, released students, old .pt files."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for everything (the run folder; else 'finalized').")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Labels to validate on (test.extxyz of the run).")] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Measured beside the students: a name, or none (as the card says).")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="FORMATS", help="onnx, torch-export, torchscript (all that are installed)."),
    ] = None,
    quantize: Annotated[
        str, typer.Option(metavar="NAMES", help="Weights to judge in fewer bits, with commas; or none.")
    ] = ",".join(_QUANTISATIONS),
    skip: Annotated[
        str, typer.Option(metavar="PARTS", help="Leave out: validate, bench, export, quantize, report.")
    ] = "",
    target_force_rmse: Annotated[
        float | None,
        typer.Option(metavar="MEV_PER_A", help="Recommend the cheapest student with this force RMSE, meV/Å."),
    ] = None,
    budget: Annotated[
        str, typer.Option(help="Time for everything; the benchmark gets what the other parts leave.")
    ] = "10m",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the benchmark (all cores) and of timed exports (1).")
    ] = None,
    row_limit: Annotated[str, typer.Option(help="Time that one row of the benchmark may take.")] = "20s",
    trust: Trust = False,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    virial_key: VirialKey = None,
    sets: Sets = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do finished parts again too.")] = False,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Validate, export with parity certificates, judge rounded weights, measure speed, recommend, report.

    A part that fails does not stop the others: it is told, and the command ends with 1. The same command
    goes on where it was; finished parts are not repeated.
    """
    from limbeck.cli.bench import teacher_choice
    from limbeck.cli.exports import parse_formats
    from limbeck.config import load_label_keys, parse_budget

    options: dict[str, Any] = {
        "out": out, "data": data, "target_force_rmse_mev_per_a": target_force_rmse, "threads": threads,
        "overwrite": overwrite, "debug": debug, "began": invocation(context).began,
        "budget_s": parse_budget(budget), "row_limit_s": parse_budget(row_limit),
        "formats": None if to is None else parse_formats(to),
        "quantisations": _quantisations(quantize),
        "skip": frozenset(part.strip() for part in skip.split(",") if part.strip()),
        "teacher": teacher_choice(teacher, trust, None, sets or ()),
        "keys": load_label_keys(
            energy_key=energy_key, forces_key=forces_key, stress_key=stress_key, virial_key=virial_key
        ),
    }  # fmt: skip
    from limbeck.pipeline.final_inputs import FinalizeSettings
    from limbeck.pipeline.finalizing import finalize as run_finalize
    from limbeck.pipeline.finalizing import require_success
    from limbeck.progress import open_progress

    settings = FinalizeSettings(**options)
    with open_progress() as progress:
        found = run_finalize(given, settings, progress=progress, say=typer.echo)
    write_json(json, found)
    require_success(found, Path(found["out"]))


def _quantisations(text: str) -> tuple[str, ...]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    if names == ["none"]:
        return ()
    strange = [name for name in names if name not in _QUANTISATIONS]
    if strange or not names:
        raise InputError(
            "unknown quantisation", where="--quantize", got=repr(strange[0] if strange else text),
            wanted=", ".join((*_QUANTISATIONS, "none")),
        )  # fmt: skip
    return tuple(dict.fromkeys(names))
