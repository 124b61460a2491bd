"""Whether PyTorch is here and can use a device, asked before any work."""

from __future__ import annotations

import re

from limbeck.errors import InputError, MissingPackageError


def require_device(device: str) -> None:
    """Refuse a device that is not here; the CPU always is, and asks for no PyTorch.

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
            remedy="give --device cpu; limbeck doctor says more",
        )
    number, count = int(device.partition(":")[2] or 0), torch.cuda.device_count()
    if number >= count:
        raise InputError("PyTorch finds no such GPU", got=device, wanted=f"cuda:0 to cuda:{count - 1}")


def require_torch(where: str | None = None) -> None:
    """MissingPackageError, naming what asks for it, where PyTorch is not installed."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "PyTorch is not installed", where=where, wanted="torch", remedy="pip install 'limbeck[train]'"
        ) from error
