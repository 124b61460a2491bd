"""Labels by a teacher's own package in a process of its own, where nothing of Limbeck is imported."""

from __future__ import annotations

import json
import subprocess
import textwrap
from pathlib import Path
from typing import Any

from ase import Atoms

from limbeck.teachers.environments import foreign_environment

# ``build`` makes ``calculator`` or ``out`` itself, and may fill ``extra``. Stress as (3, 3) in eV/Å³.
_SCRIPT = """
import contextlib, io, json, sys
import numpy as np
from ase import Atoms
frames = [Atoms(**f) for f in json.load(sys.stdin)]
def by_ase(calculator):
    out = []
    for atoms in frames:
        atoms.calc = calculator
        stress = atoms.get_stress(voigt=False).tolist() if atoms.pbc.all() else None
        out.append({"energy": float(atoms.get_potential_energy()), "forces": atoms.get_forces().tolist(),
                    "stress": stress})
    return out
def count(model, trained=False):
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)
with contextlib.redirect_stdout(io.StringIO()):
    extra, out = {}, None
BUILD
    out = out or by_ase(calculator)
print(json.dumps({"out": out, **extra}))
"""


def run_python(python: Path | str, *arguments: str, text: str = "") -> str:
    """Standard output of a Python that sees no package of this process."""
    done = subprocess.run(
        [str(python), "-W", "ignore", *arguments],
        input=text, capture_output=True, text=True, check=False, env=foreign_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def labels_by_package(python: Path | str, build: str, frames: list[Atoms], *arguments: str) -> dict[str, Any]:
    plain = [
        {"numbers": a.numbers.tolist(), "positions": a.positions.tolist(), "cell": a.cell.array.tolist(),
         "pbc": a.pbc.tolist(), "info": a.info} for a in frames
    ]  # fmt: skip
    script = _SCRIPT.replace("BUILD", textwrap.indent(build, "    "))
    return json.loads(run_python(python, "-c", script, *arguments, text=json.dumps(plain)))
