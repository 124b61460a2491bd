"""The card of a teacher, readable without its package."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from limbeck.core.hashing import hash_file, hash_json
from limbeck.core.potential import AsePotential, Capabilities, Potential
from limbeck.errors import InputError, MissingPackageError
from limbeck.records.label_record import TeacherIdentity

#: values of the option ``dtype`` of networks that support both
DTYPES = ("float32", "float64")
#: result of ``load``: the potential and its number of parameters (None: unknown, or not a network)
Loaded = tuple[Potential, int | None]


@dataclass(frozen=True, kw_only=True)
class TeacherCard(Capabilities):
    """Capabilities and origin of a teacher; reading a card imports nothing.

    Attributes
    ----------
    name, package, requirement: name for ``--teacher``, import name, pinned distribution.
    domain, licence, citation: training data of the weights in words, their licence and publication.
    load: (card, options with defaults, device, model file or None) -> :data:`Loaded`.
    fetch: options -> file of the named model, downloaded by the package if necessary.
    weights: file or folder in the package's folder; None for compiled-in parameters and model files.
    options, choices: keyword arguments with defaults; permitted values of some.
    environment: name of its environment and list of pins; teachers of one package share one.
    smoke: module to import, or ``module:function`` to call, to test an installation; default ``package``.
    pythons: versions of Python for which the pins have wheels.
    file_option: the option for a model file, or None if the weights are in the package.
    suffixes, convert: permitted endings of a model file, and the command that converts others.
    unpickles: the package unpickles the model file, which runs any code stored in it.
    models: names for the option ``model``, each with the fields of the card that it changes.
    """

    name: str
    package: str
    requirement: str
    domain: str
    licence: str
    citation: str
    load: Callable[[TeacherCard, Mapping[str, Any], str, Path | None], Loaded]
    fetch: Callable[[Mapping[str, Any]], Path] | None = None
    weights: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    environment: str = ""
    smoke: str = ""
    pythons: tuple[str, ...] = ("3.11", "3.12", "3.13")
    file_option: str | None = None
    suffixes: tuple[str, ...] = ()
    convert: str | None = None
    unpickles: bool = False
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def distribution(self) -> str:
        """Name for pip."""
        return self.requirement.partition("==")[0]

    @property
    def environment_name(self) -> str:
        """Name of the teacher's environment."""
        return self.environment or self.name

    @property
    def installed(self) -> bool:
        """Whether the package is installed, without importing it."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def remedy(self) -> str:
        """The command that installs it in its own environment."""
        return f"limbeck teachers install {self.name}"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(**{f.name: getattr(self, f.name) for f in fields(Capabilities)})

    def of(self, options: Mapping[str, Any]) -> TeacherCard:
        """The card of the model named in ``options``."""
        model = {**self.options, **options}.get("model")
        return replace(self, **self.models.get(model, {})) if isinstance(model, str) else self

    def potential(self, made: Any, kind: Callable[..., Potential] = AsePotential, **found: Any) -> Potential:
        """``kind`` around a calculator or model, with the card's capabilities updated by ``found``."""
        return kind(made, replace(self.capabilities, **found), self.name)

    def require(self) -> None:
        """Raise MissingPackageError if the package is not installed."""
        if not self.installed:
            what = f"the package of teacher {self.name!r} is not installed"
            got = f"no module {self.package!r}"
            raise MissingPackageError(what, got=got, wanted=self.requirement, remedy=self.remedy)

    def version(self) -> str:
        """Version of the installed package, "" if it is not installed."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return ""

    def weights_hash(self) -> str:
        """SHA-256 of the weights, or of the version that contains them, without importing the package."""
        self.require()
        if self.weights is None:
            return hash_json({"package": self.distribution, "version": self.version()})
        spec = importlib.util.find_spec(self.package)
        folders = list(spec.submodule_search_locations or []) if spec is not None else []
        if paths := [path for folder in folders if (path := Path(folder) / self.weights).exists()]:
            return _hash_weights(paths[0])
        what = f"missing weights of teacher {self.name!r} in the installed package"
        got = f"no file {self.weights} in {folders}"
        raise MissingPackageError(what, got=got, wanted=self.requirement, remedy=self.remedy)

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with defaults filled in; raises InputError for an unknown name or value."""
        for key in options:
            if key not in self.options:
                what = f"unknown option {key!r} for teacher {self.name!r}"
                wanted = nearest(key, self.options) or ", ".join(self.options) or "no options"
                raise InputError(what, wanted=wanted, remedy="remove it or correct the name")
        chosen = {**self.options, **options}
        for key, values in self.choices.items():
            if chosen[key] not in values:
                what = f"unknown {key} for teacher {self.name!r}"
                raise InputError(what, got=chosen[key], wanted=" or ".join(values))
        return chosen

    def model_file(self, options: Mapping[str, Any]) -> Path | None:
        """The model file in ``options``; None for a named model and for weights in the package.

        Raises InputError: the model is missing, or the file is not a model file.
        """
        filled = self.check_options(options)
        if self.file_option is None:
            return None
        value = filled[self.file_option]
        wanted = "a model file" + (f", or one of {', '.join(self.models)}" if self.models else "")
        if value is None and self.file_option == "model":
            what, remedy = f"missing model of teacher {self.name!r}", "give --set teacher.options.model=PATH"
            raise InputError(what, wanted=wanted, remedy=remedy)
        if value is None or (self.file_option == "model" and value in self.models):
            return None
        path = Path(str(value)).expanduser().absolute()
        where = f"teacher {self.name}: {self.file_option} {value}"
        if not path.exists():
            raise InputError("no such file", where=where, wanted=wanted)
        if not path.is_file() or not path.stat().st_size:
            got = "an empty file" if path.is_file() else "a folder"
            raise InputError("not a model file", where=where, got=got, wanted=wanted)
        if self.suffixes and not path.name.endswith(self.suffixes):
            what, wanted = "unknown type of model file", " or ".join(self.suffixes)
            raise InputError(what, where=where, got=path.name, wanted=wanted, remedy=self.convert)
        return path

    def check_trust(self, options: Mapping[str, Any], trust: bool) -> None:
        """Raise InputError if a model file would be unpickled without ``trust``."""
        path = self.model_file(options)
        if path is not None and self.unpickles and not trust:
            what = f"{self.distribution} unpickles a model file, which runs any code stored in it"
            where, wanted = f"teacher {self.name}: {path}", "a file from a source that you trust"
            remedy = "add --trust, or trust: true under teacher in the configuration"
            raise InputError(what, where=where, wanted=wanted, remedy=remedy)

    def identity(
        self, options: Mapping[str, Any], capabilities: Capabilities, weights: Path | None = None
    ) -> TeacherIdentity:
        """Identity of the teacher with these options (defaults filled in) and this model file."""
        named = self.check_options(options)
        if self.model_file(options) is not None:
            named.pop(self.file_option or "")
        return TeacherIdentity(
            name=self.name,
            version=self.version(),
            weights_hash=self.weights_hash() if weights is None else _hash_weights(weights),
            options=json.dumps(named, sort_keys=True),
            precision=capabilities.precision,
        )


def _hash_weights(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files."""
    if not path.is_dir():
        return hash_file(path)
    files = sorted(entry for entry in path.rglob("*") if entry.is_file())
    return hash_json({str(entry.relative_to(path)): hash_file(entry) for entry in files})


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most similar to ``name``, or None."""
    lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.4)
    return lower[found[0]] if found else None
