"""Lint as a command, and before every training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from limbeck.core.checks import check_one_state, check_structures
from limbeck.core.labels import LabelledSet
from limbeck.core.structures import StructureBatch, concatenate
from limbeck.dataset.lint import NOTHING_EXPECTED, Expected, LintReport, check_codes, lint
from limbeck.dataset.read import read_labelled
from limbeck.errors import InputError
from limbeck.progress import Say, say_some
from limbeck.sampling.starts import read_structures

_SAID_ELSEWHERE = ("not-finite", "forces-large")  # by the audit, which leaves those labels out
_STARTS = "structures.extxyz"


def run_lint(
    data: Sequence[Path],
    *,
    keys: Mapping[str, Any] | None = None,
    elements: str | None = None,
    like: Path | None = None,
    val: Path | None = None,
    ignore: Sequence[str] = (),
    say: Say = print,
) -> LintReport:
    """`limbeck lint`: what would spoil a training on these labels.

    Parameters
    ----------
    data: label stores or labelled files. keys: names of labels, as :func:`read_labelled` takes them.
    elements: symbols with commas between, that the data should hold, no more and no fewer.
    like: structures that the data should be made of. Without these two, labels in a run folder are
        held against the elements of the run's starting structures.
    val: a labelled file that will validate. ignore: codes of findings to pass over.

    Raises
    ------
    InputError: unreadable input, or structures that no potential can treat.
    """
    check_codes(ignore)
    sets = [(str(path), _read(path, keys)) for path in data]
    starts = None if like is None else StructureBatch.from_atoms(read_structures(like))
    asked = _parse_elements(elements) if elements else None if like else _elements_of_run(data)
    expected = Expected(asked, starts, None if val is None else _read(val, keys))
    validating = [] if expected.validation is None else [(str(val), expected.validation)]
    whole = concatenate([labelled.structures for _, labelled in [*sets, *validating]])
    check_one_state(whole, ", ".join(name for name, _ in [*sets, *validating]))
    report = lint(sets, expected, ignore)
    for line in report.lines():
        say(line)
    say(report.summary())
    return report


def preflight(
    sets: Sequence[tuple[str, LabelledSet]],
    ignore: Sequence[str],
    say: Say,
    expected: Expected = NOTHING_EXPECTED,
    spare: float = 0.0,
) -> np.ndarray:
    """Lint before training: warnings are said, notes are not.

    Parameters
    ----------
    spare: an error in at most this share of the structures is said as a warning.

    Returns
    -------
    Places of the structures that such errors name, ascending: the caller leaves them out.

    Raises
    ------
    InputError: the data hold any other error; the first is named.
    """
    report = lint(sets, expected, ignore)
    command = "limbeck lint " + " ".join(name for name, _ in sets)
    few = [f for f in report.errors if 0 < len(f.frames) <= spare * report.count]
    errors = [f for f in report.errors if f not in few]
    if errors:
        first = errors[0]
        more = len(errors) - 1
        raise InputError(
            f"{first.code}: {first.message}",
            where=sets[0][0] if len(sets) == 1 else f"{len(sets)} data sets",
            got=f"{more} more errors" if more > 1 else "1 more error" if more else None,
            remedy=f"see {command}; to train all the same: --set 'lint.ignore=[{first.code}]'",
        )
    warnings = [
        report.line(replace(f, severity="warning", remedy="they are left out of the training")) for f in few
    ]
    warnings += [report.line(f) for f in report.warnings if f.code not in _SAID_ELSEWHERE]
    say_some(say, warnings, f"warnings; see {command}")
    return np.unique([k for f in few for k in f.frames]).astype(int)


def _read(path: Path, keys: Mapping[str, Any] | None) -> LabelledSet:
    if path.is_dir():
        labelled = read_labelled(path)
        check_structures(labelled.to_atoms(), str(path))
        return labelled
    return read_labelled(path, **(keys or {}))


def _parse_elements(text: str) -> tuple[int, ...]:
    symbols = [part.strip() for part in text.split(",")]
    for symbol in symbols:
        if atomic_numbers.get(symbol, 0) < 1:
            raise InputError(
                "no such element", where="--elements", got=repr(symbol), wanted="symbols such as H,C,N,O"
            )
    return tuple(sorted(atomic_numbers[symbol] for symbol in symbols))


def _elements_of_run(data: Sequence[Path]) -> tuple[int, ...] | None:
    files = [path.parent / _STARTS for path in data]
    if not all(path.is_dir() for path in data) or not all(file.is_file() for file in files):
        return None
    return tuple(sorted({int(z) for file in files for atoms in read_structures(file) for z in atoms.numbers}))
