"""From arguments to an exit code; any exception becomes one line on stderr."""

from __future__ import annotations

import atexit
import os
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TextIO

import typer

from limbeck.cli.root import Invocation, app
from limbeck.core.devices import missing_torch
from limbeck.core.machine import SHORT_WAIT
from limbeck.errors import LimbeckError, MissingPackageError
from limbeck.progress import process_start


def command_line() -> NoReturn:
    """The program ``limbeck``: one command, then the end of the process.

    What was registered to run at the exit runs. Taking the interpreter apart does not: with torch and
    exporters loaded that frees millions of objects, half a minute on a busy machine, for nothing.
    """
    warnings.showwarning = _say_warning
    for name, value in SHORT_WAIT.items():
        os.environ.setdefault(name, value)
    ended: list[int] = []
    atexit.register(_leave, ended)  # registered first, so it runs last
    ended.append(main())
    sys.exit(ended[0])


def _leave(ended: Sequence[int]) -> None:
    if not ended:
        return  # something that main lets through: the interpreter tells of it
    code = ended[0]
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # whoever read it has gone, or main closed it
            code = code or 1
    os._exit(code)


def _say_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:  # fmt: skip
    """A warning of Limbeck's own as one line, without the place in the code that nobody can mend."""
    own = Path(filename).is_relative_to(Path(__file__).parents[1])
    other = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(f"warning: {message}\n" if own else other)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 only on success, 2 for wrong usage or input."""
    # A budget bounds the whole command, so it counts from where this process began.
    began = process_start() if arguments is None else time.monotonic()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Looked up here because a command may fail before its options are read.
    debug = "--debug" in arguments
    called = Invocation(began, shlex.join(["limbeck", *arguments]))
    try:
        code = int(app(args=arguments, prog_name="limbeck", standalone_mode=False, obj=called) or 0)
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
    # Usage errors are typer's: which module defines them differs between its releases.
    describe, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("limbeck"):
        remedy = "pip install -c constraints.txt -e '.[all]'"
        if (error.name or "").split(".")[0] in ("torch", "lightning_fabric"):
            error = missing_torch(error)
        else:
            error = MissingPackageError(
                "a package is missing", got=f"no module {error.name!r}", remedy=remedy
            )
    if isinstance(error, LimbeckError):
        text, code = str(error), error.exit_code
    elif describe is not None:
        command = context.command_path if context is not None else "limbeck"
        text, code = f"{str(describe()).rstrip('.')}; remedy: see '{command} --help'", 2
    else:
        hint = "" if debug else "; run with --debug for the traceback"
        text, code = f"internal error: {type(error).__name__}: {error}{hint}", 1
    line = text if isinstance(error, LimbeckError) else " ".join(text.split())
    print(f"error: {line}", file=sys.stderr)
    return code
