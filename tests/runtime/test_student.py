"""The Student: lists of atoms, the ASE calculator, names, copies, refusals."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read

import limbeck
from limbeck.artifact.file import write_student
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.runtime import released
from limbeck.runtime.released import find_student, list_students
from limbeck.runtime.student import Calculator, Student
from tests.students.tools import SYSTEMS, random_record


@pytest.fixture(scope="module")
def student() -> Student:
    return Student(random_record(), threads=2)


@pytest.mark.parametrize("name", SYSTEMS)
def test_calculator_agrees_with_the_student(student, name):
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
    assert (nothing.energy.shape, nothing.forces.shape) == ((0,), (0, 3))
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(student.evaluate(frames, threads=threads).forces, together.forces)
    for bad in (0, -1, 1.5, True, "2"):
        with pytest.raises(InputError, match="number of threads; got .*; wanted 1 or more"):
            student.evaluate(frames, threads=bad)


def not_finite(value: float) -> Atoms:
    atoms = molecule("H2O")
    atoms.positions[2, 1] = value
    return atoms


REFUSED = {
    "suspicious elements": (Atoms("AuFeH", np.eye(3)), "ultra-tiny: .*got Fe, Au; wanted H C N O Si; remedy: train"),
    "no element": (Atoms("X"), "got X; wanted"),
    "nan": (not_finite(np.nan), "ultra-tiny, atom 5: positions or cell are not finite"),
    "infinity": (not_finite(np.inf), "ultra-tiny, atom 5: positions or cell are not finite"),
    "cell": (Atoms("Si", pbc=True, cell=np.diag([np.nan, 3, 3])), "positions or cell are not finite"),
    "no volume": (Atoms("Si", pbc=True, cell=np.zeros((3, 3))), "structure 1: .*without volume"),
    "flat": (Atoms("Si", pbc=True, cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]]), "structure 1: .*without volume"),
    "touching": (Atoms("OHO", [[0, 0, 0], [0, 0, 1], [0, 0, 0]]), "structure 1, atoms 0 and 2: .*at the same place"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_student_refuses(student, name):
    atoms, text = REFUSED[name]
    with pytest.raises(InputError, match=f"^{text}" if text.startswith(("ultra", "structure")) else text):
        student.evaluate([molecule("H2O"), atoms])


def test_copies_and_files_keep_options_and_names(tmp_path):
    single = Student(random_record(), precision="float32", name="mine", threads=1)
    twin = copy.deepcopy(single)
    assert (twin.name, twin.capabilities) == ("mine", single.capabilities)
    assert twin.capabilities.precision == "float32"
    write_student(tmp_path / "other.safetensors", random_record(dtype=np.float32))
    loaded = limbeck.Student.load(tmp_path / "other.safetensors", threads=1)
    assert (loaded.name, loaded.cutoff, loaded.card) == ("other", 5.0, {"preset": "ultra-tiny"})
    assert loaded.capabilities.elements == frozenset({1, 6, 7, 8, 14})


def test_released_students_are_found_by_name(tmp_path, monkeypatch):
    for name in ("silicon-tiny", "molecule-tiny"):
        write_student(tmp_path / f"{name}.safetensors", random_record(dtype=np.float32))
    monkeypatch.setattr(released, "_folders", lambda: [tmp_path])
    assert [s.name for s in list_students()] == ["molecule-tiny", "silicon-tiny"]
    assert list_students()[0].card["preset"] == "ultra-tiny"
    assert find_student("silicon-tiny") == tmp_path / "silicon-tiny.safetensors"
    assert Student.load("silicon-tiny", threads=1).name == "silicon-tiny"
    with pytest.raises(InputError, match=r"one of molecule-tiny, silicon-tiny; .* mean 'silicon-tiny'\?$"):
        find_student("silicon-tini")
    with pytest.raises(InputError, match="remedy: limbeck students lists them$"):
        find_student("zzz")
    with pytest.raises(InputError, match="no such student file"):
        Student.load(tmp_path / "nowhere.safetensors")
    # a folder of that name hides no student; a file without a suffix is one's own
    here = tmp_path / "here"
    (here / "silicon-tiny").mkdir(parents=True)
    (here / "mine").write_bytes(b"")
    monkeypatch.chdir(here)
    assert find_student("silicon-tiny") == tmp_path / "silicon-tiny.safetensors"
    assert str(find_student("mine")) == "mine"
    monkeypatch.setattr(released, "_folders", list)
    assert list_students() == []
    with pytest.raises(InputError, match=r"one of \(none bundled\)"):
        find_student("silicon-tiny")


LICL = Path(__file__).parents[2] / "examples" / "licl.cif"
# without silicon-hot, which was trained without close-contact scans (students/README.md)
CRYSTALS = {
    "silicon": lambda: bulk("Si", cubic=True) * (2, 2, 2),
    "cu111": lambda: bulk("Cu", cubic=True) * (3, 3, 3),
    "licl": lambda: read(LICL) * (2, 2, 2),
}


def pushed(crystal: Atoms, distances: np.ndarray) -> list[Atoms]:
    """The first atom and its nearest neighbour at each of the relative distances, their midpoint fixed."""
    apart = crystal.get_distances(0, range(len(crystal)), mic=True)
    other = int(np.argsort(apart)[1])
    along = crystal.get_distance(0, other, mic=True, vector=True) / apart[other]
    frames = []
    for distance in distances * apart[other]:
        frames.append(crystal.copy())
        frames[-1].positions[0] += along * (apart[other] - distance) / 2
        frames[-1].positions[other] -= along * (apart[other] - distance) / 2
    return frames


@pytest.mark.parametrize("preset", ["tiny", "ultra-tiny"])
@pytest.mark.parametrize("name", CRYSTALS)
def test_released_students_repel_at_close_contact(name, preset):
    student = Student.load(f"{name}-{preset}", threads=1)
    energies = student.evaluate(pushed(CRYSTALS[name](), np.linspace(0.9, 0.15, 40))).energy
    assert (np.diff(energies) > 0).all(), np.round(energies - energies[0], 2)
    assert energies[-1] - energies[0] > 50  # Thomas and Fermi: hundreds of eV well inside 1 Å
