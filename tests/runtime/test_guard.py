"""The guard against use outside the training data: texts, margins, counts, what it leaves alone."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixCartesian
from ase.data import atomic_masses

from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.runtime.guard import KINDS, OutOfDomainError, OutOfDomainWarning
from limbeck.runtime.released import find_student
from limbeck.runtime.student import Calculator, Student
from tests.students.tools import random_record

DATA = {
    "shortest_pair_a": {"H-H": 1.4, "H-O": 0.9, "Si-Si": 2.0, "O-O": 2.4},
    "density_g_per_cm3": [2.1, 2.5],
    "temperature_k": [300.0, 600.0],
}


def student_with(**card: object) -> Student:
    return Student(replace(random_record(), card={"preset": "ultra-tiny", **card}), threads=1)


@pytest.fixture(scope="module")
def student() -> Student:
    return student_with(data=DATA)


def water(stretch: float = 1.0) -> Atoms:
    atoms = molecule("H2O")
    atoms.positions[1] = atoms.positions[0] + (atoms.positions[1] - atoms.positions[0]) * stretch
    return atoms


def at_density(value: float) -> Atoms:
    """Silicon of the given density, g/cm³; 6.02214076e23 amu are a gram and 1e24 Å³ a cm³."""
    atoms = bulk("Si", cubic=True)
    volume = 8 * atomic_masses[14] / value / 0.602214076
    atoms.set_cell(np.eye(3) * volume ** (1 / 3), scale_atoms=True)
    return atoms


def at_temperature(kelvin: float, n: int = 3) -> Atoms:
    """n water-like H atoms, far apart, with that kinetic temperature exactly."""
    atoms = Atoms(f"H{n}", np.arange(n)[:, None] * [0, 0, 3.0])
    atoms.set_momenta(np.random.default_rng(0).normal(size=(n, 3)))
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(kelvin / atoms.get_temperature()))
    assert atoms.get_temperature() == pytest.approx(kelvin)
    return atoms


def evaluate(calculator: Calculator, atoms: Atoms) -> dict[str, int]:
    """Counts after one evaluation; any warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calculator.get_forces(atoms)
    return calculator.guard.counts


BREACHES = {
    "distance": (lambda: water(0.9), r"^ultra-tiny, atoms 0 and 1: .*got O-H 0\.872 Å apart; wanted at least 0\.900 Å; "),
    "density": (lambda: at_density(2.7), r"^ultra-tiny: .*got 2\.700 g/cm³; wanted 2\.100 to 2\.500 g/cm³.* 5%; "),
    "temperature": (lambda: at_temperature(5000), r"^ultra-tiny: .*got 5000 K; wanted at most 600 K \(2074 K with the fluctuations of 3 atoms\); "),
}  # fmt: skip


@pytest.mark.parametrize("kind", BREACHES)
def test_a_breach_warns_once_or_raises_and_counts_every_time(student, kind):
    make, text = BREACHES[kind]
    calculator, atoms = Calculator(student), make()
    with pytest.warns(OutOfDomainWarning, match=f"{text}.*remedy: .*calculator.guard.counts") as caught:
        calculator.get_forces(atoms)
    assert len(caught) == 1
    calculator.get_potential_energy(atoms)  # from the cache: no new evaluation
    assert calculator.guard.counts[kind] == 1
    for n in (2, 3):
        atoms.positions += 1e-9
        assert evaluate(calculator, atoms)[kind] == n
    assert sum(calculator.guard.counts.values()) == 3
    strict = Calculator(student, strict=True)
    for n in (1, 2):
        with pytest.raises(OutOfDomainError, match=text) as raised:
            strict.get_forces(atoms)
        assert strict.guard.counts[kind] == n
    assert isinstance(raised.value, LimbeckError)
    assert strict.results == {}


def test_margins(student):
    def breached(atoms) -> bool:
        try:
            evaluate(Calculator(student, strict=True), atoms)
        except OutOfDomainError:
            return True
        return False

    bond = np.linalg.norm(molecule("H2O").positions[1] - molecule("H2O").positions[0])
    assert not breached(water((0.9 - 0.0009) / bond))
    assert breached(water((0.9 - 0.0011) / bond))
    assert [breached(at_density(d)) for d in (1.99, 2.0, 2.62, 2.63)] == [True, False, False, True]
    for n in (3, 40):
        limit = 600 * (1.1 + 5 * np.sqrt(2 / (3 * n)))
        assert not breached(at_temperature(0.999 * limit, n))
        assert breached(at_temperature(1.001 * limit, n))


@pytest.mark.parametrize(
    ("atoms", "text"),
    [
        (Atoms("Si", cell=[1.9, 9, 9], pbc=(1, 0, 0)), "^ultra-tiny, atom 0 and its image: .* got Si-Si 1.900 Å apart"),
        (Atoms("SiOSi", [[0, 0, 0], [0, 0, 5.5], [1.5, 0, 0]]), "atoms 0 and 2: .*Si-Si 1.500 Å apart; wanted at least 2.0"),
        # a pair that the data never had within 6 Å; the student's cutoff is 5 Å
        (Atoms("SiO", [[0, 0, 0], [0, 0, 3.0]]), "got Si-O 3.000 Å apart; wanted at least 6.000 Å"),
        (Atoms("SiO", [[0, 0, 0], [0, 0, 5.1]]), None),
    ],
)  # fmt: skip
def test_the_closest_pair_is_named(student, atoms, text):
    calculator = Calculator(student, strict=True)
    if text is None:
        evaluate(calculator, atoms)
    else:
        with pytest.raises(OutOfDomainError, match=text):
            calculator.get_forces(atoms)


def test_slabs_frozen_atoms_and_isotopes(student):
    slab, frozen, hot, heavy = at_density(1.0), at_temperature(5000), at_temperature(5000), at_density(2.3)
    slab.pbc = (True, True, False)  # no density
    frozen.set_constraint(FixAtoms([0, 1, 2]))  # no temperature
    hot.set_masses([10.0] * 3)  # the masses of isotopes count for the temperature alone
    assert hot.get_temperature() == pytest.approx(5000 * 1.008 / 10)
    heavy.set_masses([60.0] * 8)
    for atoms in (slab, frozen, hot, heavy):
        evaluate(Calculator(student, strict=True), atoms)


@pytest.mark.parametrize("data", [None, {}, dict.fromkeys(DATA), {"shortest_pair_a": {}}])
def test_a_card_without_ranges_guards_nothing(data):
    calculator = Calculator(student_with(data=data), strict=True)
    for make, _ in BREACHES.values():
        assert not any(evaluate(calculator, make()).values())


INVALID = {
    "shortest_pair_a": [{"H-H": -1.0}, {"H-H": "near"}, ["H-H"], {"HH": 1.0}],
    "density_g_per_cm3": [[2.0], [3.0, 2.0]],
    "temperature_k": ["hot", [float("nan"), 3.0]],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in INVALID.items() for value in values]
)
def test_invalid_ranges_in_the_model_card(key, value):
    with pytest.raises(InputError, match=rf"^ultra-tiny: .*data\.{key}.*; got .*; remedy: make the file"):
        Calculator(student_with(data={key: value}))


def test_a_released_student_is_guarded():
    atoms = bulk("Si", cubic=True)
    atoms.set_momenta(np.full((8, 3), np.sqrt(atomic_masses[14] * units.kB * 1000.0)))
    calculator = Calculator("silicon-tiny", strict=True, threads=1)
    assert evaluate(calculator, atoms) == dict.fromkeys(KINDS, 0)
    atoms.set_cell(atoms.cell.array * 0.8, scale_atoms=True)
    with pytest.raises(OutOfDomainError, match="silicon-tiny: the density is outside .* got 4.5"):
        calculator.get_stress(atoms)


def ethanol(**info: object) -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.info.update(info)
    return atoms


CHARGED = r"^3bpa-tiny: .*another total charge.*got total charge \+1; wanted total charge 0, or no entry; "


@pytest.mark.parametrize("key", ["charge", "total_charge", "overall_charge"])
def test_a_charged_structure_of_a_neutral_student(key):
    calculator, atoms = Calculator("3bpa-tiny", threads=1), ethanol(**{key: np.array([1])})
    with pytest.warns(OutOfDomainWarning, match=f"{CHARGED}.*calculator.guard.counts") as caught:
        calculator.get_forces(atoms)
    assert len(caught) == 1
    atoms.positions[0, 0] += 0.01
    assert evaluate(calculator, atoms)["charge"] == 2
    with pytest.raises(OutOfDomainError, match=CHARGED):
        Calculator("3bpa-tiny", threads=1, strict=True).get_potential_energy(atoms)


def test_no_warning_for_a_neutral_structure():
    # warnings of limbeck are errors here
    student = Student.load("3bpa-tiny", threads=1)
    for info in ({}, {"charge": 0}, {"charge": np.array([0])}, {"charge": None}, {"spin": 1}):
        Calculator(student, strict=True).get_potential_energy(ethanol(**info))
        student.evaluate([ethanol(**info)], strict=True)
        student.evaluate(StructureBatch.from_atoms([ethanol(**info)]), strict=True)
    assert student.guard.counts == dict.fromkeys(KINDS, 0)


def test_a_student_warns_of_charges_as_the_calculator_does():
    student = Student.load("3bpa-tiny", threads=1)
    frames = [ethanol(), ethanol(charge=1), ethanol(total_charge=1.0)]
    with pytest.warns(OutOfDomainWarning, match=f"{CHARGED}.*student.guard.counts") as caught:
        energy = student.evaluate(frames).energy
    student.evaluate(StructureBatch.from_atoms(frames))
    assert len(caught) == 1
    assert student.guard.counts["charge"] == 4
    assert energy[1] == energy[0]  # the neutral one's, which is why there is a warning
    with pytest.raises(OutOfDomainError, match="another total charge"):
        student.evaluate(frames, strict=True)


def test_a_charged_student():
    student = student_with(total_charge=1.0, spin_multiplicity=2)
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 1]])
    # a structure without entries fits any student, and so does a batch's zero
    student.evaluate([atoms], strict=True)
    student.evaluate(StructureBatch.from_atoms([atoms]), strict=True)
    wanted = r"total charge \+1, spin multiplicity 2, or no entry"
    for info, kind, text in (
        ({"charge": 0}, "charge", f"got total charge 0; wanted {wanted}"),
        ({"charge": 1, "spin": 4}, "spin", "another spin than the student's; got spin multiplicity 4"),
    ):
        atoms.info = dict(info)
        with pytest.raises(OutOfDomainError, match=text):
            student.evaluate([atoms], strict=True)
        calculator = Calculator(student)
        with pytest.warns(OutOfDomainWarning, match=text):
            calculator.get_potential_energy(atoms)
        assert calculator.guard.counts == dict.fromkeys(KINDS, 0) | {kind: 1}
    atoms.info = {"charge": 1, "multiplicity": 2}
    Calculator(student, strict=True).get_potential_energy(atoms)
    atoms.info = {"spin": 4}  # a student without a spin fits any
    student_with().evaluate([atoms], strict=True)


@pytest.mark.parametrize(
    "card", [{"total_charge": "plus"}, {"spin_multiplicity": 1.5}, {"total_charge": float("nan")}]
)
def test_invalid_charge_in_the_model_card(card):
    with pytest.raises(InputError, match="invalid total charge or spin"):
        student_with(**card)


def test_one_degree_of_freedom_has_a_temperature(student):
    atoms = at_temperature(90000, 1)
    atoms.set_constraint(FixCartesian(0, (True, True, False)))
    calculator = Calculator(student)
    with pytest.warns(OutOfDomainWarning, match="kinetic temperature"):
        calculator.get_forces(atoms)


def test_students_of_an_installed_package(tmp_path, monkeypatch):
    """They lie in limbeck/released; in a checkout, in the folder students of the repository."""
    folder = tmp_path / "limbeck" / "released"
    folder.mkdir(parents=True)
    (folder / "own.safetensors").touch()
    monkeypatch.setattr(
        "limbeck.runtime.released.__file__", str(tmp_path / "limbeck" / "runtime" / "released.py")
    )
    assert find_student("own") == folder / "own.safetensors"


def test_atoms_without_mass_have_no_temperature(student):
    atoms = at_temperature(600)
    atoms.set_masses([0.0, 1.008, 1.008])
    with np.errstate(all="raise"):
        evaluate(Calculator(student, strict=True), atoms)
