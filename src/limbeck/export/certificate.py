"""The parity certificate: an exported file, loaded in its own runtime, against the student it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.core.labels import Labels
from limbeck.core.structures import StructureBatch
from limbeck.export.runtimes import Arrays, Runtime, make_inputs
from limbeck.export.structures import MANY
from limbeck.export.tolerance import TOLERANCES
from limbeck.runtime.student import Student

#: of what exported files hold and certificates ask: those of an earlier one are made anew by finalize
REVISION = 2
#: structures evaluated in one call at most, so that batches are compared as well
TOGETHER = 8
#: evaluations of one structure on all threads
REPEATS = 20


@dataclass(frozen=True)
class Parity:
    """One class of structures: the largest deviations, and how much of their tolerance they use.

    Attributes
    ----------
    energy_mev, force_mev_per_a, stress_mev_per_a3: largest absolute deviation; stress None without cells.
    force_rms_mev_per_a, atom_energy_rms_mev: root mean squares over the structures that are not widened,
        None without one; judged against float64 only.
    share: largest deviation over its tolerance; the comparison passes up to 1.
    worst: which quantity of which structure that is.
    widened: structures whose limit is the student's own rounding.
    """

    n_structures: int
    energy_mev: float
    force_mev_per_a: float
    stress_mev_per_a3: float | None
    force_rms_mev_per_a: float | None
    atom_energy_rms_mev: float | None
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


@dataclass(frozen=True)
class Repeats:
    """One structure of many atoms, evaluated again and again on the threads that the runtime takes by itself.

    Kernels that add in parallel may lose addends, now and then and not on one thread: each evaluation is
    compared with the student, and all of them with each other, which may differ by rounding.

    Attributes
    ----------
    energy_spread_mev, force_spread_mev_per_a, stress_spread_mev_per_a3, atom_energy_spread_mev: largest
        difference between two evaluations; stress None without a cell.
    share: largest deviation, from the student or from another evaluation, over its tolerance.
    """

    atoms: int
    repeats: int
    threads: int
    energy_spread_mev: float
    force_spread_mev_per_a: float
    stress_spread_mev_per_a3: float | None
    atom_energy_spread_mev: float
    share: float
    worst: str

    @property
    def passes(self) -> bool:
        return self.share <= 1.0

    def failure(self) -> str:
        """One line."""
        return (
            f"{self.atoms} atoms evaluated {self.repeats} times on {self.threads} threads: "
            f"{self.worst} is {self.share:.3g} of the tolerance off"
        )


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
        exact = Student(student.record, engine="torch", precision="float64")
        self.exact = [exact.evaluate(batch) for _, batch in self.batches]
        other = Student(student.record, engine="torch", precision=self.precision)
        engines = [other] if self.engine == other.backend.name else [student, other]
        #: batch -> engine -> copy -> the student's own answer, turned back
        self.rounded = [
            [[turned(engine, batch, turn) for turn in self._turns(kind)] for engine in engines]
            for kind, batch in self.batches
        ]
        table = student.record.baseline.references
        self.isolated = [np.array([table[int(z)] for z in batch.numbers]) for _, batch in self.batches]

    def compare(self, runtime: Runtime, name: str = "model") -> Comparison:
        """What ``runtime`` makes of the file it has loaded under ``name``."""
        runtime.set_cases(self.cases)
        found = runtime.evaluate(name)
        kinds = list(dict.fromkeys(kind for kind, _ in self.batches))
        student = {kind: self._parity(kind, found, self.own) for kind in kinds}
        exact = {kind: self._parity(kind, found, self.exact) for kind in kinds}
        return Comparison(against_student=student, against_float64=exact, engine=self.engine)

    def repeat(self, runtime: Runtime, threads: int, name: str = "model") -> Repeats:
        """Many evaluations of the structure of many atoms; ``threads``: with which the file was loaded."""
        k = [kind for kind, _ in self.batches].index(MANY)
        batch, place = self.batches[k][1], self._place(k, 0)
        runtime.set_cases([self.cases[k]])
        found = runtime.evaluate(name, [0] * REPEATS)
        spread = _spread(found)
        if "stress" not in place.own:
            del spread["stress"]
        shares = [
            (size / place.limit(key, 0.0), f"{key} between evaluations") for key, size in spread.items()
        ]
        for number, one in enumerate(found):
            off = _deviations(batch, 0, one, self.own[k])
            shares += [(off[key] / place.limit(key, 1.0), f"{key} of evaluation {number}") for key in off]
        share, worst = _largest(shares)
        return Repeats(
            atoms=int(batch.n_atoms),
            repeats=len(found),
            threads=threads,
            energy_spread_mev=1000 * spread["energy"],
            force_spread_mev_per_a=1000 * spread["force"],
            stress_spread_mev_per_a3=1000 * spread["stress"] if "stress" in spread else None,
            atom_energy_spread_mev=1000 * spread["atom_energy"],
            share=share,
            worst=worst,
        )

    def _parity(self, kind: str, found: Sequence[Arrays], wanted: Sequence[Labels]) -> Parity:
        places = [
            self._place(k, s)
            for k, (of, batch) in enumerate(self.batches)
            for s in (range(len(batch)) if of == kind else ())
        ]
        further = 0.0 if wanted is self.exact else 1.0
        rows, shares = [], []
        for number, place in enumerate(places):
            batch, where = self.batches[place.k][1], f"of structure {number}"
            off = _deviations(batch, place.s, found[place.k], wanted[place.k])
            shares += [(off[name] / place.limit(name, further), f"{name} {where}") for name in off]
            if not batch.volume[place.s] and (found[place.k]["stress"][place.s] != 0).any():
                shares.append((np.inf, f"stress {where}"))  # zero by definition
            rows.append(off)
        calm = [place for place in places if not place.widened]
        rms = self._rms(calm, found, wanted) if calm else None
        if rms is not None and wanted is self.exact:
            most = self._rms_limits(calm)
            shares += [(rms[name] / most[name], f"rms {name}") for name in rms if most[name]]
        return _summarise(rows, shares, rms, len(places) - len(calm))

    def _turns(self, kind: str) -> list[np.ndarray]:
        """The rotations in which the student's rounding on a class is measured."""
        tolerance = TOLERANCES[self.precision]
        atoms = sum(batch.n_atoms for of, batch in self.batches if of == kind)
        return turns(int(np.clip(tolerance.copied_atoms // max(atoms, 1), *tolerance.copies)))

    def _place(self, k: int, s: int) -> _Place:
        batch, exact = self.batches[k][1], self.exact[k]
        engines = [[_deviations(batch, s, one, exact) for one in copies] for copies in self.rounded[k]]
        noise = {
            name: max(float(np.sqrt(np.mean([one[name] ** 2 for one in copies]))) for copies in engines)
            for name in engines[0][0]
        }
        own = _deviations(batch, s, vars(self.own[k]), exact)
        return _Place(k, s, self._limits(k, s), noise, own, TOLERANCES[self.precision].noise)

    def _limits(self, k: int, s: int) -> dict[str, float]:
        """The tolerance of one structure, in eV and Å."""
        tolerance, batch, exact = TOLERANCES[self.precision], self.batches[k][1], self.exact[k]
        atoms = slice(batch.offsets[s], batch.offsets[s + 1])
        if exact.atom_energies is None:
            raise TypeError("a student gives atomic energies")
        force = tolerance.force_a + tolerance.force_r * np.abs(exact.forces[atoms]).max(initial=0.0)
        size = np.abs(exact.atom_energies[atoms] - self.isolated[k][atoms]).sum()
        energy = tolerance.energy_r * max(size, batch.counts[s] * self.scale)
        volume = batch.volume[s] or np.inf
        stress = force * batch.counts[s] * self.cutoff / volume
        return {"force": force, "energy": energy, "atom_energy": energy, "stress": stress}

    def _rms(
        self, places: Sequence[_Place], found: Sequence[Arrays], wanted: Sequence[Labels]
    ) -> dict[str, float]:
        """Root mean square deviations over structures; of stress over those that have one."""
        squares: dict[str, list[np.ndarray]] = {"force": [], "atom_energy": [], "stress": [np.zeros(0)]}
        for place in places:
            batch, here, there = self.batches[place.k][1], found[place.k], wanted[place.k]
            atoms = slice(batch.offsets[place.s], batch.offsets[place.s + 1])
            squares["force"].append(np.square(here["forces"][atoms] - there.forces[atoms]).ravel())
            known = vars(there)["atom_energies"][atoms]
            squares["atom_energy"].append(np.square(here["atom_energies"][atoms] - known))
            if "stress" in place.own:
                known = vars(there)["stress"][place.s]
                squares["stress"].append(np.square(here["stress"][place.s] - known).ravel())
        each = {name: np.concatenate(rows) for name, rows in squares.items()}
        return {name: float(np.sqrt(row.mean())) if len(row) else 0.0 for name, row in each.items()}

    def _rms_limits(self, places: Sequence[_Place]) -> dict[str, float]:
        """What root mean squares may be, in eV and Å; zero for stress without a cell."""
        tolerance = TOLERANCES[self.precision]
        counts = [self.batches[place.k][1].counts[place.s] for place in places]
        floors = {
            "force": [tolerance.rms_share * place.limits["force"] for place in places],
            "stress": [
                tolerance.rms_share * place.limits["stress"] for place in places if "stress" in place.own
            ],
            "atom_energy": [
                tolerance.rms_energy * place.limits["energy"] / count
                for place, count in zip(places, counts, strict=True)
            ],
        }
        copies = max(len(one[0]) for one in self.rounded)
        noise = [
            [
                # a batch of more atoms has fewer copies: from its first again
                self._rms(places, [one[engine][k % len(one[engine])] for one in self.rounded], self.exact)
                for k in range(copies)
            ]
            for engine in range(len(self.rounded[0]))
        ]
        scatter = 1.0 + tolerance.rms_scatter / np.sqrt(sum(counts))
        most = {}
        for name, row in floors.items():
            # of a class of few atoms even this scatters, so that of the worst copy counts
            own = max(one[name] for copies in noise for one in copies)
            floor = float(np.sqrt(np.mean(np.square(row)))) if row else 0.0
            most[name] = scatter * max(floor, tolerance.rms_noise * own) if row else 0.0
        return most


@dataclass(frozen=True)
class _Place:
    """Structure ``s`` of batch ``k``: tolerance, and the student's own rounding, of copies and as it is."""

    k: int
    s: int
    limits: dict[str, float]
    rounding: dict[str, float]  # without stress where there is none
    own: dict[str, float]
    noise: float

    @property
    def widened(self) -> bool:
        return any(self.noise * size > self.limits[name] for name, size in self.rounding.items())

    def limit(self, name: str, further: float) -> float:
        return max(self.limits[name], self.noise * self.rounding[name] + further * self.own[name])


def turns(count: int) -> list[np.ndarray]:
    """Rotations, (3, 3) each; the first leaves everything as it is."""
    found, rng = [np.eye(3)], np.random.default_rng(0)
    while len(found) < count:
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        found.append(turn * np.sign(np.linalg.det(turn)))
    return found


def turned(student: Student, batch: StructureBatch, turn: np.ndarray) -> Arrays:
    """What the student says of a batch that is turned, turned back."""
    moved = replace(batch, positions=batch.positions @ turn, cell=batch.cell @ turn)
    found = vars(student.evaluate(moved))
    back = {"forces": found["forces"] @ turn.T, "stress": turn @ found["stress"] @ turn.T}
    return found | back


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


def _spread(found: Sequence[Arrays]) -> dict[str, float]:
    """Largest differences between evaluations of the same."""
    names = {"energy": "energy", "force": "forces", "stress": "stress", "atom_energy": "atom_energies"}
    return {key: float(np.ptp([one[name] for one in found], axis=0).max()) for key, name in names.items()}


def _largest(shares: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """The largest share of a tolerance and what it is of; what is no number is the largest."""
    share, worst = max((np.inf if np.isnan(share) else share, name) for share, name in shares)
    return float(share), worst.replace("_", " ")


def _summarise(
    rows: list[dict[str, float]],
    shares: list[tuple[float, str]],
    rms: dict[str, float] | None,
    widened: int,
) -> Parity:
    share, worst = _largest(shares)
    stress = [row["stress"] for row in rows if "stress" in row]
    return Parity(
        n_structures=len(rows),
        energy_mev=1000 * float(np.max([row["energy"] for row in rows])),
        force_mev_per_a=1000 * float(np.max([row["force"] for row in rows])),
        stress_mev_per_a3=1000 * float(np.max(stress)) if stress else None,
        force_rms_mev_per_a=1000 * rms["force"] if rms else None,
        atom_energy_rms_mev=1000 * rms["atom_energy"] if rms else None,
        share=share,
        worst=worst,
        widened=widened,
    )


def _mixed(structures: dict[str, list[Atoms]]) -> list[Atoms]:
    """One of each class, in one call: structures with and without pairs, with and without a cell."""
    return [frames[0] for kind, frames in structures.items() if kind != MANY]


def _parts(frames: list[Atoms]) -> list[list[Atoms]]:
    return [frames[k : k + TOGETHER] for k in range(0, len(frames), TOGETHER)]
