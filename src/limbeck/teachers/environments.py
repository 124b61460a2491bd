"""Python environments of teachers: which one a worker uses, how it starts there, how it is installed.

A worker runs in Limbeck's own Python, in one installed by ``limbeck teachers install``, or in the one of
``teacher.python``. Limbeck is not installed in the last two: the worker imports it from this installation's
folder and sees none of the user's other packages.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import limbeck
from limbeck.errors import InputError, LimbeckError, MissingPackageError
from limbeck.teachers.card import TeacherCard

#: oldest Python for workers
LEAST_PYTHON = (3, 11)
#: file that marks a complete environment and lists its contents
RECORD = "limbeck.json"
#: lists of requirements, one file per environment
PINS = Path(__file__).with_name("pins")
_SOURCE = Path(limbeck.__file__).resolve().parent
_WORKER_NEEDS = ("numpy", "ase")

# PYTHONPATH cannot give Limbeck's folder to another Python: usually that folder is site-packages, and the
# other packages in it would hide those of the environment.
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
_SHORT_S = 120


@dataclass(frozen=True)
class Interpreter:
    """A Python for workers: that of this process, installed by Limbeck, or given by the user."""

    path: Path
    kind: Literal["own", "installed", "given"]

    def command(self, module: str, *, working_folder: bool = True) -> list[str]:
        """Arguments that run ``module`` of this Limbeck.

        working_folder: modules in the current folder can be imported, as ``module:callable`` needs.
        """
        if self.kind == "own":
            return [str(self.path), "-m", module]
        flags = [] if working_folder else ["-P"]
        return [str(self.path), *flags, "-c", _BOOTSTRAP, str(_SOURCE), module]

    def environment(self) -> dict[str, str]:
        """Environment variables of its processes."""
        if self.kind != "own":
            return foreign_environment()
        paths = filter(None, [str(_SOURCE.parent), os.environ.get("PYTHONPATH")])
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


OWN = Interpreter(Path(sys.executable), "own")


def foreign_environment() -> dict[str, str]:
    """Environment variables without those that point Python to the packages of this process."""
    dropped = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONSAFEPATH", "VIRTUAL_ENV"}
    return {k: v for k, v in os.environ.items() if k not in dropped} | {"PYTHONNOUSERSITE": "1"}


def limbeck_home() -> Path:
    """Limbeck's data folder: $LIMBECK_HOME, else limbeck/ in the user's data folder (XDG)."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(os.environ.get("LIMBECK_HOME") or f"{data}/limbeck").expanduser().absolute()


def environment_folder(card: TeacherCard) -> Path:
    """Folder of the teacher's environment, as made by ``limbeck teachers install``."""
    return limbeck_home() / "teachers" / card.environment_name


def installed_python(card: TeacherCard, folder: Path | None = None) -> Path | None:
    """The Python of the teacher's complete environment, or None."""
    folder = environment_folder(card) if folder is None else folder
    python = folder / "bin" / "python"
    # is_file follows the link to the base interpreter, which may have been removed
    return python if (folder / RECORD).is_file() and python.is_file() else None


def find_interpreter(card: TeacherCard | None, python: Path | None = None, name: str = "") -> Interpreter:
    """The Python for a teacher's workers: the given one, else this one, else the installed one.

    ``card`` is None for ``module:callable``; ``python`` is ``teacher.python``; ``name`` is for messages.
    Raises InputError: ``python`` is not usable. MissingPackageError: the teacher is not installed.
    """
    if python is not None:
        check_python(python, [] if card is None else [card.package], name or (card.name if card else ""))
        return Interpreter(python, "given")
    if card is not None and not card.installed:
        if (found := installed_python(card)) is not None:
            return Interpreter(found, "installed")
        card.require()
    return OWN


def check_python(python: Path, packages: Sequence[str], teacher: str) -> None:
    """Check that ``teacher.python`` is a recent Python with the packages that a worker imports."""
    where = f"teacher {teacher}: teacher.python {python}"
    wanted = f"the path of a Python {LEAST_PYTHON[0]}.{LEAST_PYTHON[1]} or newer"
    if not python.exists():
        raise InputError("no such file", where=where, wanted=wanted)
    if not os.access(python, os.X_OK) or python.is_dir():
        raise InputError("not an executable file", where=where, wanted=wanted)
    needed = (*_WORKER_NEEDS, *packages)
    answer = _probe(str(python), needed)
    if isinstance(answer, str):
        raise InputError("not a Python interpreter", where=where, got=answer, wanted=wanted)
    version, found = answer
    if tuple(version[:2]) < LEAST_PYTHON:
        raise InputError("Python is too old", where=where, got=".".join(map(str, version)), wanted=wanted)
    if missing := [package for package in needed if package not in found]:
        got, remedy = f"no {', '.join(missing)}", f"{python} -m pip install {' '.join(missing)}"
        what, wanted = "missing packages in the environment", ", ".join(needed)
        raise MissingPackageError(what, where=where, got=got, wanted=wanted, remedy=remedy)


def _probe(python: str, packages: Sequence[str] = ()) -> tuple[list[int], list[str]] | str:
    """Version and installed ones of ``packages`` (nothing is imported), or an error message."""
    # without the working folder, also in old versions
    code, output, errors = run_short([python, "-I", "-c", _PROBE, *packages], foreign_environment())
    for line in output.splitlines():
        if line.startswith("limbeck-probe "):
            version, found = json.loads(line.partition(" ")[2])
            return version, found
    return " ".join((errors or output).split())[-200:] or f"exit code {code} and no answer"


def run_short(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """(exit code, output, errors) of a short command; 1 and the reason where it does not start or end."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_SHORT_S, check=False, env=environment,
        )  # fmt: skip
    except OSError as error:
        return 1, "", error.strerror or str(error)
    except subprocess.TimeoutExpired:
        return 1, "", f"no answer within {_SHORT_S} s"
    return done.returncode, done.stdout, done.stderr


def read_pins(card: TeacherCard) -> tuple[str, ...]:
    """Requirements of the teacher's environment."""
    lines = (PINS / f"{card.environment_name}.txt").read_text(encoding="utf-8").splitlines()
    return tuple(pin for line in lines if (pin := line.partition("#")[0].strip()))


def is_current(card: TeacherCard, folder: Path | None = None) -> bool:
    """Whether the environment was installed from the current list."""
    folder = environment_folder(card) if folder is None else folder
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return tuple(record["requirements"]) == read_pins(card)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # no record, or an unknown one


def install_environment(
    card: TeacherCard,
    *,
    folder: Path | None = None,
    python: Path | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Install the environment of a teacher and return its Python.

    It is made under a temporary name and renamed after the package was imported in it (its scripts refer to
    the temporary folder, its Python does not). An existing environment from the same list is kept.

    Parameters
    ----------
    folder: default ``teachers/NAME`` in :func:`limbeck_home`; others are not found by labelling.
    python: base interpreter; default this one or another suitable one.
    overwrite: replace an existing environment.

    Raises
    ------
    InputError: the folder is not an environment, or there is no suitable interpreter.
    LimbeckError: pip failed, the package cannot be imported, or the folder is not writable.
    """
    target = environment_folder(card) if folder is None else folder.expanduser().absolute()
    if target.exists() and not (target / RECORD).is_file() and (not target.is_dir() or any(target.iterdir())):
        wanted = "a new folder, or an environment made by 'limbeck teachers install'"
        what, remedy = "folder is not an environment of a teacher", "choose another --dir"
        raise InputError(what, where=target, wanted=wanted, remedy=remedy)
    try:
        with _lock(target):
            found = installed_python(card, target)
            if found is not None and not overwrite and is_current(card, target):
                say(f"{card.environment_name} is already installed in {target}")
                return found
            base = find_base(card, python)
            log = target.with_name(f"{target.name}.log")
            say(f"installing {card.requirement} into {target}: some minutes, 1 to 6 GB; log: {log}")
            _make(card, base, target, log)
    except OSError as error:
        what, where = f"cannot create the environment of teacher {card.name!r}", error.filename or target
        got, wanted = error.strerror or str(error), "a writable folder with a few gigabytes free"
        remedy = "set LIMBECK_HOME to such a folder, or give --dir"
        raise LimbeckError(what, where=where, got=got, wanted=wanted, remedy=remedy) from error
    return target / "bin" / "python"


def find_base(card: TeacherCard, python: Path | None = None) -> Path:
    """An interpreter for which the teacher's pins have wheels, preferably this one."""
    wanted = "Python " + " or ".join(card.pythons)
    if python is not None:
        version = _version(str(python))
        if version not in card.pythons:
            what = f"unsuitable interpreter for teacher {card.name!r}"
            got = f"Python {version}" if version else "no Python interpreter"
            raise InputError(what, where=python, got=got, wanted=wanted)
        return python
    if "{}.{}".format(*sys.version_info) in card.pythons:
        return Path(sys.executable)
    for version in card.pythons:
        path = shutil.which(f"python{version}")
        # the shim of a version manager may exist and fail
        if path is not None and _version(path) == version:
            return Path(path)
    what, got = f"no suitable interpreter for teacher {card.name!r}", platform.python_version()
    remedy = "install one and give --python PATH"
    raise InputError(what, got=f"Python {got} and no other on PATH", wanted=wanted, remedy=remedy)


def _version(python: str) -> str | None:
    answer = _probe(python)
    return None if isinstance(answer, str) else "{}.{}".format(*answer[0])


def _make(card: TeacherCard, base: Path, target: Path, log: Path) -> None:
    partial, old = (target.with_name(f".{target.name}.{kind}") for kind in ("partial", "old"))
    for left in (partial, old):  # of an interrupted installation: this process holds the lock
        shutil.rmtree(left, ignore_errors=True)
    python, pins = partial / "bin" / "python", read_pins(card)
    try:
        log.write_text("", encoding="utf-8")
        _run([str(base), "-m", "venv", str(partial)], card, log, "cannot create a virtual environment")
        requirements = partial / "requirements.txt"
        requirements.write_text("\n".join(pins) + "\n", encoding="utf-8")
        # compiling all modules takes as long as unpacking; the first start compiles those in use
        flags = ["--no-input", "--no-compile", "--progress-bar=off", "--disable-pip-version-check"]
        pip = [str(python), "-m", "pip", "install", *flags, "-r", str(requirements)]
        _run(pip, card, log, "pip failed")
        # started like a worker, it imports what the teacher's loader imports
        smoke = Interpreter(python, "installed").command("limbeck.teachers.smoke", working_folder=False)
        _run([*smoke, card.smoke or card.package], card, log, "cannot import the package")
        record = {"requirements": list(pins), "python": str(base), "limbeck": limbeck.__version__}
        (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if target.exists():
            target.rename(old)
        partial.rename(target)
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def _run(command: list[str], card: TeacherCard, log: Path, what: str) -> None:
    """Run a command with its output in ``log``; LimbeckError with the last error line if it fails."""
    with open(log, "a", encoding="utf-8") as output:
        output.write(f"$ {' '.join(command[:4])} ...\n")
        output.flush()
        done = subprocess.run(
            command, env=foreign_environment(), stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        lines = [line for line in lines if line and not line.startswith("$ ")]
        errors = [line for line in lines if line.lower().startswith("error:")]
        got = (errors or lines or [f"exit code {done.returncode}"])[-1][-400:]
        where, remedy = f"environment of teacher {card.name}", f"see {log}; nothing was installed"
        raise LimbeckError(what, where=where, got=got, remedy=remedy)


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Lock ``target`` for writing; the lock ends with the process, its empty file stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{target.name}.lock"), "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what, remedy = "another installation is running", "wait for it to end"
            raise LimbeckError(what, where=target, remedy=remedy) from error
        yield
