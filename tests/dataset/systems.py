"""Small correct data sets of many kinds, labelled by common calculators; no constant was fitted to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.calculators.tersoff import Tersoff, TersoffParameters
from ase.calculators.tip3p import TIP3P, angleHOH, rOH
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.neighborlist import neighbor_list
from ase.optimize import BFGS
from scipy.special import erfc

from limbeck.core.labels import LabelledSet
from limbeck.dataset.read import labelled_from_atoms

#: Si, Tersoff 1988, doi:10.1103/PhysRevB.38.9902
TERSOFF_SI = TersoffParameters(
    A=1830.8, B=471.18, lambda1=2.4799, lambda2=1.7322, lambda3=1.7322, beta=1.1e-6, gamma=1.0, m=3.0,
    n=0.78734, c=1.0039e5, d=16.217, h=-0.59825, R=2.85, D=0.15,
)  # fmt: skip
ORGANIC = "CH3CH2OH CH3COOH C6H6 CH3NO2 C2H6 CH3OCH3 CH3CN H2CO HCOOH C3H8 CO2".split()
COULOMB_EV_A = 14.399645
ARGON_LJ = {"sigma": 3.4, "epsilon": 0.0104, "rc": 7.5, "smooth": True}


class RockSalt(Calculator):
    """Charges of ±1, Coulomb as Fennell and Gezelter 2006 (doi:10.1063/1.2206581) cut it off, and a
    Born-Mayer wall between unlike ions that binds NaCl at 2.8 Å."""

    implemented_properties = ("energy", "forces", "stress")
    wall, rho, alpha, cutoff = 1090.0, 0.321, 0.2, 9.0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        charge, a, c = np.where(self.atoms.numbers == 11, 1.0, -1.0), self.alpha, self.cutoff
        i, j, r, vector = neighbor_list("ijdD", self.atoms, c)

        def decay(x):
            return erfc(a * x) / x**2 + 2 * a / np.sqrt(np.pi) * np.exp(-((a * x) ** 2)) / x

        qq = COULOMB_EV_A * charge[i] * charge[j]
        wall = np.where(qq < 0, self.wall * np.exp(-r / self.rho), 0.0)
        energy = qq * (erfc(a * r) / r - erfc(a * c) / c + decay(c) * (r - c)) + wall
        pull = ((-qq * (decay(r) - decay(c)) - wall / self.rho) / r)[:, None] * vector
        forces = np.stack([np.bincount(i, pull[:, x], minlength=len(charge)) for x in range(3)], axis=1)
        stress = 0.5 * np.einsum("pi,pj->ij", pull, vector) / self.atoms.get_volume()
        voigt = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        self.results = {"energy": 0.5 * energy.sum(), "forces": forces, "stress": voigt}


def labelled_by(calculator: Calculator, frames: Iterable[Atoms]) -> LabelledSet:
    done = [atoms.copy() for atoms in frames]
    for frame in done:
        frame.calc = calculator
        results = {"energy": frame.get_potential_energy(), "forces": frame.get_forces().copy()}
        if frame.pbc.all() and "stress" in calculator.implemented_properties:
            results["stress"] = frame.get_stress()
        frame.calc = SinglePointCalculator(frame, **results)
    return labelled_from_atoms(done, "made here")


def labelled_by_emt(frames: Iterable[Atoms]) -> LabelledSet:
    return labelled_by(EMT(), frames)


def alloy_frames(count: int, seed: int = 0, strain: float = 0.015) -> list[Atoms]:
    """Rattled CuAu cells of 32 atoms, every second one sheared."""
    ideal = bulk("Cu", cubic=True) * (2, 2, 2)
    ideal.numbers[::2] = 79
    ideal.set_cell(ideal.cell * 1.06, scale_atoms=True)
    both = distorted(ideal, count, 0.05, 0.0, seed), distorted(ideal, count, 0.05, strain, seed)
    return [both[k % 2][k] for k in range(count)]


def distorted(ideal: Atoms, count: int, rattle: float, strain: float, seed: int = 0) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        frame = ideal.copy()
        deformation = np.eye(3) + rng.normal(scale=strain, size=(3, 3))
        frame.set_cell(frame.cell.array @ deformation, scale_atoms=True)
        frame.rattle(rattle, rng=rng)
        frames.append(frame)
    return frames


def rattled(names: Iterable[str], each: int, stdev: float) -> list[Atoms]:
    return [frame for name in names for frame in distorted(molecule(name), each, stdev, 0.0, len(name))]


def dynamics(atoms: Atoms, calculator: Calculator, kelvin: float, every: int, fs: float = 2.0) -> LabelledSet:
    """Forty frames of Langevin dynamics."""
    rng, frames = np.random.default_rng(1), []
    atoms.calc = calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=rng)
    md = Langevin(atoms, fs * units.fs, temperature_K=kelvin, friction=0.02 / units.fs, rng=rng)
    for _ in range(40):
        md.run(every)
        frames.append(atoms.copy())
    return labelled_by(calculator, frames)


def relaxed(frames: Iterable[Atoms], calculator: Calculator) -> LabelledSet:
    """Forces of nearly zero, energies that differ."""
    done = []
    for atoms in frames:
        atoms.calc = calculator
        BFGS(atoms, logfile=None).run(fmax=0.02, steps=50)
        done.append(atoms)
    return labelled_by(calculator, done)


def lattices(scales: Iterable[float]) -> list[Atoms]:
    ideal = (("fcc", 3.6), ("bcc", 2.87), ("sc", 2.4), ("diamond", 5.4))
    return [bulk("Cu", name, a=a * x, cubic=True) for name, a in ideal for x in scales]


def slabs() -> list[Atoms]:
    frames = []
    for k in range(24):
        slab = fcc111("Pt", (2, 2, 3), vacuum=7.0)
        add_adsorbate(slab, "O", 1.2 + 0.08 * k, "fcc")
        slab.rattle(0.04, seed=k)
        frames.append(slab)
    return frames


def displaced(ideal: Atoms) -> list[Atoms]:
    """As for phonons: one atom moved by 0.01 Å."""
    frames = [ideal.copy() for _ in range(40)]
    for k, frame in enumerate(frames):
        frame.positions[k % len(ideal), k % 3] += 0.01 * (-1) ** k
    return frames


def rigid_water() -> LabelledSet:
    """A random walk of 27 molecules: forces within a molecule come from the others."""
    half, rng, frames = np.radians(angleHOH) / 2, np.random.default_rng(0), []
    arm = rOH * np.array([0, np.cos(half), np.sin(half)])
    box = Atoms("OH2", [[0, 0, 0], arm, arm * [1, 1, -1]], cell=np.eye(3) * 3.1, pbc=True) * (3, 3, 3)
    for k in range(40):
        for m in range(0, 81, 3):
            own = box[m : m + 3]
            angle = rng.normal(scale=4.0) if k else rng.uniform(0, 360)
            own.rotate(angle, rng.normal(size=3), center=own.positions[0])
            box.positions[m : m + 3] = own.positions + rng.normal(scale=0.02, size=3)
        frames.append(box.copy())
    return labelled_by(TIP3P(rc=4.5), frames)


def xtb() -> Calculator:
    return pytest.importorskip("tblite.ase").TBLite(method="GFN2-xTB", verbosity=0)


def clusters() -> list[Atoms]:
    rng, frames = np.random.default_rng(3), []
    for _ in range(30):
        atoms = Atoms()
        for m in range(4):
            one = rattled(["H2O" if m else "CH3OH"], 1, 0.03)[0]
            one.rattle(0.03, rng=rng)
            one.rotate(rng.uniform(0, 360), rng.normal(size=3))
            one.translate([3.0 * (m % 2), 3.0 * (m // 2), 0.5 * rng.normal()])
            atoms += one
        frames.append(atoms)
    return frames


def tersoff() -> Calculator:
    return Tersoff({("Si", "Si", "Si"): TERSOFF_SI})


SILICON, SALT = bulk("Si", cubic=True), bulk("NaCl", "rocksalt", a=5.64, cubic=True)
ARGON = bulk("Ar", cubic=True, a=5.4) * (2, 2, 2)
COPPER = bulk("Cu", cubic=True) * (2, 2, 2)
SYSTEMS: dict[str, Callable[[], LabelledSet]] = {
    name: cache(make)
    for name, make in {
        "alloy": lambda: labelled_by_emt(alloy_frames(60)),
        "metal": lambda: dynamics(alloy_frames(1)[0], EMT(), 500, 5),
        "melt": lambda: dynamics(bulk("Al", cubic=True) * (2, 2, 2), EMT(), 2500, 6),
        "equations of state": lambda: labelled_by_emt(lattices(np.linspace(0.93, 1.1, 12))),
        "phases": lambda: labelled_by_emt(
            [frame for ideal in lattices([1.0]) for frame in distorted(ideal * (2, 2, 2), 8, 0.08, 0.02)]
        ),
        "phonons": lambda: labelled_by_emt(displaced(COPPER)),
        "bare slabs": lambda: labelled_by_emt(
            fcc111("Cu", (2, 2, k % 4 + 2), vacuum=5 + k % 3) for k in range(12)
        ),
        "slabs": lambda: labelled_by_emt(slabs()),
        "argon": lambda: dynamics(ARGON.copy(), LennardJones(**ARGON_LJ), 80, 8, 5.0),
        "strained argon": lambda: labelled_by(LennardJones(**ARGON_LJ), distorted(ARGON, 30, 0.15, 0.02)),
        "salt": lambda: dynamics(SALT.copy(), RockSalt(), 900, 3),
        "strained salt": lambda: labelled_by(RockSalt(), distorted(SALT, 40, 0.1, 0.02)),
        "silicon": lambda: dynamics(SILICON.copy(), tersoff(), 1200, 2),
        "strained silicon": lambda: labelled_by(tersoff(), distorted(SILICON, 40, 0.08, 0.015)),
        "rigid water": rigid_water,
        "molecules": lambda: labelled_by_emt(rattled(ORGANIC, 4, 0.05)),
        "relaxed molecules": lambda: relaxed(rattled(ORGANIC[:6], 3, 0.05), EMT()),
        "dimers": lambda: labelled_by_emt(
            Atoms("N2", [[0, 0, 0], [0, 0, d]]) for d in np.linspace(0.9, 3, 40)
        ),
        "ethanol, xtb": lambda: dynamics(molecule("CH3CH2OH"), xtb(), 400, 6, 1.0),
        "molecules, xtb": lambda: labelled_by(xtb(), rattled(ORGANIC, 3, 0.04)),
        "isomers, xtb": lambda: relaxed(
            rattled(("CH3CH2OH", "CH3OCH3", "isobutane", "trans-butane", "C3H4_C3v", "C3H4_C2v"), 4, 0.05),
            xtb(),
        ),
        "clusters, xtb": lambda: labelled_by(xtb(), clusters()),
    }.items()
}
