"""From a YAML file, ``--set`` and the options of a command to a configuration, and back to YAML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from limbeck.config.documents import Document, dump_yaml, parse_override, read_document, validate_document
from limbeck.config.models import SOURCES, DistillConfig, LabelKeys, LabelRunConfig, TrainRunConfig
from limbeck.errors import InputError
from limbeck.teachers.registry import list_cards

Model = TypeVar("Model", bound=BaseModel)

#: options whose key in the configuration is not their own name
_KEY_OF_OPTION = {
    "teacher": ("teacher", "name"),
    "trust": ("teacher", "trust"),
    "epochs": ("training", "epochs"),
    "liquid": ("liquid", "molecules"),
    "density": ("liquid", "density_g_per_cm3"),
    "workers": ("labelling", "workers"),
    "active_learning": ("active_learning", "iterations"),
    "energy_key": ("keys", "energy_key"),
    "forces_key": ("keys", "forces_key"),
    "stress_key": ("keys", "stress_key"),
    "virial_key": ("keys", "virial_key"),
}
_PATHS = ("structures", "val", "out", "init")


def load_config(
    path: Path | str | None = None, overrides: Sequence[str] = (), **options: Any
) -> DistillConfig:
    """The configuration of ``limbeck distill``: file, then ``options``, then ``overrides``.

    Parameters
    ----------
    path: a YAML file; its relative paths start at its folder, all others at the current one.
    overrides: ``"a.b=value"``, the value in YAML, from left to right.
    options: as on the command line, without dashes (``teacher="so3lr"``); None means not given.
        A starting point replaces the file's; another teacher drops the file's options of its own.

    Raises
    ------
    InputError: one line that names the file and line (or the option), the key, and what was wanted.
    """
    return _load(DistillConfig, path, overrides, options)


def load_label_config(overrides: Sequence[str] = (), **options: Any) -> LabelRunConfig:
    """The configuration of ``limbeck label``; as :func:`load_config`, without a file."""
    return _load(LabelRunConfig, None, overrides, options)


def load_train_config(overrides: Sequence[str] = (), **options: Any) -> TrainRunConfig:
    """The configuration of ``limbeck train``; as :func:`load_config`, without a file."""
    return _load(TrainRunConfig, None, overrides, options)


def config_from_values(values: dict[str, Any]) -> DistillConfig:
    """The configuration of ``limbeck distill`` from what its YAML would hold; paths start here.

    Raises
    ------
    InputError: one line that names the key and what was wanted.
    """
    document = Document(values)
    _spell_out(document)
    return validate_document(DistillConfig, document, context={"folder": Path.cwd()})


def load_label_keys(**options: Any) -> LabelKeys:
    """Names of labels from the options of a command."""
    document = Document()
    for name, value in options.items():
        if value is not None:
            document.set((name,), value, _flag(name))
    return validate_document(LabelKeys, document)


def resolved_yaml(config: BaseModel) -> str:
    """Every key with its value, as YAML that loads to an equal configuration."""
    return dump_yaml(_plain(config.model_dump(by_alias=True)))


def _plain(value: Any) -> Any:
    """Lists and strings for tuples and paths; pydantic's own JSON mode would lose infinities."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _load(
    model: type[Model], path: Path | str | None, overrides: Sequence[str], options: dict[str, Any]
) -> Model:
    document = Document() if path is None else read_document(path)
    folder = Path.cwd() if path is None else Path(path).absolute().parent
    _spell_out(document)
    if len(given := [source for source in SOURCES if options.get(source) is not None]) > 1:
        raise InputError(
            "several starting points",
            got=", ".join(map(_flag, given)),
            wanted=f"exactly one of {', '.join(map(_flag, SOURCES))}",
        )
    for name, value in options.items():
        if value is not None:
            _apply_option(model, document, name, value)
    if options.get("density") is not None and "molecules" not in document.values["liquid"]:
        raise InputError(
            "a density without a liquid", where="--density", wanted="--liquid, such as '48 O, 8 CCO'"
        )
    for text in overrides:
        key, value = parse_override(text)
        document.set(key, _from_here(key, value), f"--set {text}")
        _spell_out(document)
    return validate_document(model, document, context={"folder": folder})


def _apply_option(model: type[BaseModel], document: Document, name: str, value: Any) -> None:
    if name in SOURCES:
        for source in SOURCES:
            document.values.pop(source, None)
    if name == "density" and isinstance(liquid := document.values.get("liquid"), dict):
        liquid.pop("box_a", None)
    if name == "teacher":
        known = document.values.get("teacher")
        if not isinstance(known, dict) or known.get("name") != value:
            document.values["teacher"] = {}
    keys = [_KEY_OF_OPTION.get(name, (name,))]
    if name == "device":
        keys = [(part, "device") for part in ("labelling", "training") if part in model.model_fields]
    for key in keys:
        document.set(key, _from_here(key, value), _flag(name))


def _flag(name: str) -> str:
    named = {"presets": "preset", "temperatures_K": "temperatures"}
    return "--" + named.get(name, name).replace("_", "-")


def _from_here(key: tuple[str | int, ...], value: Any) -> Any:
    """Paths of the command line are relative to the current folder, not to the file's."""
    if not isinstance(value, str | Path):
        return value
    if key[:2] == ("teacher", "options") and key[2:] in {(card.file_option,) for card in list_cards()}:
        # It may be a model's name; only what is a file here is taken for one.
        return str(Path(value).expanduser().absolute()) if Path(value).expanduser().is_file() else value
    if key != ("teacher", "python") and (key[0] not in _PATHS or len(key) != 1):
        return value
    if key[0] == "val" and _is_number(value):
        return value
    return str(Path(os.path.expanduser(value)).absolute())


def _is_number(value: str | Path) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


#: keys that may hold one value in place of their mapping, and what that value is called in it
_SHORT = {"teacher": (str, "name"), "active_learning": (int, "iterations")}


def _spell_out(document: Document) -> None:
    """``teacher: NAME`` becomes ``teacher: {name: NAME}``, so that one part of it can be set."""
    for key, (kind, name) in _SHORT.items():
        if isinstance(value := document.values.get(key), kind):
            document.values[key] = {name: value}
            if (key,) in document.origins:
                document.origins[(key, name)] = document.origins[(key,)]
