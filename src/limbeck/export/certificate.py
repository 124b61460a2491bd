"""The parity certificate: an exported file, loaded in its own runtime, against the student it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.core.labels import Labels
from limbeck.core.structures import StructureBatch
from limbeck.export.runtimes import Arrays, Runtime, make_inputs
from limbeck.runtime.student import Student

#: structures evaluated in one call at most, so that batches are compared as well
TOGETHER = 8
#: how much further than the student's own rounding an export may be where that is above the tolerance
NOISE = 2.0


@dataclass(frozen=True)
class Tolerance:
    """What two paths of one precision may differ by, a structure at a time.

    Forces: ``force_a`` eV/Å + ``force_r`` · max|F|. Energy: ``energy_r`` · Σ|eᵢ - E0ᵢ| + N · ``energy_a`` eV,
    the sum over atoms of their interaction energies; an atom's energy likewise. References fitted by least
    squares, without isolated atoms, hold most of the cohesion, and what is left may cancel to nothing,
    while the network's arithmetic works in units of its energy scale: the sum counts as N times that at
    least. Stress: the tolerance of
    forces acting over the cutoff on every atom, N · rc / V times it, eV/Å³.

    Far from its training data a student's numbers cancel, and its own answer may be as far as that from
    its answer in float64. Where ``NOISE`` times that distance is more, it is the limit, and the certificate
    counts the structure as ``widened``.
    """

    force_a: float
    force_r: float
    energy_a: float
    energy_r: float


TOLERANCES = {
    "float32": Tolerance(force_a=1e-5, force_r=2e-5, energy_a=1e-6, energy_r=1e-6),
    "float64": Tolerance(force_a=1e-9, force_r=1e-9, energy_a=1e-9, energy_r=1e-11),
}


@dataclass(frozen=True)
class Parity:
    """One class of structures: the largest deviations, and how much of their tolerance they use.

    Attributes
    ----------
    energy_mev, force_mev_per_a, stress_mev_per_a3: largest absolute deviation; stress None without cells.
    share: largest deviation over its tolerance; the comparison passes up to 1.
    worst: which quantity of which structure that is.
    widened: structures whose limit is the student's own rounding, ``NOISE`` times.
    """

    n_structures: int
    energy_mev: float
    force_mev_per_a: float
    stress_mev_per_a3: float | None
    share: float
    worst: str
    widened: int

    @property
    def passes(self) -> bool:
        return self.share <= 1.0  # NaN does not pass


@dataclass(frozen=True)
class Comparison:
    """Every class of structures against the student's own engine, and against PyTorch in float64."""

    against_student: dict[str, Parity]
    against_float64: dict[str, Parity]
    engine: str

    @property
    def passes(self) -> bool:
        return all(part.passes for part in (*self.against_student.values(), *self.against_float64.values()))

    def failure(self) -> str:
        """The worst class and figure, one line."""
        rows = [
            (not part.share <= 1.0, np.nan_to_num(part.share, nan=np.inf), kind, reference, part)
            for reference, parts in (("student", self.against_student), ("float64", self.against_float64))
            for kind, part in parts.items()
        ]
        _, _, kind, reference, part = max(rows, key=lambda row: row[:2])
        return f"{kind}: {part.worst} is {part.share:.3g} of the tolerance off ({reference})"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "engine": self.engine,
            "against_student": {kind: asdict(part) for kind, part in self.against_student.items()},
            "against_float64": {kind: asdict(part) for kind, part in self.against_float64.items()},
        }


class References:
    """A student's own answers for classes of structures, in its precision and in float64."""

    def __init__(self, student: Student, structures: dict[str, list[Atoms]]) -> None:
        self.structures = structures
        self.engine = student.backend.name
        self.precision = student.capabilities.precision
        self.cutoff, self.scale = student.cutoff, student.architecture.energy_scale
        self.batches = [
            (kind, StructureBatch.from_atoms(part))
            for kind, frames in {**structures, "mixed batch": _mixed(structures)}.items()
            for part in _parts(frames)
        ]
        self.cases = [make_inputs(batch, self.cutoff) for _, batch in self.batches]
        self.own = [student.evaluate(batch) for _, batch in self.batches]
        exact = Student(student.record, engine="torch", precision="float64", threads=1)
        self.exact = [exact.evaluate(batch) for _, batch in self.batches]
        table = student.record.baseline.references
        self.isolated = [np.array([table[int(z)] for z in batch.numbers]) for _, batch in self.batches]

    def compare(self, runtime: Runtime, name: str = "model") -> Comparison:
        """What ``runtime`` makes of the file it has loaded under ``name``."""
        runtime.set_cases(self.cases)
        found = runtime.evaluate(name)
        return Comparison(
            against_student=self._against(found, self.own),
            against_float64=self._against(found, self.exact),
            engine=self.engine,
        )

    def _against(self, found: Sequence[Arrays], wanted: Sequence[Labels]) -> dict[str, Parity]:
        rows: dict[str, list[dict[str, float]]] = {}
        for k, (kind, batch) in enumerate(self.batches):
            for s in range(len(batch)):
                off = _deviations(batch, s, found[k], wanted[k])
                noise = _deviations(batch, s, vars(self.own[k]), self.exact[k])
                limits = self._limits(k, s)
                row = {
                    f"{name}_share": value / max(limits[name], NOISE * noise[name])
                    for name, value in off.items()
                }
                row["widened"] = float(any(NOISE * noise[name] > limits[name] for name in off))
                if not batch.volume[s] and (found[k]["stress"][s] != 0).any():
                    row["stress_share"] = np.inf  # zero by definition
                rows.setdefault(kind, []).append(row | off)
        return {kind: _worst(part) for kind, part in rows.items()}

    def _limits(self, k: int, s: int) -> dict[str, float]:
        """The tolerance of one structure, in eV and Å."""
        tolerance, batch, exact = TOLERANCES[self.precision], self.batches[k][1], self.exact[k]
        atoms = slice(batch.offsets[s], batch.offsets[s + 1])
        if exact.atom_energies is None:
            raise TypeError("a student gives atomic energies")
        force = tolerance.force_a + tolerance.force_r * np.abs(exact.forces[atoms]).max(initial=0.0)
        size = np.abs(exact.atom_energies[atoms] - self.isolated[k][atoms]).sum()
        size = max(size, batch.counts[s] * self.scale)
        energy = batch.counts[s] * tolerance.energy_a + tolerance.energy_r * size
        volume = batch.volume[s] or np.inf
        stress = force * batch.counts[s] * self.cutoff / volume
        return {"force": force, "energy": energy, "atom_energy": energy, "stress": stress}


def _deviations(batch: StructureBatch, s: int, found: Arrays, wanted: Labels) -> dict[str, float]:
    """Largest deviations of one structure; stress where it is defined."""
    atoms = slice(batch.offsets[s], batch.offsets[s + 1])
    if wanted.atom_energies is None or wanted.stress is None:
        raise TypeError("a student gives atomic energies and stress")
    off = {
        "energy": abs(found["energy"][s] - wanted.energy[s]),
        "force": np.abs(found["forces"][atoms] - wanted.forces[atoms]).max(initial=0.0),
        "atom_energy": np.abs(found["atom_energies"][atoms] - wanted.atom_energies[atoms]).max(initial=0.0),
    }
    if np.isfinite(wanted.stress[s]).all():
        off["stress"] = np.abs(found["stress"][s] - wanted.stress[s]).max()
    return {name: float(value) for name, value in off.items()}


def _worst(rows: list[dict[str, float]]) -> Parity:
    shares = [
        (np.inf if np.isnan(row[name]) else row[name], k, name)
        for k, row in enumerate(rows)
        for name in row
        if name.endswith("_share")
    ]
    share, where, name = max(shares)
    stress = [row["stress"] for row in rows if "stress" in row]
    return Parity(
        n_structures=len(rows),
        energy_mev=1000 * float(np.max([row["energy"] for row in rows])),
        force_mev_per_a=1000 * float(np.max([row["force"] for row in rows])),
        stress_mev_per_a3=1000 * float(np.max(stress)) if stress else None,
        share=float(share),
        worst=f"{name.removesuffix('_share').replace('_', ' ')} of structure {where}",
        widened=int(sum(row["widened"] for row in rows)),
    )


def _mixed(structures: dict[str, list[Atoms]]) -> list[Atoms]:
    """One of each class, in one call: structures with and without pairs, with and without a cell."""
    return [frames[0] for frames in structures.values()]


def _parts(frames: list[Atoms]) -> list[list[Atoms]]:
    return [frames[k : k + TOGETHER] for k in range(0, len(frames), TOGETHER)]
