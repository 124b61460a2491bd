"""What is known of a teacher before it is loaded: its card, and the identity that keys its labels."""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from limbeck.core.hashing import hash_file, hash_json
from limbeck.core.potential import Capabilities
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
    """

    name: str
    version: str
    weights_hash: str
    options: str = "{}"
    precision: str = "float64"


@dataclass(frozen=True)
class TeacherCard:
    """What a teacher is made for and where it comes from; nothing is imported to read it.

    Attributes
    ----------
    name: what ``--teacher`` takes.
    package, distribution: import name and the name that pip knows.
    requirement, extra: pinned requirement and the extra of Limbeck that brings it.
    elements: atomic numbers of the training set, or None where unknown.
    domain: what it was trained on, for people.
    periodic, molecular: treats fully periodic structures, and others (molecules, slabs).
    stress, atom_energies, isolated_atoms, reflection, precision, batch_atoms: as in Capabilities.
    licence, citation: of the weights.
    weights: weight file relative to the package's folder, or None where parameters are compiled in.
    options: keyword arguments it takes, with their defaults.
    choices: the values that an option may take, where they are few.
    """

    name: str
    package: str
    distribution: str
    requirement: str
    extra: str
    elements: frozenset[int] | None
    domain: str
    licence: str
    citation: str
    periodic: bool = True
    molecular: bool = True
    stress: bool = True
    atom_energies: bool = False
    isolated_atoms: bool = True
    reflection: bool = True
    precision: Literal["float32", "float64"] = "float64"
    batch_atoms: int | None = None
    weights: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        """Whether the package is there; a look at the file system, no import of it."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def remedy(self) -> str:
        """The line that installs it."""
        return f"pip install -c constraints.txt -e '.[{self.extra}]'"

    @property
    def capabilities(self) -> Capabilities:
        """What the card says, as a Potential says it; the names are the same."""
        return Capabilities(**{f.name: getattr(self, f.name) for f in fields(Capabilities)})

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
        """SHA-256 of the weight file, or of the version that holds them; the package is not imported."""
        self.require()
        if self.weights is None:
            return hash_json({"package": self.distribution, "version": self.version()})
        spec = importlib.util.find_spec(self.package)
        folders = list(spec.submodule_search_locations or []) if spec is not None else []
        for folder in folders:
            if (path := Path(folder) / self.weights).is_file():
                stat = path.stat()
                return _hash_once(str(path), stat.st_mtime_ns, stat.st_size)
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

    def identity(self, options: Mapping[str, Any], capabilities: Capabilities) -> TeacherIdentity:
        """Identity of the teacher with these options (defaults filled in)."""
        return TeacherIdentity(
            name=self.name,
            version=self.version(),
            weights_hash=self.weights_hash(),
            options=json.dumps(self.check_options(options), sort_keys=True),
            precision=capabilities.precision,
        )


@functools.lru_cache(maxsize=32)
def _hash_once(path: str, mtime_ns: int, size: int) -> str:
    return hash_file(path)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, or None where none is like it."""
    lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.4)
    return lower[found[0]] if found else None
