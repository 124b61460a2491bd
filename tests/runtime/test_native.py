"""The native core against PyTorch in float64, finite differences and the paper's equations."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.vibrations import Vibrations, VibrationsData

from limbeck import _native
from limbeck.artifact.file import StudentArtifact
from limbeck.core.structures import StructureBatch
from limbeck.runtime.backends.native import NativeBackend
from limbeck.runtime.backends.torch import TorchBackend
from limbeck.runtime.student import Calculator, Student
from limbeck.students.baseline import Baseline, zbl_radii
from limbeck.students.engine import Outputs, native_hyperparameters
from limbeck.students.specification import PRESETS, flatten
from tests.students.test_engines import INSTRUCTION_SETS, ODD, assert_within_float32, largest_relative, worst
from tests.students.test_painn import energy_by_the_equations
from tests.students.tools import (
    ORGANIC_AND_SILICON,
    SYSTEMS,
    random_record,
    random_weights,
    rattled,
    triclinic,
)

FRAMES = list(SYSTEMS.values())
BATCH = StructureBatch.from_atoms(FRAMES)
SHALLOW = replace(ODD, hidden_dim=40, interactions=1)
NAMES = (*PRESETS, "odd widths", "one interaction")


def record_of(name: str) -> StudentArtifact:
    if name in PRESETS:
        return random_record(name)
    architecture = {"odd widths": ODD, "one interaction": SHALLOW}[name]
    references = {z: -0.1 * z for z in ORGANIC_AND_SILICON}
    baseline = Baseline(references, zbl_radii(ORGANIC_AND_SILICON, {}))
    return StudentArtifact(architecture, baseline, random_weights(architecture), {})


def many_atoms() -> Atoms:
    """Enough atoms for four threads, ordered in space by the core; five elements."""
    atoms = rattled(bulk("Si", cubic=True) * (3, 3, 4), 3)
    atoms.numbers = np.random.default_rng(0).choice(ORGANIC_AND_SILICON, len(atoms))
    cells = np.random.default_rng(1).integers(-2, 3, size=(len(atoms), 1))
    atoms.positions += 40.0 * cells @ atoms.cell.array[:1]
    return atoms


@pytest.fixture(scope="module")
def exact() -> dict[str, Outputs]:
    """The torch module and the NumPy baseline, in float64."""
    backends = {name: TorchBackend(record_of(name), precision="float64", device="cpu") for name in NAMES}
    return {name: backend.evaluate(BATCH, 1) for name, backend in backends.items()}


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("name", NAMES)
def test_native_equals_torch(name, isa, exact):
    native = NativeBackend(record_of(name), precision="float64", instruction_set=isa)
    assert np.abs(exact[name].forces).max() > 0.05  # eV/Å: the comparison is of something
    assert worst(native.evaluate(BATCH, 1), exact[name]) < 1e-10
    system = native.system(0.4, 1)
    for s, atoms in enumerate(FRAMES):
        one, forces = system.evaluate(atoms), exact[name].forces[BATCH.offsets[s] : BATCH.offsets[s + 1]]
        scale = max(1.0, np.abs(forces).max(initial=0.0))
        np.testing.assert_allclose(one.forces, forces, rtol=0, atol=1e-10 * scale)
        assert one.energy == pytest.approx(exact[name].energy[s], rel=1e-10)
    native = NativeBackend(record_of(name), precision="float32", instruction_set=isa).evaluate(BATCH, 1)
    assert_within_float32(native, exact[name], BATCH)


@pytest.mark.parametrize("preset", PRESETS)
def test_threads_agree(preset):
    record, atoms = random_record(preset), many_atoms()
    batch = StructureBatch.from_atoms([atoms])
    wanted = TorchBackend(record, precision="float64", device="cpu").evaluate(batch, 1)
    native = NativeBackend(record, precision="float64")
    for threads in (1, 3, 7):
        system = native.system(0.5, threads)
        for _ in range(2):  # the second time with an existing list and buffers
            one = system.evaluate(atoms, atom_virials=True)
            assert one.energy == pytest.approx(wanted.energy[0], rel=1e-12)
            found = Outputs(wanted.energy, one.forces, one.virial[None], one.atom_energies)
            assert worst(found, wanted) < 1e-10
            assert largest_relative(one.atom_virials.sum(axis=0), wanted.virial[0]) < 1e-10
        again = native.system(0.5, threads).evaluate(atoms)
        np.testing.assert_array_equal(again.forces, one.forces)  # repeats bit for bit at equal threads
    assert worst(native.evaluate(batch, 4), wanted) < 1e-10


@pytest.mark.parametrize("scalar", ["float64", "dual"])
def test_the_energy_is_that_of_the_papers_equations(scalar):
    record = record_of("one interaction")
    atoms = triclinic()
    wanted = energy_by_the_equations(record.architecture, record.weights, atoms)
    bare = replace(record, baseline=Baseline(dict.fromkeys(ORGANIC_AND_SILICON, 0.0), {}))
    backend = NativeBackend(bare, precision="float64")
    if scalar == "dual":
        backend.core = backend.dual
    found = backend.evaluate(StructureBatch.from_atoms([atoms]), 1).energy[0]
    assert found == pytest.approx(wanted, rel=1e-11)


def test_hessian_of_benzene_is_that_of_ase(tmp_path):
    """ASE's Vibrations takes central differences of forces; its data class gives the frequencies of both."""
    student = Student(random_record("tiny"), precision="float64", threads=1)
    atoms = rattled(molecule("C6H6"), 4, 0.03)
    hessian = student.hessian(atoms)
    atoms.calc = Calculator(student)
    vibrations = Vibrations(atoms, name=str(tmp_path / "modes"), delta=1e-3)
    vibrations.run()
    wanted = vibrations.get_vibrations()
    assert hessian.shape == (12, 3, 12, 3)
    assert largest_relative(hessian, wanted.get_hessian()) < 1e-4
    modes = VibrationsData(atoms, hessian).get_energies()  # imaginary where the curvature is negative
    assert largest_relative(modes**2, wanted.get_energies() ** 2) < 1e-4
    largest = np.abs(hessian).max()
    np.testing.assert_allclose(hessian.sum(axis=2), 0, atol=1e-10 * largest)  # translations
    v = np.random.default_rng(0).normal(size=(12, 3))
    product = np.einsum("iajb,jb->ia", hessian, v)
    np.testing.assert_allclose(student.hvp(atoms, v), product, rtol=0, atol=1e-9 * largest)


def test_hessian_products_of_a_crystal_with_images():
    student = Student(random_record("ultra-tiny"), precision="float64", threads=1)
    atoms = SYSTEMS["two atoms in a cell smaller than the cutoff"]
    v, step = np.random.default_rng(0).normal(size=(len(atoms), 3)), 1e-4
    ends = [atoms.copy(), atoms.copy()]
    ends[0].positions += step * v
    ends[1].positions -= step * v
    forces = student.evaluate(ends).forces.reshape(2, -1, 3)
    np.testing.assert_allclose(student.hvp(atoms, v), (forces[1] - forces[0]) / (2 * step), rtol=0, atol=1e-5)


def test_a_skin_changes_no_trajectory():
    """Along a trajectory with a skin, forces stay those of a fresh list, and energy drifts no more."""
    student = Student.load("silicon-ultra-tiny", threads=1)
    start = bulk("Si") * (2, 1, 1)
    thermalize_momenta(start, 900, rng=np.random.default_rng(0))
    drift = {}
    for skin in (0.5, 0.0):
        atoms, fresh, energies = start.copy(), student.session(skin=0.0), []
        atoms.calc = Calculator(student, skin=skin)
        for step, _ in enumerate(VelocityVerlet(atoms, 1.0 * units.fs).irun(2_000)):
            if step % 50 == 0:
                energies.append(atoms.get_total_energy() / len(atoms))
                error = np.abs(fresh.evaluate(atoms).forces - atoms.get_forces()).max()
                assert error < 2e-5  # eV/Å: rounding of float32
        assert np.linalg.norm(atoms.get_velocities()) > 0.01  # it still moves
        drift[skin] = np.polyfit(np.arange(len(energies)), energies, 1)[0] * len(energies)
    assert abs(drift[0.5]) < 1e-4  # eV per atom over 2 ps
    assert abs(drift[0.5] - drift[0.0]) < 1e-4


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"weights": np.full(3, 1.0)}, "weights: wrong number"),
        ({"references": np.array([np.nan] * 5)}, "not finite"),
        ({"scalar": "float16"}, "scalar: got float16, wanted float32, float64 or dual"),
        ({"instruction_set": "sse9"}, "does not run the instruction set sse9"),
    ],
)
def test_the_core_refuses_invalid_input(change, text):
    record = random_record()
    given = {
        "hyperparameters": native_hyperparameters(record.architecture),
        "weights": flatten(record.architecture, record.weights, np.float64),
        "numbers": np.array(ORGANIC_AND_SILICON, np.int32), "references": np.zeros(5),
        "zbl_radius": np.zeros((5, 5)), "scalar": "float32", "instruction_set": "portable",
    }  # fmt: skip
    _native.Engine(**given)
    with pytest.raises(ValueError, match=text):
        _native.Engine(**(given | change))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"species": np.array([0, 9], np.int32)}, r"species\[1\]: got 9, wanted 0 to 4"),
        ({"second": np.array([2], np.int32)}, "pair 0: atom index out of range"),
        ({"second": np.array([0], np.int32)}, "pair 0: an atom with itself"),
        ({"shift": np.zeros((2, 3), np.int32)}, "first, second, shift: wanted"),
        ({"positions": np.zeros((3, 3))}, "positions, cell: wanted"),
        ({"positions": np.array([[0, 0, 0], [0, np.nan, 1.0]])}, r"positions\[4\] is not finite"),
        ({"skin": -1.0}, "skin: wanted 0 or more"),
        ({"shift": np.array([[40, 40, -40]], np.int32)}, "the cutoff reaches across 81 images of it; wanted"),
    ],
)
def test_a_system_refuses_invalid_input(change, text):
    system = _native.System(NativeBackend(random_record(), precision="float32").core, 1)
    given = {
        "species": np.array([0, 1], np.int32), "first": np.array([0], np.int32),
        "second": np.array([1], np.int32), "shift": np.zeros((1, 3), np.int32), "skin": 0.0,
        "positions": np.array([[0, 0, 0], [0, 0, 1.5]]), "cell": np.zeros((3, 3)), "fully_periodic": False,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"wanted set_list\(\) first"):
        system.evaluate(given["positions"], given["cell"])
    system.set_list(**given)
    good = system.evaluate(given["positions"], given["cell"])
    with pytest.raises(ValueError, match=text):
        system.set_list(**(given | change))
    system.set_list(**given)
    with pytest.raises(ValueError, match="not finite"):
        system.evaluate(np.full((2, 3), np.inf), given["cell"])
    assert system.evaluate(given["positions"], given["cell"])[0] == good[0]


def test_a_refused_evaluation_leaves_nothing_behind():
    """What threads add to each other's atoms before the refusal must not reach the next call."""
    atoms = many_atoms()
    system = NativeBackend(random_record(), precision="float64").system(0.5, 3)
    energy = system.evaluate(atoms).energy
    for i, j in ((0, 1), (40, 41), (100, 101), (200, 201)):
        touching = atoms.copy()
        touching.positions[i] = touching.positions[j] + [0.05, 0, 0]
        touching.positions[j + 2] = touching.positions[j + 1]
        with pytest.raises(ValueError, match="same place"):
            system.evaluate(touching)
        assert system.evaluate(atoms).energy == energy


def test_memory_released_before_a_new_list_changes_nothing(monkeypatch):
    monkeypatch.setattr("limbeck.runtime.backends.native._RELEASE_BYTES", 0)
    atoms, far = many_atoms(), many_atoms()
    far.positions += np.linspace(0, 3, len(atoms))[:, None]
    system = NativeBackend(random_record(), precision="float64").system(0.5, 2)
    before, kept = system.evaluate(atoms), system._core.bytes
    system._core.release()
    assert system._core.bytes < kept / 5
    assert np.abs(system.evaluate(far).forces - before.forces).max() > 1e-3
    np.testing.assert_array_equal(system.evaluate(atoms).forces, before.forces)


TWO_THREADS = """
import os
from ase.build import bulk
from limbeck import Calculator
atoms = bulk('Si', cubic=True) * (2, 2, 2)
atoms.calc = Calculator('silicon-ultra-tiny', threads=2)
"""


def test_a_forked_child_still_works(tmp_path):
    """Threads do not exist after a fork: without care the child would wait for them forever."""
    script = (
        f"{TWO_THREADS}import signal\n"
        "energy = atoms.get_potential_energy()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(30)\n"
        "    atoms.rattle(0.01, seed=1)\n"
        "    os._exit(0 if abs(atoms.get_potential_energy() - energy) < 1 else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_threads_are_the_cores_own():
    """OpenMP's threads wait in a busy loop: on a busy machine 64 atoms took 73 ms of CPU time instead of 1."""
    script = (
        f"{TWO_THREADS}atoms.get_forces()\n"
        "print(*sorted({os.path.basename(line.split()[-1]) for line in open('/proc/self/maps')}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    loaded = done.stdout.split()
    assert any(name.startswith("_native.") for name in loaded), done.stderr
    assert not [name for name in loaded if name.startswith(("libgomp", "libomp", "libiomp"))]


@pytest.mark.parametrize("distance", [0.25, 0.5, 0.9, 1.3])
def test_close_nuclei_repel_as_published(distance):
    """Ziegler, Biersack, Littmark: the native core's energy and force of a pair against the formula in PyTorch's path."""
    pair = Atoms("Si2", [[0, 0, 0], [0, 0.6 * distance, 0.8 * distance]])
    found = [
        Student.load("silicon-tiny", precision="float64", engine=engine).evaluate(
            StructureBatch.from_atoms([pair])
        )
        for engine in ("native", "torch")
    ]
    assert found[1].energy[0] > 5  # the repulsion, not the network
    for value in ("energy", "forces"):
        np.testing.assert_allclose(*(getattr(one, value) for one in found), rtol=1e-8, atol=1e-8)
