"""The parity certificate: an exported file, loaded in its own runtime, against the student it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
from ase import Atoms

from limbeck.core.structures import StructureBatch
from limbeck.export.runtimes import Arrays, make_inputs
from limbeck.export.structures import MANY
from limbeck.runtime.student import Student

#: of what exported files hold and certificates ask: those of an earlier one are made anew by finalize
REVISION = 2
#: structures evaluated in one call at most, so that batches are compared as well
TOGETHER = 8
#: evaluations of one structure on all threads
REPEATS = 20
#: quantity of a certificate -> output of an export
OUTPUTS = {"energy": "energy", "force": "forces", "atom_energy": "atom_energies", "stress": "stress"}

Deviations = dict[str, float]  #: by quantity, eV and Å; without stress where there is none


@dataclass(frozen=True)
class Tolerance:
    """What two paths of one precision may differ by: what is rounding, and what is damage.

    The largest deviations, a structure at a time. Forces: ``force_a`` eV/Å + ``force_r`` · max|F|. Energy:
    ``energy_r`` · Σ|eᵢ - E0ᵢ|, the sum over atoms of their interaction energies; an atom's energy likewise.
    References fitted by least squares, without isolated atoms, hold most of the cohesion, and what is left
    may cancel to nothing, while the network's arithmetic works in units of its energy scale: the sum
    counts as N times that at least. Stress: the tolerance of forces acting over the cutoff on every
    atom, N · rc / V times it, eV/Å³.

    A student rounds as well, far from its training data more than that. Where ``noise`` times its own
    distance from float64 is more, that is the limit, and the certificate counts the structure as
    ``widened``; from the student itself an export may be the student's distance further.

    Rounding is random and damage is not, so root mean squares from float64, over the structures of a
    class that are not widened, are held to less: ``rms_share`` of the limits above for forces and stress,
    ``rms_energy`` of the energy's an atom for atomic energies, or ``rms_noise`` times the student's own in
    the worst of its copies. The root mean square of few atoms scatters: of n it may be ``1 + rms_scatter /
    sqrt(n)`` times that (of independent ones the standard deviation is 0.7 / sqrt(n); neighbours share
    theirs).

    One evaluation may round well by chance, and another processor adds in another order: a student's own
    distance is the root mean square over copies of the structure, turned in space, which is the same
    arithmetic on other digits; by its engine or by PyTorch in the same precision, whichever is more.
    Fewer atoms need more copies: a class of structures is turned until it holds ``copied_atoms``, ``copies``
    times (least, most).
    """

    force_a: float
    force_r: float
    energy_r: float
    noise: float = 4.0
    rms_share: float = 0.1
    rms_energy: float = 1.0
    rms_noise: float = 2.0
    rms_scatter: float = 2.0
    copied_atoms: int = 1024
    copies: tuple[int, int] = (2, 8)


TOLERANCES = {
    "float32": Tolerance(force_a=1e-5, force_r=2e-5, energy_r=1e-6),
    "float64": Tolerance(force_a=1e-9, force_r=1e-9, energy_r=1e-9),
}


@dataclass(frozen=True)
class Parity:
    """One class of structures: the largest deviations, and how much of their tolerance they use.

    Attributes
    ----------
    energy_mev, force_mev_per_a, stress_mev_per_a3: largest absolute deviation; stress None without cells.
    force_rms_mev_per_a, atom_energy_rms_mev: root mean squares over the structures that are not widened,
        None without one; evaluated against float64 only.
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
        parts = [
            (part.share, kind, reference, part)
            for reference, found in (("student", self.against_student), ("float64", self.against_float64))
            for kind, part in found.items()
        ]
        _, kind, reference, part = max(parts, key=lambda row: row[:2])
        return f"{kind}: {part.worst} is {part.share:.3g} of the tolerance off ({reference})"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


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


class Evaluates(Protocol):
    """What a certificate asks of a :class:`~limbeck.export.runtimes.Runtime`."""

    def evaluate(self, inputs: Arrays, name: str = "model", calls: int = 1) -> list[Arrays]: ...


@dataclass(frozen=True)
class _Place:
    """Structure ``s`` of batch ``k``: tolerance, and the student's own rounding, of copies and as it is."""

    k: int
    s: int
    atoms: int
    limits: Deviations
    rounding: Deviations
    own: Deviations
    noise: float

    @property
    def widened(self) -> bool:
        return any(self.noise * size > self.limits[name] for name, size in self.rounding.items())

    def limit(self, name: str, further: float) -> float:
        return max(self.limits[name], self.noise * self.rounding[name] + further * self.own[name])


class References:
    """A student's own answers for classes of structures, in its precision and in float64."""

    def __init__(self, student: Student, structures: dict[str, list[Atoms]]) -> None:
        self.structures = structures
        self.engine = student.backend.name
        self.precision = student.capabilities.precision
        self.tolerance = TOLERANCES[self.precision]
        self.cutoff, self.scale = student.cutoff, student.architecture.energy_scale
        # one of each class in one call: structures with and without pairs, with and without a cell
        mixed = [frames[0] for kind, frames in structures.items() if kind != MANY]
        self.batches = [
            (kind, StructureBatch.from_atoms(frames[k : k + TOGETHER]))
            for kind, frames in {**structures, "mixed batch": mixed}.items()
            for k in range(0, len(frames), TOGETHER)
        ]
        self.inputs = [make_inputs(batch, self.cutoff) for _, batch in self.batches]
        self.own = [vars(student.evaluate(batch)) for _, batch in self.batches]
        exact = Student(student.record, engine="torch", precision="float64")
        self.exact = [vars(exact.evaluate(batch)) for _, batch in self.batches]
        other = Student(student.record, engine="torch", precision=self.precision)
        engines = [other] if self.engine == other.backend.name else [student, other]
        #: batch -> engine -> copy -> the student's own answer, turned back
        self.rounded: list[list[list[Arrays]]] = []
        for kind, batch in self.batches:
            atoms = sum(len(one.numbers) for of, one in self.batches if of == kind)
            copies = int(np.clip(self.tolerance.copied_atoms // max(atoms, 1), *self.tolerance.copies))
            self.rounded.append([[turned(one, batch, turn) for turn in turns(copies)] for one in engines])
        table = student.record.baseline.references
        self.isolated = [np.array([table[int(z)] for z in batch.numbers]) for _, batch in self.batches]

    def compare(self, runtime: Evaluates, name: str = "model") -> Comparison:
        """What ``runtime`` makes of the file it has loaded under ``name``."""
        found = [runtime.evaluate(inputs, name)[0] for inputs in self.inputs]
        kinds = list(dict.fromkeys(kind for kind, _ in self.batches))
        student = {kind: self._parity(kind, found, self.own) for kind in kinds}
        exact = {kind: self._parity(kind, found, self.exact) for kind in kinds}
        return Comparison(against_student=student, against_float64=exact, engine=self.engine)

    def repeat(self, runtime: Evaluates, threads: int, name: str = "model") -> Repeats:
        """Many evaluations of the structure of many atoms; ``threads``: with which the file was loaded."""
        k = [kind for kind, _ in self.batches].index(MANY)
        batch, place = self.batches[k][1], self._place(k, 0)
        found = runtime.evaluate(self.inputs[k], name, REPEATS)
        spread = {key: float(np.ptp([one[OUTPUTS[key]] for one in found], axis=0).max()) for key in place.own}
        shares = [
            (size / place.limit(key, 0.0), f"{key} between evaluations") for key, size in spread.items()
        ]
        for number, one in enumerate(found):
            off = largest(differences(batch, 0, one, self.own[k]))
            shares += [(off[key] / place.limit(key, 1.0), f"{key} of evaluation {number}") for key in off]
        share, worst = _worst(shares)
        milli = {key: 1000 * size for key, size in spread.items()}
        return Repeats(
            int(batch.n_atoms), len(found), threads, milli["energy"], milli["force"], milli.get("stress"),
            milli["atom_energy"], share, worst,
        )  # fmt: skip

    def _parity(self, kind: str, found: Sequence[Arrays], wanted: Sequence[Arrays]) -> Parity:
        of_kind = [(k, batch) for k, (own, batch) in enumerate(self.batches) if own == kind]
        places = [self._place(k, s) for k, batch in of_kind for s in range(len(batch))]
        further = 0.0 if wanted is self.exact else 1.0
        rows, shares = [], []
        for number, place in enumerate(places):
            batch, where = self.batches[place.k][1], f"of structure {number}"
            off = largest(differences(batch, place.s, found[place.k], wanted[place.k]))
            shares += [(off[name] / place.limit(name, further), f"{name} {where}") for name in off]
            if not batch.volume[place.s] and (found[place.k]["stress"][place.s] != 0).any():
                shares.append((np.inf, f"stress {where}"))  # zero by definition
            rows.append(off)
        calm = [place for place in places if not place.widened]
        rms = self._rms(calm, found, wanted) if calm else None
        if rms is not None and wanted is self.exact:
            most = self._rms_limits(calm)
            shares += [(rms[name] / most[name], f"rms {name}") for name in rms if most[name]]
        share, worst = _worst(shares)
        largest_of = {
            key: 1000 * float(np.max([row[key] for row in rows if key in row])) for key in set().union(*rows)
        }
        return Parity(
            n_structures=len(rows), energy_mev=largest_of["energy"], force_mev_per_a=largest_of["force"],
            stress_mev_per_a3=largest_of.get("stress"),
            force_rms_mev_per_a=1000 * rms["force"] if rms else None,
            atom_energy_rms_mev=1000 * rms["atom_energy"] if rms else None,
            share=share, worst=worst, widened=len(places) - len(calm),
        )  # fmt: skip

    def _place(self, k: int, s: int) -> _Place:
        batch, exact = self.batches[k][1], self.exact[k]
        own = largest(differences(batch, s, self.own[k], exact))
        engines = [[largest(differences(batch, s, one, exact)) for one in row] for row in self.rounded[k]]
        noise = {
            name: max(float(np.sqrt(np.mean([one[name] ** 2 for one in copies]))) for copies in engines)
            for name in own
        }
        return _Place(k, s, int(batch.counts[s]), self._limits(k, s), noise, own, self.tolerance.noise)

    def _limits(self, k: int, s: int) -> Deviations:
        """The tolerance of one structure, in eV and Å."""
        tolerance, batch, exact = self.tolerance, self.batches[k][1], self.exact[k]
        atoms = slice(batch.offsets[s], batch.offsets[s + 1])
        force = tolerance.force_a + tolerance.force_r * np.abs(exact["forces"][atoms]).max(initial=0.0)
        size = np.abs(exact["atom_energies"][atoms] - self.isolated[k][atoms]).sum()
        energy = tolerance.energy_r * max(size, batch.counts[s] * self.scale)
        stress = force * batch.counts[s] * self.cutoff / (batch.volume[s] or np.inf)
        return {"force": force, "energy": energy, "atom_energy": energy, "stress": stress}

    def _rms(self, places: Sequence[_Place], found: Sequence[Arrays], wanted: Sequence[Arrays]) -> Deviations:
        """Root mean square deviations over structures; of stress over those that have one, else zero."""
        squares: dict[str, list[np.ndarray]] = {"force": [], "atom_energy": [], "stress": []}
        for place in places:
            off = differences(self.batches[place.k][1], place.s, found[place.k], wanted[place.k])
            for name in squares.keys() & off.keys():
                squares[name].append(np.square(off[name]).ravel())
        return {
            name: float(np.sqrt(np.concatenate(rows).mean())) if rows else 0.0
            for name, rows in squares.items()
        }

    def _rms_limits(self, places: Sequence[_Place]) -> Deviations:
        """What root mean squares may be, in eV and Å; zero for stress without a cell."""
        tolerance = self.tolerance
        floors = {
            "force": [tolerance.rms_share * place.limits["force"] for place in places],
            "stress": [
                tolerance.rms_share * place.limits["stress"] for place in places if "stress" in place.own
            ],
            "atom_energy": [tolerance.rms_energy * place.limits["energy"] / place.atoms for place in places],
        }
        # a batch of more atoms has fewer copies: from its first again
        noise = [
            self._rms(places, [one[engine][k % len(one[engine])] for one in self.rounded], self.exact)
            for engine in range(len(self.rounded[0]))
            for k in range(max(len(one[0]) for one in self.rounded))
        ]
        scatter = 1.0 + tolerance.rms_scatter / np.sqrt(sum(place.atoms for place in places))
        most = {}
        for name, row in floors.items():
            # of a class of few atoms even this scatters, so that of the worst copy counts
            own = max(one[name] for one in noise)
            floor = float(np.sqrt(np.mean(np.square(row)))) if row else 0.0
            most[name] = scatter * max(floor, tolerance.rms_noise * own) if row else 0.0
        return most


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
    return found | {"forces": found["forces"] @ turn.T, "stress": turn @ found["stress"] @ turn.T}


def differences(batch: StructureBatch, s: int, found: Arrays, wanted: Arrays) -> dict[str, np.ndarray]:
    """Quantity -> what one structure's outputs differ by; stress where it is defined."""
    atoms, one = slice(batch.offsets[s], batch.offsets[s + 1]), slice(s, s + 1)
    rows = {"energy": one, "force": atoms, "atom_energy": atoms, "stress": one}
    if not np.isfinite(wanted["stress"][s]).all():
        del rows["stress"]
    return {key: found[OUTPUTS[key]][row] - wanted[OUTPUTS[key]][row] for key, row in rows.items()}


def largest(off: dict[str, np.ndarray]) -> Deviations:
    return {name: float(np.abs(values).max(initial=0.0)) for name, values in off.items()}


def _worst(shares: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """The largest share of a tolerance and what it is of; what is no number is the largest."""
    share, worst = max((np.inf if np.isnan(share) else share, name) for share, name in shares)
    return float(share), worst.replace("_", " ")
