"""The caching ASE calculator against ASE's own bookkeeping around ``Student.evaluate``."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.calculators.mixing import SumCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.filters import FrechetCellFilter
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress

from limbeck.core.labels import Labels
from limbeck.core.potential import Capabilities, Potential, PotentialCalculator
from limbeck.errors import InputError
from limbeck.runtime.student import Calculator, Student
from tests.students.tools import random_record, rattled


class Plain(AseCalculator):
    """ASE's own bookkeeping and one ``Student.evaluate`` a calculation: the oracle."""

    implemented_properties = ("energy", "free_energy", "forces", "stress", "energies")

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        labels = self.student.evaluate([self.atoms])
        energy = float(labels.energy[0])
        self.results = {"energy": energy, "free_energy": energy, "forces": labels.forces}
        self.results["energies"] = labels.atom_energies
        if np.isfinite(labels.stress[0]).all():
            self.results["stress"] = full_3x3_to_voigt_6_stress(labels.stress[0])


class Counting(Calculator):
    """Counts evaluations."""

    evaluations = 0

    def results_of(self, atoms):
        self.evaluations += 1
        return super().results_of(atoms)


@pytest.fixture(scope="module")
def student() -> Student:
    return Student(random_record(), threads=1)


@pytest.fixture(scope="module")
def silicon() -> Student:
    return Student.load("silicon-tiny", threads=1, precision="float64")


def crystal() -> Atoms:
    return rattled(bulk("Si", cubic=True), 4)


def move(atoms):
    atoms.positions[1, 2] += 1e-12


CHANGES = {
    "positions": move,
    "positions by hand": lambda a: a.arrays["positions"].__setitem__((0, 0), a.positions[0, 0] + 0.1),
    "cell": lambda a: a.cell.__setitem__((0, 1), 0.3),
    "cell and positions": lambda a: a.set_cell(a.cell.array * 1.02, scale_atoms=True),
    "numbers": lambda a: a.numbers.__setitem__(3, 8),
    "pbc": lambda a: a.pbc.__setitem__(2, False),
    "charge": lambda a: a.info.__setitem__("charge", 1.0),
    "an atom more": lambda a: a.extend(Atoms("O", [[1.0, 3.9, 0.2]])),
    "an atom less": lambda a: a.pop(),
}


@pytest.mark.filterwarnings("ignore::limbeck.runtime.guard.OutOfDomainWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_noticed(student, name):
    atoms = crystal()
    atoms.calc = Counting(student)
    atoms.get_forces()
    CHANGES[name](atoms)
    assert atoms.calc.calculation_required(atoms, ["energy"])
    assert atoms.calc.get_property("energy", atoms, allow_calculation=False) is None
    fresh = atoms.copy()
    fresh.calc = Plain(student)
    np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), atol=1e-11)
    assert atoms.calc.evaluations == 2
    assert not atoms.calc.calculation_required(atoms, ["energy", "forces"])


def test_check_state_names_what_changed(student):
    atoms = crystal()
    atoms.calc = calculator = Calculator(student)
    assert set(calculator.check_state(atoms)) >= set(all_changes)
    atoms.get_forces()

    def changes() -> tuple[list[str], list[str]]:
        return calculator.check_state(atoms), sorted(calculator.check_state(atoms, tol=1e-3))

    assert changes() == ([], [])
    atoms.info["charge"] = -1
    assert changes() == (["charge"], ["charge"])
    del atoms.info["charge"]
    move(atoms)
    assert changes() == (["positions"], [])
    atoms.cell[0, 0] += 0.1
    atoms.pbc = False
    assert changes() == (["positions", "cell", "pbc"], ["cell", "pbc"])
    calculator.reset()
    assert (calculator.atoms, calculator.results) == (None, {})
    assert calculator.calculation_required(atoms, ["energy"])


def test_what_a_student_never_sees_keeps_the_results(student):
    atoms = crystal()
    atoms.calc = Counting(student)
    energy = atoms.get_potential_energy()
    atoms.set_momenta(np.ones((8, 3)))
    atoms.set_initial_charges(np.ones(8))
    atoms.set_initial_magnetic_moments(np.ones(8))
    atoms.set_tags(np.arange(8))
    atoms.set_constraint(FixAtoms([0]))
    assert atoms.get_potential_energy() == energy
    assert (atoms.get_forces()[0] == 0).all()
    assert (atoms.get_forces(apply_constraint=False)[0] != 0).all()
    atoms.get_stress()
    atoms.get_potential_energies()
    assert atoms.calc.evaluations == 1


def test_a_caller_cannot_change_the_cache_nor_a_failure_leave_any(student):
    atoms = crystal()
    atoms.calc = calculator = Calculator(student)
    names = calculator.implemented_properties
    kept = {name: np.copy(calculator.get_property(name, atoms)) for name in names}
    for name in names:
        value = calculator.get_property(name, atoms)
        if isinstance(value, np.ndarray):
            value[:] = 7.0
    calculator.atoms.positions[:] = 7.0
    for name, value in kept.items():
        np.testing.assert_array_equal(calculator.get_property(name, atoms), value)
    assert calculator.check_state(atoms) == []
    good = atoms.positions.copy()
    atoms.positions[0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        atoms.get_forces()
    assert calculator.results == {}
    atoms.positions[:] = good
    assert atoms.get_potential_energy() == pytest.approx(kept["energy"], rel=1e-13)


def test_atoms_are_those_of_the_last_evaluation(student):
    atoms = crystal()
    atoms.info["charge"] = 2
    calculator = Calculator(student, guarded=False)
    with pytest.raises(InputError, match="no structure to evaluate; wanted atoms"):
        calculator.get_forces()
    forces = calculator.get_forces(atoms)
    move(atoms)
    assert calculator.atoms != atoms
    assert calculator.atoms.info == {"charge": 2.0}
    np.testing.assert_array_equal(calculator.get_forces(), forces)
    calculator.calculate(atoms)
    assert calculator.atoms == atoms
    calculator.atoms = bulk("Si")
    assert calculator.check_state(bulk("Si")) == []


def test_stresses_of_atoms_add_up_and_other_properties_are_not_there(student):
    atoms = crystal()
    atoms.calc = Calculator(student)
    stress = atoms.get_stress()
    stresses = atoms.get_stresses()
    assert stresses.shape == (len(atoms), 6)
    assert np.abs(stress).max() > 1e-3
    np.testing.assert_allclose(stresses.sum(axis=0), stress, rtol=0, atol=1e-12)
    np.testing.assert_allclose(atoms.get_stress(), stress, rtol=0, atol=1e-12)
    atoms = molecule("H2O")
    atoms.calc = Calculator(student)
    for ask in (atoms.get_stress, atoms.get_stresses, atoms.get_dipole_moment, atoms.get_magnetic_moment):
        with pytest.raises(PropertyNotImplementedError, match="not (present|implemented)"):
            ask()
    atoms.get_forces()
    assert set(atoms.calc.export_properties()) == {"energy", "energies", "forces", "free_energy", "natoms"}


def test_files_keep_the_results_and_calculators_add_up(student, tmp_path):
    atoms, asked = crystal(), (Atoms.get_potential_energy, Atoms.get_forces, Atoms.get_stress)
    atoms.calc = Calculator(student)
    wanted = [ask(atoms) for ask in asked]
    for name in ("a.extxyz", "a.traj"):
        ase.io.write(tmp_path / name, atoms)
        read = ase.io.read(tmp_path / name)
        for found, value in zip([ask(read) for ask in asked], wanted, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-8, atol=1e-7)
    with connect(tmp_path / "a.json") as database:
        database.write(atoms)
        row = database.get(1)
    assert (row.energy, row.calculator) == (pytest.approx(wanted[0]), "limbeck")
    atoms.calc = SumCalculator([Calculator(student), Calculator(student)])
    np.testing.assert_allclose(atoms.get_forces(), 2 * wanted[1], rtol=1e-12)
    atoms.rattle(0.01, seed=1)
    assert np.abs(atoms.get_forces() - 2 * wanted[1]).max() > 1e-6


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])  # noqa: S301
def test_copies_keep_results_and_options_and_go_their_own_way(student, clone):
    atoms = crystal()
    atoms.calc = calculator = Counting(student, skin=0.3, strict=True)
    forces = atoms.get_forces()
    twin = clone(calculator)
    np.testing.assert_array_equal(twin.get_property("forces", atoms), forces)
    assert (twin.evaluations, twin.guard.strict, twin._session.skin) == (1, True, 0.3)
    twin.guard.counts["density"] += 1
    move(atoms)
    twin.get_forces(atoms)
    assert calculator.guard.counts["density"] == 0
    assert calculator.check_state(atoms) == ["positions"]
    assert twin._session is not calculator._session


def test_invalid_options(student):
    with pytest.raises(InputError, match="options .* got precision; remedy: give them to Student.load"):
        Calculator(student, precision="float32")
    with pytest.raises(InputError, match="skin; got -1; wanted Å, zero or more"):
        Calculator(student, skin=-1)


@pytest.mark.parametrize("wrap", [lambda a: a, FrechetCellFilter])
def test_relaxation_agrees_with_plain_ase(silicon, wrap):
    ends, steps = [], []
    for calculator in (Calculator(silicon), Plain(silicon)):
        atoms = crystal()
        strain = np.array([[1.03, 0.01, 0], [0, 0.98, 0], [0, 0, 1.02]])
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.calc = calculator
        optimizer = BFGS(wrap(atoms), logfile=None)
        assert optimizer.run(fmax=0.01, steps=80)
        ends.append(atoms)
        steps.append(optimizer.nsteps)
    lean, plain = ends
    assert steps[0] == steps[1] > 3
    np.testing.assert_allclose(lean.positions, plain.positions, atol=1e-8)
    np.testing.assert_allclose(lean.cell.array, plain.cell.array, atol=1e-8)
    assert lean.get_potential_energy() == pytest.approx(plain.get_potential_energy(), abs=1e-9)


def test_dynamics_agree_with_plain_ase_and_keep_the_energy(silicon):
    ends = []
    for calculator in (Calculator(silicon), Plain(silicon)):
        atoms = bulk("Si", cubic=True)
        thermalize_momenta(atoms, 600, rng=np.random.default_rng(7))
        atoms.calc = calculator
        steps = VelocityVerlet(atoms, 1.0 * units.fs).irun(100)
        energies = np.array([(atoms.get_potential_energy(), atoms.get_kinetic_energy()) for _ in steps])
        ends.append(atoms.positions)
        total, kinetic = energies.sum(1), np.ptp(energies[:, 1])
        assert np.abs(total - total[0]).max() < 0.02 * kinetic
        assert kinetic > 0.1
    np.testing.assert_allclose(*ends, atol=1e-8)


def test_a_crystal_is_evaluated_without_torch():
    code = (
        "import sys\nfrom ase.build import bulk\nimport limbeck\natoms = bulk('Si', cubic=True)\n"
        "atoms.calc = limbeck.Calculator('silicon-tiny', threads=1)\natoms.get_forces()\natoms.get_stress()\n"
        "heavy = {'torch', 'vesin', 'lightning_fabric'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Charged(Potential):
    """Its energy is the total charge."""

    name, capabilities = "charged", Capabilities()

    def evaluate(self, batch):
        return Labels(energy=batch.charge.copy(), forces=np.zeros((batch.n_atoms, 3)))


def test_a_potential_that_depends_on_the_charge():
    atoms = molecule("H2O")
    atoms.calc = PotentialCalculator(Charged())
    assert atoms.get_potential_energy() == 0
    atoms.info["charge"] = -1
    assert atoms.get_potential_energy() == -1
    with pytest.raises(PropertyNotImplementedError, match="energies not present"):
        atoms.get_potential_energies()
