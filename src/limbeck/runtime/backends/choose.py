"""The backend for a student: the compiled core on the CPU, else PyTorch."""

from __future__ import annotations

import warnings

from limbeck.artifact.file import StudentArtifact
from limbeck.runtime.backends.interface import Backend
from limbeck.runtime.backends.native import NativeBackend
from limbeck.runtime.backends.torch import TorchBackend
from limbeck.students.engine import EngineKind, Precision, native_available, require_native


def make_backend(
    record: StudentArtifact, *, kind: EngineKind, precision: Precision, device: str, where: str
) -> Backend:
    """The compiled core on the CPU, else PyTorch.

    Raises
    ------
    LimbeckError: ``kind`` is native and the core is not built.
    MissingPackageError: PyTorch is needed and not installed.
    """
    if kind == "auto" and device == "cpu" and not native_available():
        warnings.warn(
            f"{where}: the native core is not built, so PyTorch runs this student, many times slower; "
            "remedy: install a C++17 compiler, then pip install -c constraints.txt -e .",
            stacklevel=3,
        )
        kind = "torch"
    if kind == "torch" or device != "cpu":
        return TorchBackend(record, precision=precision, device=device)
    require_native()
    return NativeBackend(record, precision=precision)
