"""Which Python a teacher's worker runs in, and how it is started there.

A teacher may be installed beside Limbeck, in an environment that ``limbeck teachers install`` made, or
in any other that ``teacher.python`` names. Limbeck itself is installed in none of those: the child is
told where this very Limbeck lies, and sees nothing else of the user's packages.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import limbeck
from limbeck.errors import InputError, MissingPackageError
from limbeck.teachers.card import TeacherCard

#: the oldest Python that Limbeck's worker runs on
LEAST_PYTHON = (3, 11)

#: file that marks a finished environment, and tells what is in it
RECORD = "limbeck.json"

# PYTHONPATH cannot name Limbeck's folder to another Python: in a usual installation that folder is
# site-packages, and the packages beside Limbeck would hide the other environment's own.
_BOOTSTRAP = """\
import importlib.util, runpy, sys
folder, module, *sys.argv[1:] = sys.argv[1:]
spec = importlib.util.spec_from_file_location(
    "limbeck", folder + "/__init__.py", submodule_search_locations=[folder])
package = importlib.util.module_from_spec(spec)
sys.modules["limbeck"] = package
spec.loader.exec_module(package)
runpy.run_module(module, run_name="__main__")
"""

_PROBE = """\
import importlib.util, json, sys
found = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is not None]
print("limbeck-probe " + json.dumps([list(sys.version_info[:3]), found]))
"""
_PROBE_TIMEOUT_S = 120


@dataclass(frozen=True)
class Interpreter:
    """A Python to start workers in.

    Attributes
    ----------
    path: the executable.
    kind: ``own`` (this process's environment), ``installed`` (by ``limbeck teachers install``) or
        ``given`` (``teacher.python``).
    """

    path: Path
    kind: Literal["own", "installed", "given"]

    def command(self, module: str, *, working_folder: bool = True) -> list[str]:
        """Arguments that run ``module`` of this very Limbeck.

        working_folder: modules in the current folder can be imported, as ``module:callable`` wants.
        """
        if self.kind == "own":
            return [str(self.path), "-m", module]
        flags = [] if working_folder else ["-P"]
        folder = str(Path(limbeck.__file__).resolve().parent)
        return [str(self.path), *flags, "-c", _BOOTSTRAP, folder, module]

    def environment(self) -> dict[str, str]:
        """Environment variables of a process in it."""
        if self.kind == "own":
            source = str(Path(limbeck.__file__).resolve().parents[1])
            paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
            return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        return foreign_environment()


OWN = Interpreter(Path(sys.executable), "own")


def foreign_environment() -> dict[str, str]:
    """This process's environment variables without those that lead Python to this one's packages."""
    dropped = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONSAFEPATH", "VIRTUAL_ENV"}
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return {**kept, "PYTHONNOUSERSITE": "1"}


def limbeck_home() -> Path:
    """Folder of Limbeck's own data: $LIMBECK_HOME, else limbeck/ in the user's data folder (XDG)."""
    if given := os.environ.get("LIMBECK_HOME"):
        return Path(given).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser().absolute() / "limbeck"


def environment_folder(card: TeacherCard) -> Path:
    """Where ``limbeck teachers install`` puts the environment of ``card``'s teacher."""
    return limbeck_home() / "teachers" / card.environment_name


def installed_python(card: TeacherCard, folder: Path | None = None) -> Path | None:
    """The Python of the teacher's finished environment, or None where there is none."""
    folder = environment_folder(card) if folder is None else folder
    python = folder / "bin" / "python"
    # is_file follows the link to the base interpreter, which may have been removed since.
    return python if (folder / RECORD).is_file() and python.is_file() else None


def find_interpreter(card: TeacherCard | None, python: Path | None = None, name: str = "") -> Interpreter:
    """The Python for a teacher's workers: the one given, else this one, else the installed one.

    Parameters
    ----------
    card: None for ``module:callable``, which is looked for where Limbeck is unless ``python`` is given.
    python: ``teacher.python``; checked for the packages that a worker needs.
    name: of the teacher, for messages.

    Raises
    ------
    InputError: ``python`` is no usable Python. MissingPackageError: the teacher is not installed.
    """
    if python is not None:
        check_python(python, [] if card is None else [card.package], name or (card.name if card else ""))
        return Interpreter(python, "given")
    if card is None or card.installed:
        return OWN
    if (found := installed_python(card)) is not None:
        return Interpreter(found, "installed")
    raise card.missing()


def check_python(python: Path, packages: Sequence[str], teacher: str) -> None:
    """Refuse a ``teacher.python`` that is no Python, too old, or lacks a package that a worker imports.

    Raises
    ------
    InputError: it is not there, is no interpreter, or too old. MissingPackageError: a package is missing.
    """
    where = f"teacher {teacher}: teacher.python {python}"
    wanted = f"the path of a Python {LEAST_PYTHON[0]}.{LEAST_PYTHON[1]} or newer"
    if not python.exists():
        raise InputError("there is no such file", where=where, wanted=wanted)
    if not os.access(python, os.X_OK) or python.is_dir():
        raise InputError("not an executable file", where=where, wanted=wanted)
    said = _probe(str(python), ("numpy", "ase", *packages), python.stat().st_mtime_ns)
    if isinstance(said, str):
        raise InputError("not a Python interpreter", where=where, got=said, wanted=wanted)
    version, found = said
    if tuple(version[:2]) < LEAST_PYTHON:
        raise InputError(
            "this Python is too old", where=where, got=".".join(map(str, version)), wanted=wanted
        )
    if missing := [p for p in ("numpy", "ase", *packages) if p not in found]:
        raise MissingPackageError(
            "its environment lacks what a worker imports",
            where=where,
            got=f"no {', '.join(missing)}",
            wanted=", ".join(("numpy", "ase", *packages)),
            remedy=f"{python} -m pip install {' '.join(missing)}",
        )


@functools.lru_cache(maxsize=16)
def _probe(python: str, packages: tuple[str, ...], mtime_ns: int) -> tuple[list[int], list[str]] | str:
    """Version and which ``packages`` it has, or what went wrong; nothing is imported there."""
    try:
        done = subprocess.run(
            [python, "-P", "-c", _PROBE, *packages],
            env=foreign_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        return error.strerror or str(error)
    except subprocess.TimeoutExpired:
        return f"no answer within {_PROBE_TIMEOUT_S} s"
    for line in done.stdout.splitlines():
        if line.startswith("limbeck-probe "):
            version, found = json.loads(line.partition(" ")[2])
            return version, found
    if "unknown option -P" in done.stderr.lower():
        # The flag came with Python 3.11.
        return [0, 0, 0], list(packages)
    words = " ".join((done.stderr or done.stdout).split())[-200:]
    return words or f"exit code {done.returncode} and no answer"
