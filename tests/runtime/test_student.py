"""The Student as users meet it: lists of atoms, the ASE calculator, names, copies, refusals."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet

import limbeck
from limbeck.artifact.file import write_student
from limbeck.core.machine import available_threads
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.runtime import released
from limbeck.runtime.calculator import Calculator
from limbeck.runtime.released import find_student, list_students
from limbeck.runtime.student import Student
from tests.students.tools import SYSTEMS, random_record, rattled


@pytest.fixture(scope="module")
def student() -> Student:
    return Student(random_record(), threads=2)


@pytest.mark.parametrize("name", SYSTEMS)
def test_calculator_gives_what_the_student_says(student, name):
    atoms = SYSTEMS[name].copy()
    labels = student.evaluate([atoms])
    atoms.calc = Calculator(student)
    # the calculator's list of pairs has a skin and so another order
    scale = np.abs(labels.forces).max()
    assert atoms.get_potential_energy() == pytest.approx(labels.energy[0], rel=1e-12)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_forces(), labels.forces, rtol=0, atol=1e-12 * max(scale, 1.0))
    np.testing.assert_allclose(atoms.get_potential_energies(), labels.atom_energies, rtol=1e-12)
    assert labels.atom_energies.sum() == pytest.approx(labels.energy[0], rel=1e-12)
    if atoms.pbc.all():
        np.testing.assert_allclose(atoms.get_stress(voigt=False), labels.stress[0], rtol=0, atol=1e-13)
        np.testing.assert_allclose(labels.stress[0], labels.stress[0].T, atol=1e-15)
    else:
        assert np.isnan(labels.stress[0]).all()
        with pytest.raises(Exception, match="stress"):
            atoms.get_stress()


def test_list_batch_and_one_by_one_agree(student):
    frames = list(SYSTEMS.values())
    together = student.evaluate(frames)
    np.testing.assert_array_equal(student.evaluate(StructureBatch.from_atoms(frames)).forces, together.forces)
    alone = [student.evaluate([frame]) for frame in frames]
    np.testing.assert_array_equal(np.concatenate([part.energy for part in alone]), together.energy)
    np.testing.assert_array_equal(np.concatenate([part.forces for part in alone]), together.forces)
    nothing = student.evaluate([])
    assert nothing.energy.shape == (0,)
    assert nothing.forces.shape == (0, 3)


def test_native_and_torch_students_agree():
    record = random_record("tiny")
    frames = list(SYSTEMS.values())
    native = Student(record, threads=1).evaluate(frames)
    torch = Student(record, engine="torch").evaluate(frames)
    np.testing.assert_allclose(native.energy, torch.energy, rtol=1e-12)
    np.testing.assert_allclose(native.forces, torch.forces, atol=1e-10 * np.abs(torch.forces).max())
    np.testing.assert_allclose(native.stress, torch.stress, atol=1e-10)


def test_unknown_element(student):
    text = r"^ultra-tiny: the student does not know an element; got Fe, Au; wanted H C N O Si; remedy: train a student on structures that hold it$"
    with pytest.raises(InputError, match=text):
        student.evaluate([molecule("H2O"), Atoms("AuFeH", np.eye(3))])
    with pytest.raises(InputError, match="got X; wanted"):
        student.evaluate([Atoms("X")])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_that_are_not_finite(student, value):
    atoms = molecule("H2O")
    atoms.positions[2, 1] = value
    with pytest.raises(
        InputError, match=r"^ultra-tiny, atom 5: positions or cell are not finite; got NaN or inf$"
    ):
        student.evaluate([molecule("H2O"), atoms])
    cell = bulk("Si")
    cell.cell[0, 0] = value
    with pytest.raises(InputError, match="positions or cell are not finite"):
        student.evaluate([cell])


def test_no_volume(student):
    atoms = Atoms("Si", pbc=True, cell=np.zeros((3, 3)))
    flat = Atoms("Si", pbc=True, cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]])
    for bad in (atoms, flat):
        with pytest.raises(InputError, match=r"structure 1: the periodic cell has no volume"):
            student.evaluate([molecule("H2O"), bad])


def test_atoms_at_one_place(student):
    text = r"^structure 1, atoms 0 and 2: two atoms are at the same place; got 0 Å apart; wanted finite positions, no two alike; remedy: remove the duplicate atom$"
    with pytest.raises(InputError, match=text):
        student.evaluate([molecule("H2O"), Atoms("OHO", [[0, 0, 0], [0, 0, 1], [0, 0, 0]])])


@pytest.mark.parametrize("clone", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])  # noqa: S301
def test_calculators_are_copied(student, clone):
    atoms = rattled(bulk("Si", cubic=True), 2)
    calculator = Calculator(student)
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    other = atoms.copy()
    other.calc = clone(calculator)
    np.testing.assert_array_equal(other.get_forces(), atoms.get_forces())
    assert other.get_potential_energy() == energy
    assert other.calc.student.capabilities == student.capabilities


def test_a_copy_keeps_its_options():
    single = Student(random_record(), precision="float32", name="mine", threads=1)
    assert single.capabilities.precision == "float32"
    twin = copy.deepcopy(single)
    assert (twin.name, twin.capabilities.precision) == ("mine", "float32")


def test_dynamics_keep_the_energy(tmp_path):
    write_student(tmp_path / "s.safetensors", random_record())
    atoms = rattled(molecule("CH3CH2OH"), 1, 0.02)
    atoms.calc = limbeck.Calculator(str(tmp_path / "s.safetensors"), threads=1)
    drift = []
    for timestep in (0.02, 0.01):
        copied = atoms.copy()
        copied.calc = atoms.calc
        copied.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)) * 0.3)
        start = copied.get_total_energy()
        VelocityVerlet(copied, timestep * units.fs).run(int(2 / timestep))
        drift.append(abs(copied.get_total_energy() - start))
    assert max(drift) < 0.05
    assert drift[1] < drift[0] or drift[1] < 1e-6


def test_load_names_the_student_after_its_file(tmp_path):
    write_student(tmp_path / "mine.safetensors", random_record(dtype=np.float32))
    loaded = limbeck.Student.load(tmp_path / "mine.safetensors", threads=1)
    assert loaded.name == "mine"
    assert loaded.cutoff == 5.0
    assert loaded.card == {"preset": "ultra-tiny"}
    assert loaded.n_parameters == loaded.architecture.n_parameters
    assert loaded.capabilities.elements == frozenset({1, 6, 7, 8, 14})


def test_released_students_are_found_by_name(tmp_path, monkeypatch):
    for name in ("silicon-tiny", "molecule-tiny"):
        write_student(tmp_path / f"{name}.safetensors", random_record(dtype=np.float32))
    monkeypatch.setattr(released, "_folders", lambda: [tmp_path])
    assert [s.name for s in list_students()] == ["molecule-tiny", "silicon-tiny"]
    assert list_students()[0].card["preset"] == "ultra-tiny"
    assert find_student("silicon-tiny") == tmp_path / "silicon-tiny.safetensors"
    assert Student.load("silicon-tiny", threads=1).name == "silicon-tiny"
    text = r"^no such student; got 'silicon-tini'; wanted a .safetensors file or one of molecule-tiny, silicon-tiny; remedy: did you mean 'silicon-tiny'\?$"
    with pytest.raises(InputError, match=text):
        find_student("silicon-tini")
    with pytest.raises(InputError, match="remedy: limbeck students lists them$"):
        find_student("zzz")
    with pytest.raises(InputError, match="no such student file"):
        Student.load(tmp_path / "nowhere.safetensors")
    monkeypatch.setattr(released, "_folders", list)
    assert list_students() == []
    with pytest.raises(InputError, match=r"one of \(none released\)"):
        find_student("silicon-tiny")


def test_available_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert available_threads() == 3
    for text in ("", "0", "many", "4,2"):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert available_threads() >= 1


def test_importing_and_loading_brings_no_torch(tmp_path):
    write_student(tmp_path / "s.safetensors", random_record())
    code = (
        "import sys\nfrom limbeck.runtime.student import Student\nfrom limbeck.runtime.calculator import Calculator\n"
        f"student = Student.load({str(tmp_path / 's.safetensors')!r})\n"
        "heavy = {'torch', 'lightning_fabric', 'vesin'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
