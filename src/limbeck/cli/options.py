"""Options that several commands share, alone and in groups."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_type_hints, is_typeddict

from typer import Argument, Option

from limbeck.errors import InputError


def _check_target(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        where, wanted = "--target-force-rmse", "meV/Å, above zero"
        raise InputError("the target is no error", where=where, got=value, wanted=wanted)
    return value


Student = Annotated[str, Argument(help="Student file, or the name of a released one.")]
Labels = Annotated[list[Path], Argument(help="Label stores or labelled files that ASE reads.")]
Teacher = Annotated[str | None, Option(help="Name of a teacher (see 'limbeck teachers') or module:callable.")]
Trust = Annotated[
    bool | None,
    Option(
        "--trust", help="The teacher's package may unpickle the model file, which runs code stored in it."
    ),
]
Presets = Annotated[
    str | None, Option("--preset", help="original, tiny, ultra-tiny; several with commas between.")
]
Budget = Annotated[
    str | None,
    Option(
        help="Time for the whole command: 90s, 20m, 1h30m "
        "(otherwise tiny takes 20 minutes, ultra-tiny 15, original 40)."
    ),
]
Sets = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the configuration: --set training.epochs=30; may be repeated.",
    ),
]
ActiveLearningOption = Annotated[
    int | None,
    Option(help="Active learning iterations: the teacher labels where the students' MD fails (default 0)."),
]
Seed = Annotated[int | None, Option(help="Seed of everything random.")]
Device = Annotated[str | None, Option(help="cpu or cuda.")]
Workers = Annotated[
    int | None,
    Option(help="Processes of the teacher, for labels and for its dynamics (1 unless the file says more)."),
]
Overwrite = Annotated[bool, Option("--overwrite", help="Start over: replace what a run left in --out.")]
Target = Annotated[
    float | None,
    Option(
        "--target-force-rmse",
        metavar="MEV_PER_A",
        callback=_check_target,
        help="Recommend the cheapest student with this force RMSE, meV/Å.",
    ),
]
JsonFile = Annotated[Path | None, Option("--json", help="Write the figures to this file too.")]
Debug = Annotated[bool, Option("--debug", help="Show a traceback when something fails.")]
Val = Annotated[str | None, Option(help="Validation set: a fraction, or a labelled file.")]


class LabelKeyOptions(TypedDict):
    """Names of labels, as ``limbeck.config.load_label_keys`` takes them."""

    energy_key: Annotated[str | None, Option(help="Name of the energy (eV) in a labelled file.")]
    forces_key: Annotated[str | None, Option(help="Name of the forces (eV/Å) in a labelled file.")]
    stress_key: Annotated[str | None, Option(help="Name of the stress (eV/Å³, positive in tension).")]
    virial_key: Annotated[str | None, Option(help="Name of the virial (eV); stress = -virial / volume.")]


class StartOptions(TypedDict):
    """What sampling starts from, as ``limbeck.config.load_config`` takes it."""

    structures: Annotated[Path | None, Option(help="Starting structures: any file ASE reads, or a folder.")]
    smiles: Annotated[str | None, Option(help="Starting molecule as SMILES (needs the extra 'molecules').")]
    bulk: Annotated[str | None, Option(help="Starting crystal by name, as ase.build.bulk knows it: Si.")]
    liquid: Annotated[
        str | None,
        Option(
            metavar="MOLECULES",
            help="Starting liquid: '48 O, 8 CCO' (counts and SMILES; "
            "needs --density and the extra 'liquids').",
        ),
    ]
    density: Annotated[float | None, Option(help="Density of the liquid, g/cm³.")]


class SamplingOptions(TypedDict):
    """How frames are sampled, and by which teacher."""

    teacher: Teacher
    trust: Trust
    recipe: Annotated[
        str | None,
        Option(help="crystal, molecule, liquid, surface or melt (by default, from the structures)."),
    ]
    temperatures_K: Annotated[
        str | None,
        Option("--temperatures", help="Temperatures, K, that students are for: 300,900,1500."),
    ]
    seed: Seed
    device: Device
    workers: Workers


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of each TypedDict among its parameters; it gets their values so."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, list[str]] = {}
    shown: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if not is_typeddict(kind):
            shown.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        options = get_type_hints(kind, include_extras=True)
        groups[parameter.name] = list(options)
        shown += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for name, option in options.items()
        ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        values = {group: {name: given.pop(name) for name in names} for group, names in groups.items()}
        command(**given, **values)

    del run.__wrapped__  # typer and the documentation read the signature that a user sees
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    return run


def words(flag: str, text: str) -> tuple[str, ...]:
    """``a, b`` as names; InputError without one."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    if not found:
        raise InputError("nothing named", where=flag, got=repr(text))
    return found


def counts(flag: str, text: str) -> tuple[int, ...]:
    """``50, 100`` as numbers above zero."""
    found = words(flag, text)
    if not all(word.isdecimal() and int(word) > 0 for word in found):
        raise InputError("not a list of numbers", where=flag, got=repr(text), wanted="such as 50,100")
    return tuple(int(word) for word in found)
