"""What is known of a teacher before it is loaded: its card, and the identity that keys its labels."""

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


@dataclass(frozen=True)
class TeacherIdentity:
    """Which numbers a label holds: the same identity gives the same labels.

    Attributes
    ----------
    name: the teacher's name, such as ``sevennet-0`` or ``ase.calculators.emt:EMT``.
    version: version of its package ("" where unknown); told, but not part of a label's key.
    weights_hash: SHA-256 of the weights, for ``module:callable`` of the source and the files it is given.
    options: keyword arguments that change the numbers, as JSON with sorted keys.
    precision: arithmetic of the evaluation.

    A model file stands in ``weights_hash`` and not in ``options``: where it lies changes no label.
    """

    name: str
    version: str
    weights_hash: str
    options: str = "{}"
    precision: str = "float64"


#: of networks that may be evaluated in either
DTYPES = ("float32", "float64")
#: what a card's ``load`` gives: the teacher, and how many weights it has (None: not known, or no network)
Loaded = tuple[Potential, int | None]


@dataclass(frozen=True, kw_only=True)
class TeacherCard(Capabilities):
    """What a teacher claims, and where it comes from; nothing is imported to read it.

    Attributes
    ----------
    name, package, requirement: what ``--teacher`` takes, its import name, the pinned distribution.
    domain, licence, citation: what it was trained on, for people; of the weights.
    load: (card, options with defaults, device, model file or None) -> :data:`Loaded`.
    fetch: options -> the file of a model that they name, downloaded by the package where it was not before.
    weights: file or folder in the package's folder; None where parameters are compiled in or a file is named.
    options, choices: keyword arguments it takes, with their defaults; their values, where these are few.
    environment: its own environment and list of pins; teachers of one package share one.
    smoke: module whose import, or ``module:function`` whose call, shows that it works; or ``package``.
    pythons: versions of Python for which the pins have wheels.
    file_option: the option that names a model file, or None where its weights are in its package.
    suffixes, convert: how the name of such a file may end, and the command that makes one of another.
    unpickles: its package unpickles such a file, which runs any code that is stored in it.
    models: names that the option ``model`` takes, each with the fields of the card that it changes.
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
        """The name that pip knows."""
        return self.requirement.partition("==")[0]

    @property
    def environment_name(self) -> str:
        """Name of the teacher's own environment."""
        return self.environment or self.name

    @property
    def installed(self) -> bool:
        """Whether the package is there; a look at the file system, no import of it."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def remedy(self) -> str:
        """The command that installs it, in an environment of its own."""
        return f"limbeck teachers install {self.name}"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(**{f.name: getattr(self, f.name) for f in fields(Capabilities)})

    def with_capabilities(self, capabilities: Capabilities) -> TeacherCard:
        """The card with what the loaded potential says of itself."""
        return replace(self, **vars(capabilities))

    def of(self, options: Mapping[str, Any]) -> TeacherCard:
        """The card for the model that ``options`` name, where names tell more than the teacher's does."""
        model = {**self.options, **options}.get("model")
        return replace(self, **self.models.get(model, {})) if isinstance(model, str) else self

    def potential(self, made: Any, kind: Callable[..., Potential] = AsePotential, **found: Any) -> Potential:
        """``kind`` of what was ``made``, with the capabilities that were ``found`` in place of the card's."""
        return kind(made, replace(self.capabilities, **found), self.name)

    def require(self) -> None:
        """Raise MissingPackageError where the package is not installed."""
        if not self.installed:
            raise MissingPackageError(
                f"the package of teacher {self.name!r} is not installed",
                got=f"no module {self.package!r}",
                wanted=self.requirement,
                remedy=self.remedy,
            )

    def version(self) -> str:
        """Version of the installed package, "" where it is not installed."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return ""

    def weights_hash(self) -> str:
        """SHA-256 of the weights, or of the version that holds them; the package is not imported."""
        self.require()
        if self.weights is None:
            return hash_json({"package": self.distribution, "version": self.version()})
        spec = importlib.util.find_spec(self.package)
        folders = list(spec.submodule_search_locations or []) if spec is not None else []
        if paths := [path for folder in folders if (path := Path(folder) / self.weights).exists()]:
            return _hash_weights(paths[0])
        raise MissingPackageError(
            f"the weights of teacher {self.name!r} are not in the installed package",
            got=f"no file {self.weights} in {folders}",
            wanted=self.requirement,
            remedy=self.remedy,
        )

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults with ``options`` over them; raises InputError for a name or value it does not take."""
        for key in options:
            if key not in self.options:
                raise InputError(
                    f"unknown option {key!r} for teacher {self.name!r}",
                    wanted=nearest(key, self.options) or ", ".join(self.options) or "no options",
                    remedy="remove it or correct its name",
                )
        chosen = {**self.options, **options}
        for key, values in self.choices.items():
            if chosen[key] not in values:
                raise InputError(
                    f"unknown {key} for teacher {self.name!r}", got=chosen[key], wanted=" or ".join(values)
                )
        return chosen

    def model_file(self, options: Mapping[str, Any]) -> Path | None:
        """The model file that ``options`` name; None where they name a model, or the package has it.

        Raises
        ------
        InputError: a model is needed and none is named, or the file is no model file.
        """
        filled = self.check_options(options)
        if self.file_option is None:
            return None
        value = filled[self.file_option]
        wanted = "a model file" + (f", or one of {', '.join(self.models)}" if self.models else "")
        if value is None and self.file_option == "model":
            raise InputError(
                f"teacher {self.name!r} needs a model",
                wanted=wanted,
                remedy="give --set teacher.options.model=PATH",
            )
        if value is None or (self.file_option == "model" and value in self.models):
            return None
        path = Path(str(value)).expanduser().absolute()
        where = f"teacher {self.name}: {self.file_option} {value}"
        if not path.exists():
            raise InputError("there is no such file", where=where, wanted=wanted)
        if not path.is_file() or not path.stat().st_size:
            got = "an empty file" if path.is_file() else "a folder"
            raise InputError("not a model file", where=where, got=got, wanted=wanted)
        if self.suffixes and not path.name.endswith(self.suffixes):
            raise InputError(
                "not a model file by its name",
                where=where,
                got=path.name,
                wanted=f"a name in {' or '.join(self.suffixes)}",
                remedy=self.convert,
            )
        return path

    def check_trust(self, options: Mapping[str, Any], trust: bool) -> None:
        """Raise InputError where a model file would be unpickled without the user's word."""
        path = self.model_file(options)
        if path is not None and self.unpickles and not trust:
            raise InputError(
                f"{self.distribution} unpickles a model file, which runs any code that is stored in it",
                where=f"teacher {self.name}: {path}",
                wanted="a file from a source that you trust, and your word for it",
                remedy="add --trust, or trust: true under teacher in the configuration",
            )

    def identity(
        self, options: Mapping[str, Any], capabilities: Capabilities, weights: Path | None = None
    ) -> TeacherIdentity:
        """Identity of the teacher with these options (defaults filled in) and this file of weights."""
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
    """The known name most like ``name``, or None where none is like it."""
    lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.4)
    return lower[found[0]] if found else None
