"""Which keys a configuration knows at a place: what an unknown key is compared with."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel


def names_at(model: type[BaseModel], key: tuple[str | int, ...], values: Any) -> list[str]:
    """Names of the fields that may stand at ``key`` of ``model``, in order of definition.

    ``values`` is the input as read; where a union is told apart by a tag (``step: rattle``), the
    value that stands there chooses the member.
    """
    models: list[type[BaseModel]] = [model]
    for depth in range(len(key) + 1):
        models = _matching(models, values)
        if depth == len(key):
            break
        part = key[depth]
        inner: list[type[BaseModel]] = []
        for candidate in models:
            if isinstance(part, str) and part in candidate.model_fields:
                inner += _models_in(candidate.model_fields[part].annotation)
        # An index steps into a list whose element models were collected with the list itself.
        models = models if isinstance(part, int) else inner
        values = _step(values, part)
    names = [_outer_name(name, f) for candidate in models for name, f in candidate.model_fields.items()]
    return list(dict.fromkeys(names))


def _outer_name(name: str, info: Any) -> str:
    return info.alias or name


def _step(values: Any, part: str | int) -> Any:
    try:
        return values[part]
    except (KeyError, IndexError, TypeError):
        return None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every model a value of this type could be, or hold as an element."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = get_origin(annotation)
    if origin is Annotated:
        return _models_in(get_args(annotation)[0])
    if origin in (Union, UnionType, list, tuple, set, frozenset, dict):
        return [found for argument in get_args(annotation) for found in _models_in(argument)]
    return []


def _matching(models: list[type[BaseModel]], values: Any) -> list[type[BaseModel]]:
    """Of several models, those whose single-valued fields (tags) agree with ``values``."""
    if len(models) < 2 or not isinstance(values, dict):
        return models

    def agrees(model: type[BaseModel]) -> bool:
        for name, info in model.model_fields.items():
            options = get_args(info.annotation)
            if len(options) == 1 and name in values and values[name] not in options:
                return False
        return True

    return [model for model in models if agrees(model)] or models
