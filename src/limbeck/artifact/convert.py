"""Older weights: torch state dicts (.pt) saved by Limbeck's modules or by wrappers around them.

A file is read with ``weights_only=True``, so that nothing pickled in it is ever executed.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.artifact.file import (
    StudentArtifact,
    check_weights,
    read_architecture,
    read_baseline,
    write_student,
)  # fmt: skip
from limbeck.core.hashing import hash_file
from limbeck.errors import InputError
from limbeck.students.baseline import Baseline
from limbeck.students.specification import PRESETS, Architecture, preset_architecture, unflatten

_WRAPPERS = ("model_state_dict", "state_dict")
_ENTRY = "limbeck"
#: what a file without an architecture must say besides its weights
_PLAIN = ("elements", "cutoff", "energy_scale")
_USED = (
    "architecture", "energy_references_ev", "zbl_radius_a", "format_version", "limbeck_version", "cutoff_a",
    "dtype", *_PLAIN,
)  # fmt: skip


def convert_checkpoint(old: Path | str, out: Path | str) -> None:
    """Write the student file of a torch state dict.

    The state dict holds the weights by name (``Architecture.parameter_shapes``) or the one
    parameter ``flat``, under any nesting of ``model.``, ``module.`` and ``_orig_mod.``, at the top
    of the file or under ``model_state_dict`` or ``state_dict``. An entry ``limbeck`` (JSON text or
    plain values) gives ``architecture``, ``energy_references_ev`` and ``zbl_radius_a``; without an
    architecture the preset is found from the shapes, given ``elements``, ``cutoff`` (Å) and
    ``energy_scale`` (eV) there or at the top of the file.

    Raises
    ------
    InputError: no such file, pickled code (never executed), a damaged file, something missing,
        names or shapes that do not fit, weights that are not finite.
    """
    old = Path(old)
    state, card = _unwrap(_load(old), old)
    weights = _strip(state, old)
    architecture, preset = _architecture(card, weights, old)
    if set(weights) == {"flat"}:
        weights = _from_flat(architecture, weights["flat"], old)
    check_weights(architecture, weights, old)
    extra = {k: v for k, v in card.items() if k not in _USED}
    extra |= {"converted_from": {"file": old.name, "sha256": hash_file(old)}}
    if preset is not None:
        extra.setdefault("preset", preset)
    write_student(out, StudentArtifact(architecture, _baseline(card, architecture, old), weights, extra))


def checkpoint_state(record: StudentArtifact) -> dict[str, Any]:
    """What ``torch.save`` may write of a student so that ``convert_checkpoint`` reads it again."""
    import torch

    entry = {
        "architecture": record.architecture.to_dict(),
        "energy_references_ev": {str(z): e for z, e in record.baseline.references.items()},
        "zbl_radius_a": {f"{a}-{b}": r for (a, b), r in record.baseline.zbl_radius.items()},
        **record.card,
    }
    weights = {name: torch.from_numpy(np.array(value)) for name, value in record.weights.items()}
    return {"model_state_dict": weights, _ENTRY: json.dumps(entry)}


def _load(path: Path) -> Any:
    import torch

    if not path.is_file():
        raise InputError("no such checkpoint", where=path, wanted="a torch .pt file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise InputError("cannot read the checkpoint", where=path, got=error.strerror) from error
    except (
        pickle.UnpicklingError,
        OSError,
        RuntimeError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:  # fmt: skip  (torch reports a damaged archive through any of these)
        pickled = re.search(r"GLOBAL ([\w.]+)", str(error))
        if pickled is None or not isinstance(error, pickle.UnpicklingError):
            raise InputError(
                "this is no torch checkpoint, or it is damaged",
                where=path,
                wanted="a state dict saved by torch.save",
            ) from error
        raise InputError(
            "the checkpoint holds pickled code, which is never executed",
            where=path,
            got=pickled.group(1),
            wanted="a state dict: tensors and plain values",
            remedy="save model.state_dict() instead of the model",
        ) from error


def _unwrap(content: Any, path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The innermost state dict and what the file says about it."""
    card: dict[str, Any] = {}
    while True:
        if not isinstance(content, Mapping):
            got = type(content).__name__
            raise InputError("the checkpoint holds no state dict", where=path, got=got, wanted="a dict")
        card = {k: content[k] for k in _USED if k in content} | _entry(content.get(_ENTRY), path) | card
        inner = next((name for name in _WRAPPERS if name in content), None)
        if inner is None:
            return content, card
        content = content[inner]


def _entry(entry: Any, path: Path) -> dict[str, Any]:
    got: object = ""
    try:
        # a round trip through JSON leaves plain values only, with text for keys
        fields = json.loads(entry if isinstance(entry, str) else json.dumps(entry or {}))
        if isinstance(fields, dict):
            return fields
        got = type(fields).__name__
    except (TypeError, ValueError) as error:
        got = error
    raise InputError("the entry 'limbeck' is no JSON object", where=path, got=got)


def _strip(state: Mapping[str, Any], path: Path) -> dict[str, np.ndarray]:
    """Tensors by their own names, all float64 where one is, else float32."""
    import torch

    tensors: dict[str, Any] = {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            continue
        own = re.sub(r"^((model|module|_orig_mod)\.)+", "", str(name))
        if own in tensors:
            raise InputError("two weights have one name", where=path, got=repr(own))
        if not value.is_floating_point():
            raise InputError(f"weight {own!r} has the wrong type", where=path, got=value.dtype)
        tensors[own] = value
    if not tensors:
        wanted = "tensors by name, at the top or under " + " or ".join(_WRAPPERS)
        raise InputError("the checkpoint holds no weights", where=path, wanted=wanted)
    kind = torch.float64 if any(v.dtype == torch.float64 for v in tensors.values()) else torch.float32
    return {name: value.detach().to(kind).numpy().copy() for name, value in tensors.items()}


def _architecture(
    card: dict[str, Any], weights: dict[str, np.ndarray], path: Path
) -> tuple[Architecture, str | None]:
    needed = ("architecture",) if "architecture" in card else _PLAIN
    missing = [name for name in (*needed, "energy_references_ev", "zbl_radius_a") if name not in card]
    if missing:
        raise InputError(
            "the checkpoint does not say what its weights need",
            where=path,
            got="no " + ", no ".join(missing),
            remedy="add an entry 'limbeck' with them (zbl_radius_a: {} where there is no core repulsion)",
        )
    if "architecture" in card:
        architecture = read_architecture(card, path)
        shapes = architecture.parameter_shapes()
        fits = (
            p for p in PRESETS if preset_architecture(p, architecture.elements).parameter_shapes() == shapes
        )
        return architecture, next(fits, None)
    wanted = {name: value.shape for name, value in weights.items()}
    for preset in PRESETS:
        architecture = _preset(preset, card, path)
        shapes = architecture.parameter_shapes()
        if wanted in (shapes, {"flat": (architecture.n_parameters,)}):
            return architecture, preset
        if "embedding" in wanted and wanted["embedding"] == shapes["embedding"]:
            # the width tells the preset meant, so the first misfit is named against it
            check_weights(architecture, weights, path)
    sizes = ", ".join(f"{p} {_preset(p, card, path).n_parameters}" for p in PRESETS)
    raise InputError(
        "the weights fit no preset",
        where=path,
        got=f"{sum(v.size for v in weights.values())} values in {len(weights)} arrays "
        f"such as {min(weights)!r}",
        wanted=f"for {len(card['elements'])} elements: {sizes}",
    )


def _preset(preset: str, card: dict[str, Any], path: Path) -> Architecture:
    try:
        elements = tuple(int(z) for z in card["elements"])
        plain = preset_architecture(preset, elements, cutoff=float(card["cutoff"]))
        fields = plain.to_dict() | {"energy_scale": float(card["energy_scale"])}
    except (TypeError, ValueError) as error:
        raise InputError("elements, cutoff or energy_scale do not fit", where=path, got=str(error)) from error
    return read_architecture({"architecture": fields}, path)


def _from_flat(architecture: Architecture, flat: np.ndarray, path: Path) -> dict[str, np.ndarray]:
    wanted = (architecture.n_parameters,)
    if flat.shape != wanted:
        raise InputError("weight 'flat' has the wrong shape", where=path, got=flat.shape, wanted=wanted)
    return {name: value.copy() for name, value in unflatten(architecture, flat).items()}


def _baseline(card: dict[str, Any], architecture: Architecture, path: Path) -> Baseline:
    # a file's plain dict may count elements by integers
    named = {
        name: {str(key): value for key, value in card[name].items()}
        if isinstance(card[name], Mapping)
        else card[name]
        for name in ("energy_references_ev", "zbl_radius_a")
    }
    return read_baseline(named, architecture, path)
