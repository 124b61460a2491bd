"""Environments of teachers: made whole by ``limbeck teachers install`` or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import limbeck
from limbeck.errors import InputError, LimbeckError
from limbeck.teachers.card import TeacherCard
from limbeck.teachers.interpreters import (
    RECORD,
    Interpreter,
    environment_folder,
    foreign_environment,
    installed_python,
)

#: lists of requirements, one file an environment
PINS = Path(__file__).with_name("pins")

Say = Callable[[str], None]


def read_pins(card: TeacherCard) -> tuple[str, ...]:
    """The complete list of requirements that is installed for ``card``'s teacher.

    Where none was frozen, the teacher's requirement with what a worker needs besides.
    """
    path = PINS / f"{card.environment_name}.txt"
    if not path.is_file():
        return (card.requirement, "ase", "numpy")
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line)


def is_current(card: TeacherCard) -> bool:
    """Whether the installed environment was made from today's list."""
    return _recorded(environment_folder(card)) == read_pins(card)


def install_environment(
    card: TeacherCard,
    *,
    folder: Path | None = None,
    python: Path | None = None,
    overwrite: bool = False,
    say: Say = print,
) -> Path:
    """Make the environment of ``card``'s teacher and return its Python.

    It is made under another name, renamed when the teacher's package was seen to load in it, and kept
    as it is where it was made from the same list before. (Scripts in its bin/ name the other folder;
    its Python, which is all that Limbeck uses, does not.)

    Parameters
    ----------
    folder: instead of ``teachers/NAME`` in :func:`limbeck_home`; labelling does not look there by itself.
    python: base interpreter; this one where it fits, else one that is found.
    overwrite: make it anew in any case.

    Raises
    ------
    InputError: the folder holds something else, or no interpreter fits.
    LimbeckError: pip failed, the package does not load, or the folder cannot be written.
    """
    target = environment_folder(card) if folder is None else folder.expanduser().absolute()
    pins = read_pins(card)
    if target.exists() and not (target / RECORD).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(
            "the folder holds something else",
            where=target,
            wanted="a new folder, or an environment made by 'limbeck teachers install'",
            remedy="choose another --dir",
        )
    try:
        with _lock(target):
            found = installed_python(card, target)
            if found is not None and not overwrite and _recorded(target) == pins:
                say(f"{card.environment_name} is installed already in {target}")
                return found
            base = find_base(card, python)
            _make(card, pins, base, target, say)
    except OSError as error:
        raise LimbeckError(
            f"cannot make the environment of teacher {card.name!r}",
            where=error.filename or target,
            got=error.strerror or str(error),
            wanted="a writable folder with a few gigabytes free",
            remedy="set LIMBECK_HOME to such a folder, or give --dir",
        ) from error
    return target / "bin" / "python"


def find_base(card: TeacherCard, python: Path | None = None) -> Path:
    """An interpreter of a version for which the teacher's pins have wheels; this one if it fits.

    Raises
    ------
    InputError: none is found, or the one given is of another version.
    """
    wanted = "Python " + " or ".join(card.pythons)
    if python is not None:
        version = _version_of(str(python))
        if version not in card.pythons:
            raise InputError(
                f"the pins of teacher {card.name!r} are not for this interpreter",
                where=python,
                got=f"Python {version}" if version else "no Python interpreter",
                wanted=wanted,
            )
        return python
    if f"{sys.version_info[0]}.{sys.version_info[1]}" in card.pythons:
        return Path(sys.executable)
    for version in card.pythons:
        path = shutil.which(f"python{version}")
        # A version manager's shim may be there and fail.
        if path is not None and _version_of(path) == version:
            return Path(path)
    raise InputError(
        f"no interpreter for teacher {card.name!r} is found",
        got=f"Python {platform.python_version()} and no other on PATH",
        wanted=wanted,
        remedy="install one and give it as --python PATH",
    )


def _version_of(python: str) -> str | None:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [python, "-c", code],
            env=foreign_environment(), capture_output=True, text=True, check=False, timeout=60,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _make(card: TeacherCard, pins: tuple[str, ...], base: Path, target: Path, say: Say) -> None:
    log = target.with_name(f"{target.name}.log")
    partial = target.with_name(f".{target.name}.partial")
    requirements = partial / "requirements.txt"
    shutil.rmtree(partial, ignore_errors=True)  # of an installation that was interrupted: we hold the lock
    say(f"installing {card.requirement} into {target}: some minutes, 1 to 6 GB; log: {log}")
    try:
        log.write_text("", encoding="utf-8")
        _run([str(base), "-m", "venv", str(partial)], card, log, "making a virtual environment failed")
        requirements.write_text("\n".join(pins) + "\n", encoding="utf-8")
        python = partial / "bin" / "python"
        # Compiling every module takes as long as unpacking; the first start compiles what is used.
        pip = ["-m", "pip", "install", "--no-input", "--no-compile", "--progress-bar", "off"]
        pip += ["--disable-pip-version-check", "-r", str(requirements)]
        _run([str(python), *pip], card, log, "pip failed")
        _smoke(card, python, log)
        record = {
            "environment": card.environment_name,
            "requirements": list(pins),
            "python": str(base),
            "limbeck": limbeck.__version__,
        }
        (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        _put_in_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _smoke(card: TeacherCard, python: Path, log: Path) -> None:
    """Start it as a worker is started, and import what the teacher's loader imports."""
    command = Interpreter(python, "installed").command("limbeck.teachers.smoke", working_folder=False)
    _run([*command, card.smoke or card.package], card, log, "its package does not load")


def _put_in_place(partial: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _run(command: list[str], card: TeacherCard, log: Path, what: str) -> None:
    """Run a command with its words in ``log``; LimbeckError with the last of them where it fails."""
    with open(log, "a", encoding="utf-8") as words:
        words.write(f"$ {' '.join(command[:4])} ...\n")
        words.flush()
        done = subprocess.run(
            command, env=foreign_environment(), stdin=subprocess.DEVNULL, stdout=words,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise LimbeckError(
            what,
            where=f"environment of teacher {card.name}",
            got=_last_words(log) or f"exit code {done.returncode}",
            remedy=f"see {log}; nothing was left installed",
        )


def _last_words(log: Path) -> str:
    """The last error in a log, or its last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("$ ")]
    errors = [line for line in lines if line.lower().startswith("error:")]
    return (errors or lines or [""])[-1][-400:]


def _recorded(folder: Path) -> tuple[str, ...] | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return tuple(record["requirements"])
    except (OSError, ValueError, KeyError, TypeError):
        # No record, or one of a kind that this version does not write: not made from today's list.
        return None


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Hold the right to write ``target``; it ends with the process, however that ends."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.lock")
    while True:
        with open(path, "w", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LimbeckError(
                    "another installation is at work there", where=target, remedy="wait for it to end"
                ) from error
            if not _is_at(path, handle.fileno()):
                continue  # its holder removed it between our opening and locking
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
