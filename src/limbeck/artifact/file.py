"""Reading and writing student files (format 1). Never pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from limbeck import __version__
from limbeck.core.charge import ChargeState
from limbeck.core.earlier import with_new_keys
from limbeck.core.files import write_whole
from limbeck.core.hashing import hash_file
from limbeck.errors import InputError
from limbeck.students.baseline import Baseline
from limbeck.students.specification import Architecture

FORMAT_VERSION = 1
_METADATA_KEY = "limbeck"


@dataclass(frozen=True)
class StudentArtifact:
    """Everything a student file holds.

    Attributes
    ----------
    architecture, baseline: what the weights mean and what is added to the network.
    weights: name -> array, the names of ``Architecture.parameter_shapes``, float32 or float64.
    card: JSON-able provenance: teacher, data, metrics, preset, training.
    """

    architecture: Architecture
    baseline: Baseline
    weights: dict[str, np.ndarray]
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        # one array of float64 makes the student one, whatever the order of the file
        return str(np.result_type(*(value.dtype for value in self.weights.values())))

    @property
    def state(self) -> ChargeState:
        """The total charge and spin that it is for."""
        return ChargeState.of_card(self.card, self.card.get("preset", "student"))

    def own_fields(self) -> dict[str, Any]:
        """What a file's card has of the student itself; all else on it is provenance."""
        arch, baseline = self.architecture, self.baseline
        return {
            "format_version": FORMAT_VERSION,
            "limbeck_version": __version__,
            "architecture": arch.to_dict(),
            "elements": list(arch.elements),
            "cutoff_a": arch.cutoff,
            "dtype": self.dtype,
            "energy_references_ev": {str(z): float(e) for z, e in sorted(baseline.references.items())},
            "zbl_radius_a": {f"{a}-{b}": float(r) for (a, b), r in sorted(baseline.zbl_radius.items())},
        }


@dataclass(frozen=True)
class StudentFile:
    """A student file with its model card; weights are not read.

    name: how tables call it, the file's name without its ending unless given.
    """

    path: Path
    card: dict[str, Any]
    name: str

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> StudentFile:
        """Raises InputError where it is no student file."""
        return cls(path, read_card(path), name or path.stem)

    @property
    def architecture(self) -> Architecture:
        return Architecture.from_dict(self.card["architecture"])

    @property
    def parameters(self) -> int:
        return self.architecture.n_parameters

    @cached_property
    def sha256(self) -> str:
        return hash_file(self.path)


def write_student(path: Path | str, record: StudentArtifact) -> None:
    """Write the file whole."""
    from safetensors.numpy import save

    check_weights(record.architecture, record.weights, path)
    card = json.dumps(record.own_fields() | record.card, sort_keys=True)
    weights = {name: np.ascontiguousarray(value) for name, value in record.weights.items()}
    write_whole(path, save(weights, metadata={_METADATA_KEY: card}))


def read_card(path: Path | str) -> dict[str, Any]:
    """The JSON object of a student file, without reading the weights."""
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            size = path.stat().st_size
            length = int.from_bytes(handle.read(8), "little")
            if not 2 <= length <= min(size - 8, 100_000_000):
                raise _not_a_student(path, "its header length does not fit the file")
            header = json.loads(handle.read(length))
        text = header["__metadata__"][_METADATA_KEY]
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
        if size != whole:
            raise _not_a_student(path, f"{size:,} bytes of {whole:,}: damaged or truncated")
        card = json.loads(text)
    except FileNotFoundError as error:
        remedy = "limbeck students lists the bundled ones"
        raise InputError("no such student file", where=path, remedy=remedy) from error
    except OSError as error:
        raise InputError("cannot read the student file", where=path, got=error.strerror) from error
    except InputError:
        raise
    # ValueError: no JSON, or a number of thousands of digits; RecursionError: nested without end
    except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise _not_a_student(path, "no Limbeck card in its metadata") from error
    if not isinstance(card, dict):
        raise _not_a_student(path, "its card is no JSON object")
    version = card.get("format_version")
    if version != FORMAT_VERSION:
        wanted, remedy = f"format {FORMAT_VERSION}", "upgrade Limbeck"
        raise InputError("unknown student file format", where=path, got=version, wanted=wanted, remedy=remedy)
    return dict(with_new_keys(card))


def read_student(path: Path | str) -> StudentArtifact:
    """Read and check a student file.

    Raises
    ------
    InputError: no such file, not a student, truncated, tampered, or weights that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = Path(path)
    card = read_card(path)
    try:
        weights = dict(load(path.read_bytes()))
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a type that numpy lacks
        raise _not_a_student(path, f"damaged or truncated ({error})") from error
    architecture, baseline = read_parts(card, path)
    check_weights(architecture, weights, path)
    record = StudentArtifact(architecture, baseline, weights)
    own = record.own_fields()
    return replace(record, card={k: v for k, v in card.items() if k not in own})


def read_parts(card: dict[str, Any], where: Path) -> tuple[Architecture, Baseline]:
    """Architecture, references and ZBL radii of a card; each element of the student has a reference."""
    try:
        architecture = Architecture.from_dict(card["architecture"])
        references = {int(z): float(e) for z, e in card["energy_references_ev"].items()}
        radii = {}
        for pair, radius in card["zbl_radius_a"].items():
            a, b = sorted(int(z) for z in pair.split("-"))
            radii[a, b] = float(radius)
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise _not_a_student(where, f"its model card lacks a valid {error}") from error
    if not np.isfinite([*references.values(), *radii.values()]).all():
        raise _not_a_student(where, "references or ZBL radii that are not finite")
    missing = [z for z in architecture.elements if z not in references]
    if missing:
        raise _not_a_student(where, f"no energy reference for Z = {missing}")
    if not all(0 < z < 119 for z in {*references, *(z for pair in radii for z in pair)}):
        raise _not_a_student(where, "references or ZBL radii of atomic numbers beyond 1 to 118")
    return architecture, Baseline(references, radii)


def check_weights(architecture: Architecture, weights: dict[str, np.ndarray], where: object) -> None:
    """Raise InputError unless names, shapes and types fit and every weight is finite."""
    wanted = architecture.parameter_shapes()
    if set(weights) != set(wanted):
        odd = sorted(set(weights) ^ set(wanted))[:3]
        raise InputError("the weights do not fit the architecture", where=where, got=f"names such as {odd}")
    for name, shape in wanted.items():
        value = weights[name]
        if value.shape != shape:
            what = f"weight {name!r} has the wrong shape"
            raise InputError(what, where=where, got=value.shape, wanted=shape)
        if value.dtype not in (np.float32, np.float64):
            raise InputError(f"weight {name!r} has the wrong type", where=where, got=value.dtype)
        if not np.isfinite(value).all():
            raise InputError(f"weight {name!r} is not finite", where=where, remedy="train the student again")


def _not_a_student(path: Path, reason: str) -> InputError:
    wanted, remedy = "a .safetensors file written by Limbeck", "limbeck convert reads older .pt files"
    return InputError("this is no student file", where=path, got=reason, wanted=wanted, remedy=remedy)
