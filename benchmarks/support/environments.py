"""Python environments of the peers: given, from a variable, or created once under ``.envs/``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.processes import BENCHMARKS, Unmeasured

#: environment -> variable with a Python that has the peer
VARIABLES = {
    "graph-pes": "LIMBECK_PEER_PYTHON",
    "calorine": "LIMBECK_CALORINE_PYTHON",
    "lammps": "LIMBECK_LAMMPS_PYTHON",
}
_INSTALL_LIMIT_S = 1800


def find_python(name: str, given: str | None) -> str:
    """The Python of an environment; installs ``requirements-NAME.txt`` if none is given.

    Raises
    ------
    Unmeasured: the installation failed.
    """
    chosen = given or os.environ.get(VARIABLES[name])
    if chosen:
        return chosen
    folder = BENCHMARKS / ".envs" / name
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if not stamp.exists():
        print(f"setting up {name} in {folder} (once)", file=sys.stderr, flush=True)
        pins = BENCHMARKS / f"requirements-{name}.txt"
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(pins)]
        for command in ([sys.executable, "-m", "venv", str(folder)], pip):
            _run(command, name)
        stamp.touch()
    return str(python)


def _run(command: list[str], name: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_LIMIT_S)
    except subprocess.CalledProcessError as error:
        lines = [line for line in (error.stderr or error.stdout).splitlines() if line.strip()]
        raise Unmeasured(f"{name} cannot be installed: {lines[-1][:200] if lines else error}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unmeasured(f"{name} cannot be installed: {error}") from error


def nep_file() -> Path:
    """The NEP4 model of silicon, which is GPL and not part of Limbeck.

    Raises
    ------
    Unmeasured: there is no such file.
    """
    default = BENCHMARKS.parents[1] / "shared" / "data"
    path = Path(os.environ.get("LIMBECK_SHARED_DATA", default)) / "nep" / "Si_2022_NEP4_3body.txt"
    if not path.is_file():
        raise Unmeasured(f"no {path.parent.name}/{path.name} in LIMBECK_SHARED_DATA or ../shared/data")
    return path
