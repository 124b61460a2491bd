"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Structures = Annotated[
    Path | None, typer.Option(help="Starting structures: any file ASE reads, or a folder.")
]
Smiles = Annotated[
    str | None, typer.Option(help="Starting molecule as SMILES (needs the extra 'molecules').")
]
Bulk = Annotated[str | None, typer.Option(help="Starting crystal by name, as ase.build.bulk knows it: Si.")]
Liquid = Annotated[
    str | None,
    typer.Option(
        metavar="MOLECULES",
        help="Starting liquid: '48 O, 8 CCO' (counts and SMILES; needs --density and the extra 'liquids').",
    ),
]
Density = Annotated[float | None, typer.Option(help="Density of the liquid, g/cm³.")]
Teacher = Annotated[
    str | None, typer.Option(help="Name of a teacher (see 'limbeck teachers') or module:callable.")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="The teacher's package may unpickle the model file, which runs code stored in it."
    ),
]
Presets = Annotated[
    str | None, typer.Option("--preset", help="original, tiny, ultra-tiny; several with commas between.")
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Time for the whole command: 90s, 20m, 1h30m "
        "(otherwise tiny takes 20 minutes, ultra-tiny 15, original 40)."
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the configuration: --set training.epochs=30; may be repeated.",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(help="crystal, molecule, liquid, surface or melt (judged from the structures)."),
]
Temperatures = Annotated[
    str | None, typer.Option(help="Temperatures, K, that students are for: 300,900,1500.")
]
Rounds = Annotated[
    int | None,
    typer.Option(help="Rounds in which students learn from where their own hot dynamics fails (0)."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda.")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes of the teacher, for labels and for its dynamics (1 unless the file says more)."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over: replace what a run left in --out.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]
EnergyKey = Annotated[str | None, typer.Option(help="Name of the energy (eV) in a labelled file.")]
ForcesKey = Annotated[str | None, typer.Option(help="Name of the forces (eV/Å) in a labelled file.")]
StressKey = Annotated[str | None, typer.Option(help="Name of the stress (eV/Å³, positive in tension).")]
VirialKey = Annotated[str | None, typer.Option(help="Name of the virial (eV); stress = -virial / volume.")]
Val = Annotated[str | None, typer.Option(help="Held back for validation: a fraction, or a labelled file.")]
