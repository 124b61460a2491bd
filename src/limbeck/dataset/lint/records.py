"""The data that the checks read, and their findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from limbeck.core.labels import LabelledSet
from limbeck.core.structures import StructureBatch
from limbeck.dataset.lint.bonds import Bonds, nearest_bonds
from limbeck.dataset.lint.close import ClosePairs, find_close
from limbeck.dataset.lint.pairfit import PairFit, fit_pairs
from limbeck.errors import InputError

Severity = Literal["error", "warning", "note"]
_MOST_FRAMES = 5  # in a line; the JSON has all

_UNITS = "give energies in eV and forces in eV/Å"
_STRESS = "stress in eV/Å³, positive in tension (ASE's sign); --virial-key for virials"
#: remedy of each finding, by code
REMEDIES = {
    "cell-small": "give the cell in Å, and all its atoms",
    "close-atoms": "positions and labels do not belong together, or the method is unphysical at short range",
    "duplicates": "remove them: they count twice in training, and may be in training and validation set",
    "duplicates-differ": "keep the correct label; check for different settings or charges",
    "elements-missing": "check where the atoms were lost (a reader, a filter, missing hydrogens)",
    "elements-unexpected": "remove these structures, or add the element to those asked for",
    "energies-unrelated": "check how energies were joined to structures, and the order of atoms",
    "energy-constant": "name the right entry with --energy-key",
    "energy-forces-unit": _UNITS,
    "energy-outliers": "compute these energies again, or remove the structures",
    "energy-reference": "use one reference for all energies (one code, functional and zero)",
    "energy-unit": _UNITS,
    "few-structures": "",
    "forces-axes": "read all three components",
    "forces-constrained": "write the forces before constraints are applied",
    "forces-large": "check these calculations, and the unit of the forces",
    "forces-sign": "forces are minus the gradient: change their sign",
    "forces-unrelated": "check the order of the atoms, and how labels were joined to structures",
    "forces-zero": "read the forces, not a placeholder, or remove the structures",
    "formula-unexpected": "check that no atoms were lost or added",
    "frames-sign": "change the sign of these forces",
    "isolated-atoms-differ": "keep one energy per element",
    "labels-repeated": "check how labels were joined to structures",
    "leak": "remove them from the training data: their errors do not measure generalisation",
    "leak-group": "put each trajectory into one set",
    "lone-atoms": "check the cell, the periodic directions and the unit of positions",
    "net-force": "check for an external field, missing atoms or corrupt forces",
    "net-torque": "check orientation and order of atoms of positions and forces",
    "no-structures": "",
    "not-finite": "compute these labels again",
    "pbc-differs": "check pbc of each source",
    "pbc-missing": "set pbc to True in the directions that repeat, or remove the cell",
    "positions-unit": "give positions and cell in Å",
    "stress-order": "six components are xx, yy, zz, yz, xz, xy",
    "stress-sign": _STRESS,
    "stress-unchecked": _STRESS,
    "stress-unit": _STRESS,
    "stress-zero": "leave the stress out where it was not computed",
}
CODES = tuple(REMEDIES)  #: every code there is


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or looks wrong, with labelled data.

    Attributes
    ----------
    code: the name for ``lint.ignore``, such as ``forces-sign``.
    severity: an error stops training, a warning is printed before it, a note is only listed.
    frames: indices of structures as read, in order; empty where the whole set is meant.
    """

    code: str
    severity: Severity
    message: str
    frames: tuple[int, ...] = ()
    remedy: str = ""


def finding(
    code: str, severity: Severity, message: str, frames: tuple[int, ...] = (), remedy: str | None = None
) -> Finding:
    """A finding with the usual remedy, unless another is given."""
    return Finding(code, severity, message, frames, REMEDIES[code] if remedy is None else remedy)


@dataclass(frozen=True)
class Source:
    """A file or label store and the number of structures read from it."""

    name: str
    count: int


@dataclass(frozen=True)
class LintReport:
    """Findings on the structures of ``sources``, errors first."""

    findings: tuple[Finding, ...]
    sources: tuple[Source, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "warning")

    @property
    def count(self) -> int:
        return sum(source.count for source in self.sources)

    def frame_name(self, frame: int) -> str:
        """``file:12``, or the number alone where there is one source."""
        rest = frame
        for source in self.sources:
            if rest < source.count:
                return str(rest) if len(self.sources) == 1 else f"{source.name}:{rest}"
            rest -= source.count
        raise IndexError(frame)

    def line(self, one: Finding) -> str:
        """``error forces-sign: ...; frames 3, 7 and 12 more; remedy: ...``"""
        text = f"{one.severity} {one.code}: {one.message}"
        if one.frames:
            named = ", ".join(self.frame_name(f) for f in one.frames[:_MOST_FRAMES])
            more = len(one.frames) - _MOST_FRAMES
            text += f"; {'frame' if len(one.frames) == 1 else 'frames'} {named}"
            text += f" and {more} more" if more > 0 else ""
        return text + (f"; remedy: {one.remedy}" if one.remedy else "")

    def lines(self) -> list[str]:
        """One line a finding."""
        return [self.line(one) for one in self.findings]

    def summary(self) -> str:
        counts = ("error", len(self.errors)), ("warning", len(self.warnings))
        counted = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts)
        return f"{counted} in {self.count} structures"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; frames of several sources as ``file:number``."""
        several = len(self.sources) > 1
        return {
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "structures": self.count,
            "sources": [asdict(source) for source in self.sources],
            "findings": [
                asdict(f) | {"frames": [self.frame_name(k) if several else k for k in f.frames]}
                for f in self.findings
            ],
        }


def check_codes(codes: Sequence[str]) -> None:
    """InputError where a code is none of ``CODES``."""
    for code in codes:
        if code not in CODES:
            near = get_close_matches(code, CODES, 1)
            remedy = f"did you mean {near[0]!r}?" if near else None
            wanted = "a code that limbeck lint lists"
            raise InputError("unknown code of a finding", got=repr(code), wanted=wanted, remedy=remedy)


@dataclass(frozen=True)
class Expected:
    """What the user expects of the data.

    Attributes
    ----------
    elements: atomic numbers asked for. starts: structures that the data should consist of.
    validation: the validation set; copies_removed: structures equal to one of it will not train.
    max_force_ev_per_a: a limit of the user's own: labels that are not finite or beyond it are left out
        without a finding.
    """

    elements: tuple[int, ...] | None = None
    starts: StructureBatch | None = None
    validation: LabelledSet | None = None
    copies_removed: bool = False
    max_force_ev_per_a: float | None = None


NOTHING_EXPECTED = Expected()


@dataclass(frozen=True)
class Material:
    """The S labels that training would use, without isolated atoms; ``frame`` (S,) their indices as read."""

    labelled: LabelledSet
    frame: np.ndarray
    expected: Expected = NOTHING_EXPECTED

    @property
    def batch(self) -> StructureBatch:
        return self.labelled.structures

    @property
    def energy(self) -> np.ndarray:  # (S,) eV
        return self.labelled.labels.energy

    @property
    def forces(self) -> np.ndarray:  # (N, 3) eV/Å
        return self.labelled.labels.forces

    def frames(self, index: ArrayLike) -> tuple[int, ...]:
        """Indices as read of the structures at ``index`` (integers) or under a mask, ascending."""
        return tuple(np.unique(self.frame[np.asarray(index)]).tolist()) if np.size(index) else ()

    def found(
        self, code: str, severity: Severity, text: str, index: ArrayLike, remedy: str | None = None
    ) -> Iterator[Finding]:
        """A finding on the structures at ``index`` or under a mask, if any; {n} is their number."""
        if frames := self.frames(index):
            yield finding(code, severity, text.replace("{n}", str(len(frames))), frames, remedy)

    def atoms(self, s: int | np.integer) -> slice:
        return slice(*self.batch.offsets[s : s + 2].tolist())

    @cached_property
    def has_stress(self) -> np.ndarray:
        """(S,) bool."""
        stress = self.labelled.labels.stress
        if stress is None:
            return np.zeros(len(self.labelled), bool)
        return np.isfinite(stress).all(axis=(1, 2))

    @cached_property
    def elements(self) -> np.ndarray:
        """Atomic numbers, ascending."""
        return np.unique(self.batch.numbers)

    @cached_property
    def counts(self) -> np.ndarray:
        """(S, elements) number of atoms."""
        table = np.zeros((len(self.labelled), len(self.elements)), np.int64)
        column = np.searchsorted(self.elements, self.batch.numbers)
        np.add.at(table, (self.batch.structure_of_atom, column), 1)
        return table

    @cached_property
    def composition(self) -> np.ndarray:
        """(S,) int64, a number for each composition."""
        fractions = np.round(self.counts / self.counts.sum(axis=1, keepdims=True), 9)
        return np.unique(fractions, axis=0, return_inverse=True)[1].reshape(-1)

    @cached_property
    def force_rms(self) -> np.ndarray:
        """(S,) eV/Å, over the components of a structure."""
        square = np.add.reduceat((self.forces**2).mean(axis=1), self.batch.offsets[:-1])
        return np.sqrt(square / self.batch.counts)

    @cached_property
    def pair_fit(self) -> PairFit | None:
        return fit_pairs(self.labelled)

    @cached_property
    def close(self) -> ClosePairs:
        return find_close(self.labelled)

    @cached_property
    def bonds(self) -> Bonds:
        return nearest_bonds(self.batch)
