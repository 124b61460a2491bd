"""YAML files in and out, overrides, and validation errors that name the key and the line.

The dialect is YAML 1.2's core for scalars: only ``true`` and ``false`` are booleans and ``1e-3``
is a number. (In YAML 1.1, PyYAML's own, the molecule ``NO`` is the boolean false.)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from limbeck.errors import InputError

Key = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_CORE_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_CORE_FLOAT = re.compile(
    r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)
_DROPPED = {_BOOL, _FLOAT, "tag:yaml.org,2002:timestamp"}


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's booleans and numbers."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes whatever :class:`_Loader` would not read back as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _DROPPED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _class.add_implicit_resolver(_BOOL, _CORE_BOOL, list("tTfF"))
    _class.add_implicit_resolver(_FLOAT, _CORE_FLOAT, list("-+0123456789."))


@dataclass
class Document:
    """Values on their way to a model, and where each was said.

    Attributes
    ----------
    values: nested mappings as YAML gives them.
    origins: where a key stands (``file:line`` or the option's text), for messages.
    source: the file's name, or None where the command line says everything.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)
    source: str | None = None

    def where(self, key: Key) -> str | None:
        """Where ``key`` or the nearest mapping that would hold it stands, if that is known."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.origins:
                return self.origins[key[:length]]
        return self.source

    def set(self, key: Key, value: Any, origin: str) -> None:
        """Put ``value`` at ``key``, making the mappings on the way.

        Raises
        ------
        InputError: the key goes through a scalar or beyond the end of a list.
        """
        here: Any = self.values
        for depth, part in enumerate(key):
            index: Any = int(part) if isinstance(here, list) and str(part).isdigit() else part
            if isinstance(here, list) and not (isinstance(index, int) and index < len(here)):
                raise InputError(
                    f"no entry {part!r} in {dotted(key[:depth])!r}",
                    where=origin,
                    wanted=f"a number from 0 to {len(here) - 1}" if here else "a list with entries",
                )
            if not isinstance(here, dict | list):
                name = dotted(key[:depth])
                raise InputError(
                    f"{name!r} is a single value and has no {part!r}", where=origin, got=repr(here)
                )
            if depth == len(key) - 1:
                here[index] = value
                break
            if isinstance(here, dict) and here.get(index) is None:
                here[index] = {}
            here = here[index]
        self.origins = {k: old for k, old in self.origins.items() if k[: len(key)] != key} | {key: origin}


def dotted(key: Key) -> str:
    """``("sampling", "steps", 0)`` as ``sampling.steps.0``."""
    return ".".join(str(part) for part in key)


def read_document(path: Path | str) -> Document:
    """A YAML file as a :class:`Document`; an empty file has no values.

    Raises
    ------
    InputError: not readable, not YAML (with line and column), not a mapping, a key twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError("no such file", where=path, wanted="a YAML configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError("cannot read the configuration", where=path, got=reason) from error
    value, origins = _parse(text, str(path))
    if not isinstance(value, dict | None):
        raise InputError(
            "not a configuration",
            where=path,
            got=f"a {type(value).__name__} at the top",
            wanted="keys and values, such as 'teacher: sevennet-0'",
        )
    return Document(value or {}, origins, str(path))


def parse_override(text: str) -> tuple[Key, Any]:
    """``"training.epochs=30"`` as a key and a YAML value.

    Raises
    ------
    InputError: no ``=``, an empty part in the key, or a value that is not YAML.
    """
    name, equals, value = text.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise InputError("not an override", where="--set", got=repr(text), wanted="key.subkey=value")
    return tuple(parts), _parse(value, f"--set {text}")[0]


def dump_yaml(values: Mapping[str, Any]) -> str:
    """YAML text that :func:`read_document` reads back to the same values."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def validate_document(model: type[Model], document: Document, context: Any = None) -> Model:
    """``document`` as a ``model``; the first thing wrong becomes an InputError of one line."""
    try:
        return model.model_validate(document.values, context=context)
    except ValidationError as error:
        raise _explain(model, document, error) from None


def _parse(text: str, source: str) -> tuple[Any, dict[Key, str]]:
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        origins = {key: f"{source}:{line}" for key, line in _lines(node, source)}
        return loader.construct_document(node), origins
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise InputError(f"not valid YAML: {error.problem or error.context}", where=place) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"not valid YAML: {error.reason}", where=f"{source}:{line}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _lines(
    node: yaml.Node, source: str, key: Key = (), above: tuple[int, ...] = ()
) -> Iterator[tuple[Key, int]]:
    """Key and line (from 1) of every entry below ``node``; refuses a key that stands twice."""
    if id(node) in above:
        raise InputError("an alias refers to itself", where=f"{source}:{node.start_mark.line + 1}")
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for name, value in node.value:
            line = name.start_mark.line + 1
            text = name.value if isinstance(name, yaml.ScalarNode) else repr(name.tag)
            if text in first and text != "<<":
                raise InputError(
                    f"key {dotted((*key, text))!r} stands twice",
                    where=f"{source}:{line}",
                    got=f"it first in line {first[text]}",
                    remedy="keep one of them",
                )
            first[text] = line
            yield (*key, text), line
            yield from _lines(value, source, (*key, text), above)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*key, index), value.start_mark.line + 1
            yield from _lines(value, source, (*key, index), above)


def nearest(name: str, names: Sequence[str]) -> str:
    """The closest of ``names``, quoted, or all of them where none is close."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.55)
    return repr(close[0]) if close else "one of " + ", ".join(names)


def _real_key(location: Sequence[str | int], values: Any) -> Key:
    """pydantic's location without the tags of unions, which are in no file."""
    key: list[str | int] = []
    for position, part in enumerate(location):
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            # Not in the file: a union's tag, unless it is the missing key itself.
            if position < len(location) - 1 or not isinstance(values, dict):
                continue
        key.append(part)
    return tuple(key)


def _explain(model: type[BaseModel], document: Document, error: ValidationError) -> InputError:
    """The first error as one line; an unknown key goes before what follows from it."""
    errors = error.errors(include_url=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    kind, context = first["type"], first.get("ctx", {})
    key = _real_key(first["loc"], document.values)
    where, name, cause = document.where(key), dotted(key), context.get("error")
    if kind == "extra_forbidden":
        parent, names = dotted(key[:-1]), _names_at(model, key[:-1], document.values)
        wanted = nearest(str(key[-1]), names) + (f" in {parent!r}" if parent else "")
        return InputError(f"unknown key {name!r}", where=where, wanted=wanted)
    if kind in ("missing", "union_tag_not_found"):
        found = (_missing_key(e, document) for e in errors if e["type"] in ("missing", "union_tag_not_found"))
        names = [repr(one) for one in dict.fromkeys(found)]
        if len(names) == 1:
            return InputError(f"key {names[0]} is missing", where=where, wanted="a value for it")
        what = f"keys {', '.join(names)} are missing"
        return InputError(what, where=document.source or where, wanted="values for them")
    if kind == "union_tag_invalid":
        names = [tag.strip().strip("'") for tag in context["expected_tags"].split(",")]
        what = f"unknown {context['discriminator'].strip(chr(39))} {context['tag']!r} in {name!r}"
        return InputError(what, where=where, wanted=nearest(context["tag"], names))
    if isinstance(cause, InputError):
        what = f"{name}: {cause.what}" if name else cause.what
        return InputError(what, where=where, got=cause.got, wanted=cause.wanted, remedy=cause.remedy)
    if cause is not None:
        return InputError(f"{name}: {cause}" if name else str(cause), where=where)
    # Members of a union fail one by one, in the same place: any of them would have done.
    same = [e for e in errors if _real_key(e["loc"], document.values) == key]
    got = repr(first["input"])
    return InputError(
        f"wrong value for {name!r}" if name else "wrong configuration",
        where=where,
        got=got if len(got) <= 80 else got[:77] + "...",
        wanted=" or ".join(dict.fromkeys(map(_wanted, same))),
    )


def _missing_key(error: Mapping[str, Any], document: Document) -> str:
    key = _real_key(error["loc"], document.values)
    tag = (error["ctx"]["discriminator"].strip("'"),) if error["type"] == "union_tag_not_found" else ()
    return dotted((*key, *tag))


def _wanted(error: Mapping[str, Any]) -> str:
    """pydantic's message as what was wanted: ``a number``, ``'cpu' or 'cuda'``, ``greater than 0``."""
    if error["type"] in ("model_type", "model_attributes_type"):
        return "keys and values"
    text = str(error["msg"]).removeprefix("Input should be ").split(", unable to parse")[0]
    return text.replace("a valid ", "a ")


def _names_at(model: type[BaseModel], key: Key, values: Any) -> list[str]:
    """Names of the fields that may stand at ``key`` of ``model``, in order of definition.

    ``values`` is the input as read; where a union is told apart by a tag (``kind: rattle``), the
    value that stands there chooses the member.
    """
    models = [model]
    for part in key:
        if isinstance(part, str):  # models of a list's elements were collected with the list itself
            infos = [m.model_fields[part] for m in models if part in m.model_fields]
            models = [inner for info in infos for inner in _models_in(info.annotation)]
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            values = None
        if len(models) > 1 and isinstance(values, dict):
            models = [m for m in models if _agrees(m, values)] or models
    return list(dict.fromkeys(info.alias or name for m in models for name, info in m.model_fields.items()))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every model a value of this type could be, or hold as an element."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin not in (Annotated, Union, UnionType, list, tuple, set, frozenset, dict):
        return []
    return [m for one in (inner[:1] if origin is Annotated else inner) for m in _models_in(one)]


def _agrees(model: type[BaseModel], values: Mapping[str, Any]) -> bool:
    """Whether the model's single-valued fields (tags) are those of ``values``."""
    options = {name: get_args(info.annotation) for name, info in model.model_fields.items()}
    return all(values[n] in o for n, o in options.items() if len(o) == 1 and n in values)
