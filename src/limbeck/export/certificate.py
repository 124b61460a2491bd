"""The parity certificate: an exported file, loaded in its own runtime, against the student it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms

from limbeck.core.structures import StructureBatch
from limbeck.export.runtimes import Arrays, Runtime, make_inputs
from limbeck.export.structures import MANY
from limbeck.runtime.student import Student

REVISION = 2  #: of files and certificates: finalize makes those of an earlier one anew
TOGETHER = 8  #: structures evaluated in one call at most, so that batches are compared as well
REPEATS = 20  #: evaluations of one structure on all threads
#: quantity of a certificate -> output of an export
OUTPUTS = {"energy": "energy", "force": "forces", "atom_energy": "atom_energies", "stress": "stress"}

Deviations = dict[str, float]  #: by quantity, eV and Å; without stress where there is none


@dataclass(frozen=True)
class Tolerance:
    """What two paths of one precision may differ by: what is rounding, and what is damage (docs/exports.md).

    Largest deviations, a structure at a time: forces ``force_a`` eV/Å + ``force_r`` · max|F|; the energy, and
    each atom's, ``energy_r`` · Σ|eᵢ - E0ᵢ|, at least N times the energy scale, as least-squares references
    may cancel nearly all of it; stress N · rc / V times the tolerance of forces.

    Where ``noise`` times the student's own distance from float64 is more, that is the limit, and the
    structure is ``widened``. That distance is the root mean square over copies turned in space, until a class
    has ``copied_atoms``, ``copies`` times (least, most); by its engine or PyTorch, whichever is more.

    Rounding is random and damage is not. So root mean squares from float64 over the other structures of a
    class may be only ``rms_share`` of the limits of forces and stress and ``rms_energy`` of the energy's an
    atom, or ``rms_noise`` times the student's own; for n atoms ``1 + rms_scatter / sqrt(n)`` times that.
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
        None without one.
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
        both = {"student": self.against_student, "float64": self.against_float64}
        parts = [(p.share, kind, of, p.worst) for of, found in both.items() for kind, p in found.items()]
        share, kind, of, worst = max(parts)
        return f"{kind}: {worst} is {share:.3g} of the tolerance off ({of})"


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
        what = f"{self.atoms} atoms evaluated {self.repeats} times on {self.threads} threads"
        return f"{what}: {self.worst} is {self.share:.3g} of the tolerance off"


@dataclass(frozen=True)
class _Place:
    """Structure ``s`` of batch ``k``: tolerance; the student's rounding of copies, widened, and as it is."""

    k: int
    s: int
    atoms: int
    limits: Deviations
    rounding: Deviations
    own: Deviations

    @property
    def widened(self) -> bool:
        return any(size > self.limits[name] for name, size in self.rounding.items())

    def limit(self, name: str, further: float) -> float:
        return max(self.limits[name], self.rounding[name] + further * self.own[name])


class References:
    """A student's own answers for classes of structures, in its precision and in float64."""

    def __init__(self, student: Student, structures: dict[str, list[Atoms]]) -> None:
        self.student, self.structures = student, structures
        self.precision = student.capabilities.precision
        self.tolerance = TOLERANCES[self.precision]
        # one of each class in one call: structures with and without pairs, with and without a cell
        mixed = [frames[0] for kind, frames in structures.items() if kind != MANY]
        self.batches = [
            (kind, StructureBatch.from_atoms(frames[k : k + TOGETHER]))
            for kind, frames in {**structures, "mixed batch": mixed}.items()
            for k in range(0, len(frames), TOGETHER)
        ]
        self.inputs = [make_inputs(batch, student.cutoff) for _, batch in self.batches]
        self.own = [vars(student.evaluate(batch)) for _, batch in self.batches]
        exact = Student(student.record, engine="torch", precision="float64")
        self.exact = [vars(exact.evaluate(batch)) for _, batch in self.batches]
        other = Student(student.record, engine="torch", precision=self.precision)
        engines = [other] if student.backend.name == other.backend.name else [student, other]
        #: batch -> engine -> copy -> the student's own answer, turned back
        self.rounded: list[list[list[Arrays]]] = []
        for kind, batch in self.batches:
            atoms = sum(one.n_atoms for of, one in self.batches if of == kind)
            copies = int(np.clip(self.tolerance.copied_atoms // max(atoms, 1), *self.tolerance.copies))
            self.rounded.append([[turned(one, batch, turn) for turn in turns(copies)] for one in engines])
        table = student.record.baseline.references
        self.isolated = [np.array([table[int(z)] for z in batch.numbers]) for _, batch in self.batches]

    def compare(self, runtime: Runtime) -> Comparison:
        """What ``runtime`` makes of the file it has loaded as ``model``."""
        found, kinds = [runtime.evaluate(inputs)[0] for inputs in self.inputs], dict(self.batches)
        student = {kind: self._parity(kind, found, self.own) for kind in kinds}
        exact = {kind: self._parity(kind, found, self.exact) for kind in kinds}
        return Comparison(student, exact, self.student.backend.name)

    def repeat(self, runtime: Runtime, threads: int) -> Repeats:
        """Many evaluations of the structure of many atoms; ``threads``: with which the file was loaded."""
        k = [kind for kind, _ in self.batches].index(MANY)
        batch, place = self.batches[k][1], self._place(k, 0)
        found = runtime.evaluate(self.inputs[k], calls=REPEATS)
        spread = {key: float(np.ptp([one[OUTPUTS[key]] for one in found], axis=0).max()) for key in place.own}
        shares = [(spread[key] / place.limit(key, 0.0), f"{key} between evaluations") for key in spread]
        for number, one in enumerate(found):
            off = largest(differences(batch, 0, one, self.own[k]))
            shares += [(off[key] / place.limit(key, 1.0), f"{key} of evaluation {number}") for key in off]
        milli = {key: 1000 * size for key, size in spread.items()}
        return Repeats(
            int(batch.n_atoms), len(found), threads, milli["energy"], milli["force"], milli.get("stress"),
            milli["atom_energy"], *_worst(shares),
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
        rms = self._deviations(calm, found, wanted) if calm else None
        if rms is not None and wanted is self.exact:
            most = self._rms_limits(calm)
            shares += [(rms[name] / most[name], f"rms {name}") for name in rms if most[name]]
        sizes = {key: [row[key] for row in rows if key in row] for key in OUTPUTS}
        milli = {key: 1000 * float(np.max(row)) for key, row in sizes.items() if row}
        return Parity(
            len(rows), milli["energy"], milli["force"], milli.get("stress"),
            1000 * rms["force"] if rms else None, 1000 * rms["atom_energy"] if rms else None,
            *_worst(shares), widened=len(places) - len(calm),
        )  # fmt: skip

    def _place(self, k: int, s: int) -> _Place:
        batch, exact = self.batches[k][1], self.exact[k]
        own = largest(differences(batch, s, self.own[k], exact))
        engines = [[largest(differences(batch, s, one, exact)) for one in row] for row in self.rounded[k]]
        noise = {name: max(_rms([one[name] for one in copies]) for copies in engines) for name in own}
        rounding = {name: self.tolerance.noise * size for name, size in noise.items()}
        return _Place(k, s, int(batch.counts[s]), self._limits(k, s), rounding, own)

    def _limits(self, k: int, s: int) -> Deviations:
        """The tolerance of one structure, in eV and Å."""
        tolerance, batch, exact = self.tolerance, self.batches[k][1], self.exact[k]
        atoms = slice(batch.offsets[s], batch.offsets[s + 1])
        force = tolerance.force_a + tolerance.force_r * np.abs(exact["forces"][atoms]).max(initial=0.0)
        size = np.abs(exact["atom_energies"][atoms] - self.isolated[k][atoms]).sum()
        energy = tolerance.energy_r * max(size, batch.counts[s] * self.student.architecture.energy_scale)
        stress = force * batch.counts[s] * self.student.cutoff / (batch.volume[s] or np.inf)
        return {"force": force, "energy": energy, "atom_energy": energy, "stress": stress}

    def _deviations(
        self, places: Sequence[_Place], found: Sequence[Arrays], wanted: Sequence[Arrays]
    ) -> Deviations:
        """Root mean squares over structures; of stress over those that have one, else zero."""
        off = [differences(self.batches[p.k][1], p.s, found[p.k], wanted[p.k]) for p in places]
        rows = {
            name: [one[name].ravel() for one in off if name in one] for name in OUTPUTS if name != "energy"
        }
        return {name: _rms(np.concatenate(row)) if row else 0.0 for name, row in rows.items()}

    def _rms_limits(self, places: Sequence[_Place]) -> Deviations:
        """What root mean squares may be, in eV and Å; zero for stress without a cell."""
        tolerance, share = self.tolerance, self.tolerance.rms_share
        floors = {
            "force": [share * place.limits["force"] for place in places],
            "stress": [share * place.limits["stress"] for place in places if "stress" in place.own],
            "atom_energy": [tolerance.rms_energy * place.limits["energy"] / place.atoms for place in places],
        }
        # a batch of more atoms has fewer copies: from its first again
        noise = [
            self._deviations(places, [one[engine][k % len(one[engine])] for one in self.rounded], self.exact)
            for engine in range(len(self.rounded[0]))
            for k in range(max(len(one[0]) for one in self.rounded))
        ]
        scatter = 1.0 + tolerance.rms_scatter / np.sqrt(sum(place.atoms for place in places))
        # of a class of few atoms even this scatters, so that of the worst copy counts
        own = {name: tolerance.rms_noise * max(one[name] for one in noise) for name in floors}
        return {name: scatter * max(_rms(row), own[name]) if row else 0.0 for name, row in floors.items()}


def turns(count: int) -> list[np.ndarray]:
    """Rotations, (3, 3) each; the first leaves everything as it is."""
    found, rng = [np.eye(3)], np.random.default_rng(0)
    while len(found) < count:
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        found.append(turn * np.sign(np.linalg.det(turn)))
    return found


def turned(student: Student, batch: StructureBatch, turn: np.ndarray) -> Arrays:
    """What the student makes of a batch that is turned, turned back."""
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


def _rms(values: Sequence[float] | np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0


def _worst(shares: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """The largest share of a tolerance and what it is of; what is no number is the largest."""
    share, worst = max((np.inf if np.isnan(share) else share, name) for share, name in shares)
    return float(share), worst.replace("_", " ")
