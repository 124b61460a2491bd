"""Older weights: torch state dicts (.pt) saved by Limbeck's modules or by wrappers around them.

A file is read with ``weights_only=True``, so that nothing pickled in it is ever executed.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.artifact.file import StudentArtifact, check_weights, read_parts, write_student
from limbeck.core.hashing import hash_file
from limbeck.errors import InputError
from limbeck.students.specification import PRESETS, preset_architecture, unflatten

_WRAPPERS = ("model_state_dict", "state_dict")
_ENTRY = "limbeck"
#: needed in addition to the weights; the second row stands for an architecture
_BASELINE = ("energy_references_ev", "zbl_radius_a")
_PLAIN = ("elements", "cutoff", "energy_scale")


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
    needed = ("architecture",) if "architecture" in card else _PLAIN
    missing = [name for name in (*needed, *_BASELINE) if name not in card]
    if missing:
        got = "no " + ", no ".join(missing)
        remedy = "add an entry 'limbeck' with them (zbl_radius_a: {} where there is no core repulsion)"
        what = "the checkpoint lacks what its weights need"
        raise InputError(what, where=old, got=got, remedy=remedy)
    if "architecture" not in card:
        card["architecture"] = _find_preset(card, weights, old)
    architecture, baseline = read_parts(card, old)
    shapes = architecture.parameter_shapes()
    if set(weights) == {"flat"}:
        flat, wanted = weights["flat"], (architecture.n_parameters,)
        if flat.shape != wanted:
            raise InputError("weight 'flat' has the wrong shape", where=old, got=flat.shape, wanted=wanted)
        weights = {name: value.copy() for name, value in unflatten(architecture, flat).items()}
    check_weights(architecture, weights, old)
    record = StudentArtifact(architecture, baseline, weights)
    used = {*record.own_fields(), *_PLAIN}
    extra = {k: v for k, v in card.items() if k not in used}
    extra |= {"converted_from": {"file": old.name, "sha256": hash_file(old)}}
    for preset in PRESETS:
        if preset_architecture(preset, architecture.elements).parameter_shapes() == shapes:
            extra.setdefault("preset", preset)
    write_student(out, replace(record, card=extra))


def _load(path: Path) -> Any:
    import torch

    if not path.is_file():
        raise InputError("no such checkpoint", where=path, wanted="a torch .pt file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise InputError("cannot read the checkpoint", where=path, got=error.strerror) from error
    except pickle.UnpicklingError as error:
        pickled = re.search(r"GLOBAL ([\w.]+)", str(error))
        if pickled is None:
            raise _damaged(path) from error
        what, got = "the checkpoint holds pickled code, which is never executed", pickled.group(1)
        wanted, remedy = "a state dict: tensors and plain values", "save model.state_dict(), not the model"
        raise InputError(what, where=path, got=got, wanted=wanted, remedy=remedy) from error
    # torch reports a damaged archive through any of these
    except (OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> InputError:
    wanted = "a state dict saved by torch.save"
    return InputError("this is no torch checkpoint, or it is damaged", where=path, wanted=wanted)


def _unwrap(content: Any, path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The innermost state dict and what the file has on it."""
    card: dict[str, Any] = {}
    while True:
        if not isinstance(content, Mapping):
            got = type(content).__name__
            raise InputError("the checkpoint holds no state dict", where=path, got=got, wanted="a dict")
        top = {k: content[k] for k in ("architecture", *_BASELINE, *_PLAIN) if k in content}
        card = top | _entry(content.get(_ENTRY), path) | card
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


def _find_preset(card: dict[str, Any], weights: dict[str, np.ndarray], path: Path) -> dict[str, Any]:
    """The architecture of the preset that has the weights' width or their number."""
    try:
        elements, cutoff = tuple(int(z) for z in card["elements"]), float(card["cutoff"])
        known = {preset: preset_architecture(preset, elements, cutoff=cutoff) for preset in PRESETS}
        scale = float(card["energy_scale"])
    except (TypeError, ValueError) as error:
        raise InputError("elements, cutoff or energy_scale do not fit", where=path, got=error) from error
    shapes = {name: value.shape for name, value in weights.items()}
    for one in known.values():
        flat = shapes == {"flat": (one.n_parameters,)}
        if flat or shapes.get("embedding") == one.parameter_shapes()["embedding"]:
            return one.to_dict() | {"energy_scale": scale}
    values = sum(value.size for value in weights.values())
    got = f"{values} values in {len(weights)} arrays such as {min(weights)!r}"
    sizes = ", ".join(f"{preset} {one.n_parameters}" for preset, one in known.items())
    wanted = f"for {len(elements)} elements: {sizes}"
    raise InputError("the weights fit no preset", where=path, got=got, wanted=wanted)
