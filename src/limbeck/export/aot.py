"""A compiled package by AOTInductor: for this machine's processor, and a C++ compiler must be there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from limbeck.errors import LimbeckError


class NotCompiledError(LimbeckError):
    """There is no package, and whatever else was exported is as good without it."""


def reason_to_skip() -> str | None:
    """Why no package can be compiled here, or None."""
    compiler = os.environ.get("CXX") or next((c for c in ("g++", "clang++") if shutil.which(c)), None)
    return None if compiler else "no C++ compiler (g++, clang++ or $CXX)"


def compile_package(program: Path, package: Path, metadata: str, limit_s: float) -> None:
    """Compile a ``.pt2`` program into ``package``, in a process of its own.

    Raises
    ------
    NotCompiledError: the compiler fails, or takes longer than ``limit_s`` seconds.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "limbeck.export.aot", str(program), str(package)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        _, errors = process.communicate(metadata, timeout=limit_s)
    except BaseException as error:
        # the compiler runs in processes of its own
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise NotCompiledError(
                "AOTInductor did not finish", where=package, got=f"over {limit_s:g} s",
                remedy="--aot-limit 20m, or --no-aot",
            ) from None  # fmt: skip
        raise
    if process.returncode:
        last = ([line for line in errors.split("\n") if line.strip()] or ["nothing said"])[-1]
        raise NotCompiledError("AOTInductor failed", where=package, got=last[:300])


def _compile(program: str, package: str, metadata: str) -> None:
    import torch
    from torch._inductor import aoti_compile_and_package

    loaded = torch.export.load(program)
    aoti_compile_and_package(
        loaded, package_path=package, inductor_configs={"aot_inductor.metadata": {"limbeck": metadata}}
    )


def _end_with_parent(poll_s: float = 1.0) -> None:
    """End this process and its compilers when the one that asked for the package was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(poll_s)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _end_with_parent()
    _compile(sys.argv[1], sys.argv[2], sys.stdin.read())
