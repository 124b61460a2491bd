"""Sessions reuse their neighbour list exactly; students serve many threads."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from limbeck.errors import InputError, LimbeckError
from limbeck.runtime import student as student_module
from limbeck.runtime.backends import native
from limbeck.runtime.backends import torch as backend
from limbeck.runtime.session import Session
from limbeck.runtime.student import Student
from tests.students.tools import SYSTEMS, random_record, rattled, triclinic


@pytest.fixture(scope="module")
def student() -> Student:
    return Student(random_record(), threads=1)


def assert_same(found, labels, atoms):
    scale = max(1.0, np.abs(labels.forces).max())
    assert found.energy == pytest.approx(labels.energy[0], rel=1e-12)
    np.testing.assert_allclose(found.forces, labels.forces, rtol=0, atol=1e-11 * scale)
    np.testing.assert_allclose(found.atom_energies, labels.atom_energies, rtol=1e-11, atol=1e-11)
    assert found.volume == pytest.approx(atoms.cell.volume)
    assert found.periodic == (bool(atoms.pbc.all()))
    if found.periodic:
        virial = labels.stress[0] * atoms.get_volume()
        np.testing.assert_allclose(found.virial, virial, rtol=0, atol=1e-11 * max(1, np.abs(virial).max()))


@pytest.mark.parametrize(("engine", "skin"), [("native", 0.0), ("native", 0.4), ("torch", 0.4)])
def test_one_session_serves_any_structure_after_any_other(student, engine, skin):
    session = Student(student.record, engine=engine, threads=1).session(skin=skin)
    for name in [*SYSTEMS, *reversed(SYSTEMS)]:
        assert_same(session.evaluate(SYSTEMS[name]), student.evaluate([SYSTEMS[name]]), SYSTEMS[name])


@pytest.fixture
def searches(monkeypatch) -> list:
    """One entry for each neighbour list made."""
    made, original = [], native.neighbour_list
    for module in (native, backend):
        monkeypatch.setattr(module, "neighbour_list", lambda *a, **k: made.append(0) or original(*a, **k))
    return made


@pytest.fixture(scope="module")
def fresh(student) -> Student:
    """Searches by find_pairs, which is not counted."""
    return Student(student.record, threads=1, engine="torch")


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize(
    "name", ["molecule", "triclinic", "slab", "two atoms in a cell smaller than the cutoff"]
)
def test_a_walk_with_a_skin_equals_fresh_lists(student, fresh, name, engine, searches):
    session = (student if engine == "native" else fresh).session(skin=0.6)
    atoms, rng = SYSTEMS[name].copy(), np.random.default_rng(5)
    for step in range(60):
        atoms.positions += rng.normal(size=atoms.positions.shape) * 0.01
        if step == 20:
            atoms.positions[0] += 3 * atoms.cell.array[0]
        elif step == 30:
            atoms.wrap()
        elif step == 40:
            atoms.set_cell(atoms.cell.array @ np.diag([1.0, 1.01, 0.99]), scale_atoms=True)
        elif step == 50:
            atoms.set_cell(atoms.cell.array * 1.0005)  # the atoms stay where they are
        assert_same(session.evaluate(atoms), fresh.evaluate([atoms]), atoms)
    assert 1 <= len(searches) < 20


def test_a_changing_cell_keeps_its_list(student, fresh, searches):
    """An affine change moves the atoms with the cell: a new list is needed only when it could miss a pair."""
    session, atoms = student.session(skin=0.6), triclinic()
    start, shape = atoms.cell.array.copy(), np.array([[1, 0.3, 0], [0, 1, 0], [0, 0.2, 1]])
    for size in (0.0, 0.01, 0.02, -0.02, 0.04, 0.06, -0.08, -0.16):
        atoms.set_cell(start @ (np.eye(3) + size * shape), scale_atoms=True)
        assert_same(session.evaluate(atoms), fresh.evaluate([atoms]), atoms)
    assert 2 <= len(searches) < 6


def test_two_atoms_that_approach_are_seen_in_time(student):
    session = student.session(skin=0.5)
    atoms = Atoms("SiO", [[0, 0, 0], [0, 0, 6.3]])
    met = []
    for _ in range(60):
        atoms.positions[:, 2] += [0.02, -0.02]
        found = session.evaluate(atoms)
        assert_same(found, student.evaluate([atoms]), atoms)
        met.append(np.isfinite(found.shortest).any())
    assert not met[0]
    assert met[-1]


def test_shortest_contacts(student, fresh):
    atoms = rattled(bulk("Si", cubic=True), 2)
    atoms.numbers[[1, 5]] = 8
    everything = atoms * (3, 3, 3)
    distance = everything.get_all_distances()
    np.fill_diagonal(distance, np.inf)
    of = [everything.numbers == z for z in student.architecture.elements]
    wanted = np.array([[distance[np.ix_(a, b)].min(initial=np.inf) for b in of] for a in of])
    wanted[wanted >= 5.0] = np.inf
    for one in (student, fresh):
        np.testing.assert_allclose(one.session().evaluate(atoms).shortest, wanted, rtol=1e-6)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])  # noqa: S301
def test_sessions_are_copied(student, clone):
    session = Session(student, skin=0.2, threads=1)
    twin = clone(session)
    assert (twin.skin, twin.threads) == (0.2, 1)
    assert twin._system is not session._system
    assert twin.evaluate(triclinic()).energy == session.evaluate(triclinic()).energy


def test_a_session_refuses_what_a_student_refuses(student):
    session = student.session()
    session.evaluate(triclinic())
    touching = triclinic()
    touching.positions[1] = touching.positions[0]
    for atoms, text in (
        (Atoms("Fe"), "does not know an element"),
        (Atoms("Si", pbc=True), "structure 0: a periodic cell without volume; got cell"),
        (Atoms("H", [[0, 0, np.inf]]), "not finite"),
        (touching, "structure 0, atoms 0 and 1: two atoms are at the same place"),
    ):
        with pytest.raises(InputError, match=text):
            session.evaluate(atoms)
    assert session.evaluate(triclinic()).energy == pytest.approx(student.evaluate([triclinic()]).energy[0])


def test_threads_share_a_session_and_a_student(student):
    session, frames = student.session(), list(SYSTEMS.values())
    alone = [session.evaluate(atoms).energy for atoms in frames]
    batches = [[rattled(triclinic(), seed) for seed in range(k, k + 3)] for k in range(8)]
    wanted = [student.evaluate(batch) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda a: session.evaluate(a).energy, frames * 5))
        np.testing.assert_allclose(together, alone * 5, rtol=1e-12)
        for found, labels in zip(pool.map(student.evaluate, batches * 2), wanted * 2, strict=True):
            for name in ("energy", "forces", "stress"):
                np.testing.assert_array_equal(getattr(found, name), getattr(labels, name))


def test_without_the_core_pytorch_runs_with_a_warning(monkeypatch):
    monkeypatch.setattr(student_module, "native_available", lambda: False)
    with pytest.warns(UserWarning, match=r"the native core is not built, so PyTorch runs this student"):
        slow = Student(random_record(), threads=1)
    assert slow.backend.name == "torch-cpu"
    fast = Student(random_record(), threads=1, engine="native")
    frames = list(SYSTEMS.values())
    np.testing.assert_allclose(slow.evaluate(frames).forces, fast.evaluate(frames).forces, rtol=0, atol=1e-8)
    with pytest.raises(LimbeckError, match=r"Hessians need the native core.*engine='native'"):
        slow.hessian(triclinic())
