"""The command line: parse, call one function of a stage, print; errors are one line.

Stages are imported inside the commands, so that ``limbeck --help`` is quick, and ``pipeline``, which
loads torch, only once the configuration is known to be good.
"""

from __future__ import annotations

import json as jsonlib
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck import __version__
from limbeck.errors import LimbeckError, MissingPackageError
from limbeck.progress import process_start

if TYPE_CHECKING:
    from limbeck.runtime.released import ReleasedStudent
    from limbeck.teachers import TeacherCard

app = typer.Typer(
    name="limbeck",
    help="Distil slow, accurate interatomic potentials into compact, fast students.",
    epilog="Example: limbeck distill --bulk Si --teacher sevennet-0 --preset tiny --budget 20m --out runs/si",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Structures = Annotated[Path | None, typer.Option(help="Starting structures: any file ASE reads.")]
Smiles = Annotated[
    str | None, typer.Option(help="Starting molecule as SMILES (needs the extra 'molecules').")
]
Bulk = Annotated[str | None, typer.Option(help="Starting crystal by name, as ase.build.bulk knows it: Si.")]
Teacher = Annotated[
    str | None, typer.Option(help="Name of a teacher (see 'limbeck teachers') or module:callable.")
]
Presets = Annotated[
    str | None, typer.Option("--preset", help="original, tiny, ultra-tiny; several with commas between.")
]
Budget = Annotated[str | None, typer.Option(help="Time for the whole command: 90s, 20m, 1h30m.")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a key of the configuration: --set training.epochs=30; may be repeated."
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda.")]
Workers = Annotated[int | None, typer.Option(help="Processes that label side by side.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what another configuration left in --out.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]
EnergyKey = Annotated[str | None, typer.Option(help="Name of the energy (eV) in a labelled file.")]
ForcesKey = Annotated[str | None, typer.Option(help="Name of the forces (eV/Å) in a labelled file.")]
StressKey = Annotated[str | None, typer.Option(help="Name of the stress (eV/Å³, positive in tension).")]
VirialKey = Annotated[str | None, typer.Option(help="Name of the virial (eV); stress = -virial / volume.")]
Val = Annotated[str | None, typer.Option(help="Held back for validation: a fraction, or a labelled file.")]


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


@app.command(
    epilog="Example: limbeck distill examples/silicon.yaml --set training.batch_atoms=256 --out runs/si"
)
def distill(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="YAML configuration; options override it.")] = None,
    structures: Structures = None,
    smiles: Smiles = None,
    bulk: Bulk = None,
    teacher: Teacher = None,
    preset: Presets = None,
    budget: Budget = None,
    epochs: Annotated[int | None, typer.Option(help="Train so many epochs instead of to the budget.")] = None,
    val: Val = None,
    seed: Seed = None,
    device: Device = None,
    workers: Workers = None,
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; the same command goes on in it.")] = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with its times and stop.")
    ] = False,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Sample, label, train and validate: from structures and a teacher to student files."""
    from limbeck.config import load_config
    from limbeck.progress import open_progress

    settings = load_config(
        config,
        sets or (),
        structures=structures, smiles=smiles, bulk=bulk, teacher=teacher, presets=preset,
        budget=budget, epochs=epochs, val=val, seed=seed, device=device, workers=workers, out=out,
    )  # fmt: skip
    if not dry_run:
        settings.run_folder()
    settings.required_teacher()
    from limbeck.pipeline import distill as run

    with open_progress() as progress:
        result = run(
            settings,
            overwrite=overwrite,
            dry_run=dry_run,
            progress=progress,
            say=typer.echo,
            began=context.obj,
        )
    _write_json(json, result)


@app.command(epilog="Example: limbeck sample --bulk Si --teacher sevennet-0 --out frames.extxyz")
def sample(
    out: Annotated[Path, typer.Option(help="The frames, as extxyz.")],
    structures: Structures = None,
    smiles: Smiles = None,
    bulk: Bulk = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration with a 'sampling' part.")] = None,
    teacher: Teacher = None,
    seed: Seed = None,
    device: Device = None,
    sets: Sets = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Make frames from starting structures: rattled, strained, and by MD where a teacher is given."""
    from limbeck.config import load_config
    from limbeck.progress import open_progress

    settings = load_config(
        config, sets or (),
        structures=structures, smiles=smiles, bulk=bulk, teacher=teacher, seed=seed, device=device,
    )  # fmt: skip
    from limbeck.pipeline import run_sample

    with open_progress() as progress:
        run_sample(settings, out, overwrite=overwrite, progress=progress, say=typer.echo)


@app.command(epilog="Example: limbeck label frames.extxyz --teacher sevennet-0 --workers 2 --out labels")
def label(
    frames: Annotated[Path, typer.Argument(help="Structures to label: any file ASE reads.")],
    teacher: Annotated[
        str, typer.Option(help="Name of a teacher (see 'limbeck teachers') or module:callable.")
    ],
    out: Annotated[
        Path, typer.Option(help="Label store (a folder); labels it already holds are not repeated.")
    ],
    workers: Workers = None,
    device: Device = None,
    sets: Sets = None,
    debug: Debug = False,
) -> None:
    """Evaluate a teacher on frames; can be interrupted at any moment and started again."""
    from limbeck.config import load_label_config
    from limbeck.progress import open_progress

    settings = load_label_config(sets or (), teacher=teacher, workers=workers, device=device)
    from limbeck.pipeline import run_label

    with open_progress() as progress:
        run_label(settings, frames, out, progress=progress, say=typer.echo)


@app.command(epilog="Example: limbeck train my_dft.extxyz --preset tiny --budget 30m --out runs/dft")
def train(
    context: typer.Context,
    data: Annotated[list[Path], typer.Argument(help="Label stores or labelled files that ASE reads.")],
    out: Annotated[Path, typer.Option(help="Run folder; the same command goes on in it.")],
    preset: Presets = None,
    budget: Budget = None,
    epochs: Annotated[int | None, typer.Option(help="Train so many epochs instead of to a budget.")] = None,
    val: Val = None,
    seed: Seed = None,
    init: Annotated[Path | None, typer.Option(help="Start from this student's weights.")] = None,
    device: Device = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    virial_key: VirialKey = None,
    sets: Sets = None,
    overwrite: Overwrite = False,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Train students on labels: a teacher's or your own."""
    from limbeck.config import load_train_config
    from limbeck.progress import open_progress

    settings = load_train_config(
        sets or (),
        presets=preset, budget=budget, epochs=epochs, val=val, seed=seed, init=init, device=device,
        energy_key=energy_key, forces_key=forces_key, stress_key=stress_key, virial_key=virial_key,
    )  # fmt: skip
    from limbeck.pipeline import run_train

    with open_progress() as progress:
        result = run_train(
            settings, data, out, overwrite=overwrite, progress=progress, say=typer.echo, began=context.obj
        )
    _write_json(json, result)


@app.command(epilog="Example: limbeck validate runs/si/tiny.safetensors held_out.extxyz --plots plots")
def validate(
    student: Annotated[str, typer.Argument(help="Student file, or the name of a released one.")],
    data: Annotated[Path, typer.Argument(help="A label store or a labelled file that ASE reads.")],
    plots: Annotated[
        Path | None, typer.Option(help="Draw parity and error plots (PNG) into this folder.")
    ] = None,
    device: Device = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    virial_key: VirialKey = None,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Compare a student with reference labels: all, by element, by family, by temperature."""
    from limbeck.config import load_label_keys
    from limbeck.progress import open_progress

    keys = load_label_keys(
        energy_key=energy_key, forces_key=forces_key, stress_key=stress_key, virial_key=virial_key
    )
    from limbeck.pipeline import run_validate

    with open_progress() as progress:
        result = run_validate(
            student, data, keys=keys, plots=plots, device=device or "cpu", progress=progress, say=typer.echo
        )
    _write_json(json, result)


@app.command(epilog="Example: limbeck convert old_checkpoint.pt --out student.safetensors")
def convert(
    old: Annotated[Path, typer.Argument(help="Legacy weights: a .pt state dict.")],
    out: Annotated[Path, typer.Option(help="The student file to write.")],
    debug: Debug = False,
) -> None:
    """Turn a state dict saved by a wrapper into a student file; pickled code is never run."""
    from limbeck.artifact.convert import convert_checkpoint

    convert_checkpoint(old, out)
    typer.echo(f"wrote {out}")


@app.command(epilog="Example: limbeck info runs/si/tiny.safetensors")
def info(
    student: Annotated[str, typer.Argument(help="Student file, or the name of a released one.")],
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Print the card of a student: where it comes from, what it has seen, how far off it is."""
    from limbeck.artifact.file import read_card
    from limbeck.config import dump_yaml
    from limbeck.runtime.released import find_student

    card = read_card(find_student(student))
    typer.echo(dump_yaml(card), nl=False)
    _write_json(json, card)


@app.command(epilog="Example: limbeck teachers --json teachers.json")
def teachers(json: JsonFile = None, debug: Debug = False) -> None:
    """List the teachers: elements, domain, licence, whether installed and how to install."""
    from limbeck.teachers import list_cards

    rows = [_teacher_row(card) for card in list_cards()]
    _print_rows(rows)
    _write_json(json, rows)


@app.command(epilog="Example: limbeck students")
def students(json: JsonFile = None, debug: Debug = False) -> None:
    """List the students that come with Limbeck; Calculator("silicon-tiny") loads one by name."""
    from limbeck.runtime.released import list_students

    rows = [_student_row(student) for student in list_students()]
    _print_rows(rows)
    _write_json(json, rows)


def _student_row(student: ReleasedStudent) -> dict[str, Any]:
    from limbeck.students.specification import Architecture

    card = student.card
    teacher = card.get("teacher", {})
    return {
        "name": student.name,
        "elements": _symbols(card["elements"]),
        "teacher": teacher.get("name"),
        "parameters": Architecture.from_dict(card["architecture"]).n_parameters,
        "heldout_force_rmse_mev_per_a": card.get("metrics", {})
        .get("heldout", {})
        .get("force_rmse_mev_per_a"),
        "licence": teacher.get("licence"),
    }


def _teacher_row(card: TeacherCard) -> dict[str, Any]:
    elements = card.elements or ()
    return {
        "name": card.name,
        "elements": _symbols(elements) if len(elements) < 20 else len(elements),
        "domain": card.domain,
        "periodic": card.periodic,
        "stress": card.stress,
        "precision": card.precision,
        "licence": card.licence,
        "installed": card.installed,
        "install": card.remedy,
    }


def _symbols(numbers: Iterable[int]) -> str:
    from ase.data import chemical_symbols

    return " ".join(chemical_symbols[z] for z in sorted(numbers))


def _write_json(path: Path | None, value: Any) -> None:
    if path is not None:
        from limbeck.core.files import write_whole

        write_whole(path, jsonlib.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """A table whose columns are the keys of the first row."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*(rows[0] if rows else ("nothing to list",)), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console()
    # A file or pipe gets whole lines: a table folded to 80 columns cannot be searched.
    Console(width=console.width if console.is_terminal else 400, markup=False).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _say_error(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 only on success, 2 for wrong usage or input."""
    # A budget bounds the whole command, so it counts from where this process began.
    began = process_start() if arguments is None else time.monotonic()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Looked up here because a command may fail before its options are read.
    debug = "--debug" in arguments
    try:
        code = int(app(args=arguments, prog_name="limbeck", standalone_mode=False, obj=began) or 0)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone: not worth a word
        return 1
    except Exception as error:  # noqa: BLE001  (the last place where it can become one line)
        return _report(error, debug)
    if code == 130:
        print("interrupted; run the same command again to go on", file=sys.stderr)
    return code


def _report(error: Exception, debug: bool) -> int:
    """One line on stderr for any exception, and the exit code that belongs to it."""
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, LimbeckError):
        return _say_error(str(error), error.exit_code)
    # Usage errors are typer's: which module defines them differs between its releases.
    describe = getattr(error, "format_message", None)
    if describe is not None:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "limbeck"
        text = " ".join(str(describe()).split())
        return _say_error(f"{text.rstrip('.')}; remedy: see '{command} --help'", 2)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("limbeck"):
        missing = MissingPackageError(
            "a package is missing",
            got=f"no module {error.name!r}",
            remedy="pip install -c constraints.txt -e '.[all]'",
        )
        return _say_error(str(missing), missing.exit_code)
    kind = f"{type(error).__name__}: {error}".replace("\n", " ").strip()
    hint = "" if debug else "; run with --debug for the traceback"
    return _say_error(f"internal error: {kind}{hint}", 1)


if __name__ == "__main__":
    sys.exit(main())
