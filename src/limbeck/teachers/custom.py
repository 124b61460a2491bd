"""``module:callable``: any ASE calculator (or Limbeck Potential) that a Python callable returns."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ase.data import atomic_numbers

from limbeck.core.hashing import hash_file, hash_json
from limbeck.core.potential import AsePotential, Capabilities, Potential
from limbeck.errors import InputError
from limbeck.teachers.card import Loaded, TeacherCard, TeacherIdentity, nearest

#: output files of calculators (GPAW's txt=..., logs), which do not determine a label
_OUTPUTS = frozenset({".log", ".out", ".traj", ".txt"})


def is_custom(name: str) -> bool:
    return ":" in name


def make_card(name: str, capabilities: Capabilities | None = None) -> TeacherCard:
    """The card of ``module:callable``; its capabilities are known after loading."""
    module, claims = name.partition(":")[0], vars(capabilities or Capabilities())
    origin: dict[str, Any] = {"domain": "given by the user", "licence": "unknown", "citation": ""}
    distribution = module.partition(".")[0]
    return TeacherCard(name=name, package=module, requirement=distribution, load=load, **origin, **claims)


def load(card: TeacherCard, options: Mapping[str, Any], device: str, _: Path | None = None) -> Loaded:
    """Call ``module:callable`` with ``options``, and with ``device`` if it accepts that.

    Capabilities are declared by ``options["capabilities"]`` (a dict of the fields of Capabilities, elements
    as symbols or numbers) or by the attribute ``capabilities`` of the calculator. By default the calculator
    is assumed to support all neutral closed-shell structures, and stress if it is among its
    ``implemented_properties``. If ``charge`` or ``spin`` is declared, the calculator reads
    ``atoms.info["charge"]`` and ``atoms.info["spin"]`` (2S + 1), or is set up for them.

    Raises InputError: the module or the callable does not exist, or takes other arguments.
    """
    where = f"teacher {card.name}"
    keywords = {k: v for k, v in options.items() if k != "capabilities"}
    build = _find(card.name, where)
    if device != "cpu" and "device" not in keywords:
        with contextlib.suppress(ValueError):  # builtins may have no signature to read
            keywords |= {"device": device} if "device" in inspect.signature(build).parameters else {}
    try:
        made = build(**keywords)
    except TypeError as error:
        what, wanted = "invalid arguments of the callable", f"keyword arguments of {card.name}"
        remedy = "correct the teacher's options"
        raise InputError(what, where=where, got=error, wanted=wanted, remedy=remedy) from error
    if isinstance(made, Potential):
        return made, None
    if not hasattr(made, "get_property"):
        what, got = "callable does not return an ASE calculator", type(made).__name__
        raise InputError(what, where=where, got=got, wanted="an ase.calculators.calculator.Calculator")
    return AsePotential(made, _capabilities(made, options.get("capabilities"), where), card.name), None


def identify(card: TeacherCard, options: Mapping[str, Any], capabilities: Capabilities) -> TeacherIdentity:
    """Identity from the source file and the files in ``options``, output files excluded."""
    source = getattr(importlib.import_module(card.package), "__file__", None)
    files = {
        key: hash_file(value)
        for key, value in options.items()
        if isinstance(value, str) and Path(value).suffix.lower() not in _OUTPUTS and Path(value).is_file()
    }
    return TeacherIdentity(
        name=card.name,
        version=card.version(),
        weights_hash=hash_json({"source": hash_file(source) if source else "", "files": files}),
        options=json.dumps(dict(options), sort_keys=True),
        precision=capabilities.precision,
    )


def _find(name: str, where: str) -> Any:
    module_name, _, attribute = name.partition(":")
    wanted = "package.module:callable, importable from the current folder"
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise InputError("cannot import the teacher", where=where, got=error, wanted=wanted) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        alike = nearest(attribute, [n for n in vars(module) if callable(getattr(module, n))])
        wanted = f"{module_name}:{alike}" if alike else wanted
        raise InputError(f"no callable {attribute!r} in module {module_name!r}", where=where, wanted=wanted)
    return found


def _capabilities(calculator: Any, declared: Any, where: str) -> Capabilities:
    if declared is None:
        declared = getattr(calculator, "capabilities", None) or {}
    if isinstance(declared, Capabilities):
        return declared
    known = [f.name for f in fields(Capabilities)]
    for key in declared:
        if key not in known:
            wanted = nearest(key, known) or "one of " + ", ".join(known)
            raise InputError(f"unknown capability {key!r}", where=where, wanted=wanted)
    values = dict(declared)
    if values.get("elements") is not None:
        numbers = (atomic_numbers[e] if isinstance(e, str) else int(e) for e in values["elements"])
        values["elements"] = frozenset(numbers)
    stress = "stress" in getattr(calculator, "implemented_properties", ())
    # whether energies of isolated atoms are meaningful is unknown
    return replace(Capabilities(stress=stress, isolated_atoms=False), **values)
