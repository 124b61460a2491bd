"""Checks that PyTorch is installed and can use a device, before any work."""

from __future__ import annotations

import re

from limbeck.errors import InputError, MissingPackageError

REMEDY = "pip install 'limbeck[train]'"


def require_device(device: str) -> None:
    """Refuse a device that is missing; the CPU never is, and needs no PyTorch.

    Raises
    ------
    InputError: no such device. MissingPackageError: a GPU is asked for and PyTorch is not installed.
    """
    if device == "cpu":
        return
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise InputError("unknown device", got=repr(device), wanted="cpu, cuda or cuda:1")
    require_torch()
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            "PyTorch finds no GPU here",
            got=f"torch {torch.__version__}",
            wanted="a CUDA device and a build of torch for it",
            remedy="give --device cpu; limbeck doctor shows details",
        )
    number, count = int(device.partition(":")[2] or 0), torch.cuda.device_count()
    if number >= count:
        raise InputError("PyTorch finds no such GPU", got=device, wanted=f"cuda:0 to cuda:{count - 1}")


def require_training(device: str) -> None:
    """Refuse training without its packages or its device."""
    require_torch("training")
    require_device(device)


def require_torch(where: str | None = None) -> None:
    """MissingPackageError, naming what asks for it, where PyTorch is not installed."""
    try:
        import lightning_fabric  # noqa: F401
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_torch(error, where) from error


def missing_torch(error: ModuleNotFoundError, where: str | None = None) -> MissingPackageError:
    """The error for a missing module of the extra ``train``."""
    return MissingPackageError(
        "PyTorch is not installed", where=where, got=f"no module {error.name!r}", remedy=REMEDY
    )
