"""Each teacher with its real weights, through a worker, against its own package's API elsewhere."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from limbeck.core.labels import Labels
from limbeck.core.structures import StructureBatch
from limbeck.labelling.isolated import isolated_atom_energies
from limbeck.labelling.remote import WorkerPotential, open_teacher
from limbeck.teachers import get_card, teacher_names

LabelledFrames = tuple[StructureBatch, Labels]

# Nothing of Limbeck is imported here: the package's API is the oracle. Stress as (3, 3) in eV/Å³.
_PRELUDE = """
import contextlib, io, json, sys
import numpy as np
from ase import Atoms
frames = [Atoms(numbers=f["numbers"], positions=f["positions"], cell=f["cell"], pbc=f["pbc"])
          for f in json.load(sys.stdin)]
def by_ase(calculator):
    out = []
    for atoms in frames:
        atoms.calc = calculator
        periodic = bool(atoms.pbc.all())
        out.append({"energy": float(atoms.get_potential_energy()), "forces": atoms.get_forces().tolist(),
                    "stress": atoms.get_stress(voigt=False).tolist() if periodic else None})
    return out
def count(model, trained=False):
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)
with contextlib.redirect_stdout(io.StringIO()):
    extra = {}
"""

_BY_ITS_OWN_API = {
    "sevennet-0": """
    from sevenn.calculator import SevenNetCalculator
    calculator = SevenNetCalculator("SevenNet-0_11July2024", device="cpu")
    out = by_ase(calculator)
    extra = {"elements": [int(z) for z in calculator.type_map], "parameters": count(calculator.model, trained=True)}
""",
    "sevennet-l3i5": """
    from sevenn.calculator import SevenNetCalculator
    calculator = SevenNetCalculator("7net-l3i5", device="cpu")
    out = by_ase(calculator)
    extra = {"elements": [int(z) for z in calculator.type_map], "parameters": count(calculator.model, trained=True)}
""",
    "chgnet": """
    from ase.units import GPa
    from chgnet.model import CHGNet
    from pymatgen.io.ase import AseAtomsAdaptor
    model = CHGNet.load(use_device="cpu", verbose=False)
    out = []
    for atoms in frames:
        got = model.predict_structure(AseAtomsAdaptor.get_structure(atoms), return_site_energies=True)
        # Energy per atom and stress in GPa, says the package.
        out.append({"energy": float(got["e"]) * len(atoms), "forces": got["f"].tolist(),
                    "stress": (got["s"] * GPa).tolist(), "atom_energies": got["site_energies"].tolist()})
    extra = {"parameters": model.n_params}
""",
    "so3lr": """
    from so3krates_torch.calculator.so3 import SO3LRCalculator
    calculator = SO3LRCalculator(device="cpu", default_dtype="float64", compute_stress=True)
    out = by_ase(calculator)
    extra = {"parameters": sum(count(model) for model in calculator.models)}
""",
}
_EPILOGUE = "\nprint(json.dumps({'out': out, **extra}))\n"


def _crystals() -> list[Atoms]:
    """A strained Si cell and a ternary: no symmetry is left."""
    silicon = bulk("Si")
    silicon.set_cell(
        silicon.cell.array @ [[1.02, 0.03, 0], [0, 0.97, -0.02], [0.01, 0, 1.01]], scale_atoms=True
    )
    silicon.rattle(0.08, seed=1)
    perovskite = Atoms(
        "SrTiO3",
        scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        cell=[[3.9, 0, 0], [0.2, 3.95, 0], [0, 0.1, 3.85]],
        pbc=True,
    )
    perovskite.rattle(0.05, seed=2)
    return [silicon, perovskite]


def _molecular() -> list[Atoms]:
    """A lone molecule, and a periodic box of two."""
    ethanol = molecule("CH3CH2OH")
    ethanol.rattle(0.05, seed=3)
    box = molecule("H2O")
    other = molecule("CH3Cl")
    other.translate([4.5, 1.0, 0.3])
    box += other
    box.set_cell([[9.0, 0, 0], [0.5, 8.5, 0], [0, 0.4, 8.0]])
    box.pbc = True
    box.rattle(0.04, seed=4)
    return [ethanol, box]


def _frames(name: str) -> list[Atoms]:
    return _molecular() if name == "so3lr" else _crystals()


def _by_its_own_api(name: str) -> dict:
    frames = [
        {
            "numbers": a.numbers.tolist(),
            "positions": a.positions.tolist(),
            "cell": a.cell.array.tolist(),
            "pbc": a.pbc.tolist(),
        }
        for a in _frames(name)
    ]
    script = _PRELUDE + _BY_ITS_OWN_API[name] + _EPILOGUE
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        input=json.dumps(frames),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=[n for n in teacher_names() if n in _BY_ITS_OWN_API])
def name(request: pytest.FixtureRequest) -> str:
    if importlib.util.find_spec(get_card(request.param).package) is None:
        pytest.skip(get_card(request.param).remedy)
    return request.param


@pytest.fixture(scope="module")
def teacher(name: str) -> Iterator[WorkerPotential]:
    with open_teacher(name, threads=1) as potential:
        yield potential


# One strain without symmetry, and its size: float32 needs a large one.
_STRAIN = np.array([[0.6, 0.3, -0.2], [0.3, -0.5, 0.4], [-0.2, 0.4, 0.7]])


def _step(teacher: WorkerPotential) -> float:
    return 2e-3 if teacher.capabilities.precision == "float32" else 1e-4


@pytest.fixture(scope="module")
def labelled(teacher: WorkerPotential) -> LabelledFrames:
    """Labels of two structures, then of a left-handed one, also strained both ways."""
    frames = _frames(teacher.name)
    chosen = next(atoms for atoms in frames if atoms.pbc.all()).copy()
    # The same lattice, spanned by the negatives of its vectors.
    chosen.set_cell(-chosen.cell.array)
    for size in (0, 1, -1):
        other = chosen.copy()
        other.set_cell(chosen.cell.array @ (np.eye(3) + size * _step(teacher) * _STRAIN), scale_atoms=True)
        frames.append(other)
    batch = StructureBatch.from_atoms(frames)
    return batch, teacher.evaluate(batch)


def test_labels_equal_the_packages_own(name: str, teacher: WorkerPotential, labelled: LabelledFrames) -> None:
    batch, labels = labelled
    said = _by_its_own_api(name)
    # The same arithmetic twice: only the order of sums may differ, so some units in the last place.
    eps = float(np.finfo(teacher.capabilities.precision).eps)
    assert len(said["out"]) == 2
    for s, own in enumerate(said["out"]):
        atoms = slice(batch.offsets[s], batch.offsets[s + 1])
        forces = labels.forces[atoms]
        largest = np.abs(forces).max()
        assert largest > 0.1
        assert labels.energy[s] == pytest.approx(own["energy"], rel=20 * eps)
        np.testing.assert_allclose(forces, own["forces"], rtol=0, atol=200 * eps * largest)
        if own["stress"] is None:
            assert np.isnan(labels.stress[s]).all()
        else:
            largest = np.abs(own["stress"]).max()
            np.testing.assert_allclose(labels.stress[s], own["stress"], rtol=0, atol=500 * eps * largest)
        if "atom_energies" in own:
            np.testing.assert_allclose(labels.atom_energies[atoms], own["atom_energies"], rtol=1e-5)
    assert teacher.n_parameters == said["parameters"]
    if "elements" in said:
        assert set(said["elements"]) == teacher.card.elements


def test_parameters_are_as_known(name: str, teacher: WorkerPotential) -> None:
    """CHGNet prints its own count on loading; 842,440 is what SevenNet-0 is listed with elsewhere."""
    known = {"sevennet-0": 842_440, "sevennet-l3i5": 1_171_144, "chgnet": 412_525, "so3lr": 529_852}
    assert teacher.n_parameters == known[name]


def test_atomic_energies_sum_to_the_energy(teacher: WorkerPotential, labelled: LabelledFrames) -> None:
    batch, labels = labelled
    if not teacher.capabilities.atom_energies:
        assert labels.atom_energies is None
        return
    sums = np.add.reduceat(labels.atom_energies, batch.offsets[:-1])
    np.testing.assert_allclose(sums, labels.energy, rtol=1e-5)


def test_stress_is_the_derivative_of_the_energy(teacher: WorkerPotential, labelled: LabelledFrames) -> None:
    """Work along one skewed strain by central difference: a flipped sign cannot pass."""
    batch, labels = labelled
    assert np.linalg.det(batch.cell[2]) < 0
    work = (labels.energy[3] - labels.energy[4]) / (2 * _step(teacher)) / batch.volume[2]
    predicted = np.sum(labels.stress[2] * _STRAIN)
    molecular = teacher.name == "so3lr"
    assert work == pytest.approx(predicted, rel=0.02, abs=1e-6 if molecular else 2e-4)
    assert abs(predicted) > (1e-4 if molecular else 1e-2)


def test_handedness_of_the_cell_changes_nothing(labelled: LabelledFrames) -> None:
    batch, labels = labelled
    twin = int(np.flatnonzero(batch.periodic)[0])
    np.testing.assert_array_equal(batch.cell[2], -batch.cell[twin])
    assert labels.energy[2] == pytest.approx(labels.energy[twin], rel=1e-6)
    np.testing.assert_allclose(labels.stress[2], labels.stress[twin], rtol=0, atol=1e-5)
    one, other = batch.atom_index([2]), batch.atom_index([twin])
    np.testing.assert_allclose(labels.forces[one], labels.forces[other], rtol=0, atol=1e-4)


def test_identity_needs_no_import_of_the_package(name: str, teacher: WorkerPotential) -> None:
    card = get_card(name)
    assert teacher.identity.name == name
    assert teacher.identity.version == card.version() != ""
    assert teacher.identity.weights_hash == card.weights_hash()
    assert len(card.weights_hash()) == 64
    assert card.requirement == f"{card.distribution}=={card.version()}"


def test_no_teacher_package_is_imported_for_identity_or_labels(name: str) -> None:
    """In a process of its own: other tests import the packages as their oracles."""
    script = (
        "import sys\n"
        "from limbeck.core.structures import StructureBatch\n"
        "from limbeck.labelling.remote import open_teacher\n"
        "from limbeck.teachers import get_card\n"
        "from ase.build import molecule\n"
        "card = get_card(sys.argv[1])\n"
        "atoms = molecule('H2O', cell=[9.0] * 3, pbc=card.periodic)\n"
        "with open_teacher(card.name, threads=1) as teacher:\n"
        "    teacher.identity, teacher.evaluate(StructureBatch.from_atoms([atoms]))\n"
        "sys.exit(card.package in sys.modules or 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_isolated_atoms_where_they_mean_something(teacher: WorkerPotential) -> None:
    energies = isolated_atom_energies(teacher, [14, 8, 14])
    if not teacher.capabilities.isolated_atoms:
        assert energies is None
        return
    assert sorted(energies) == [8, 14]
    # Cohesive energy of silicon: 4.63 eV in experiment, PBE within a few tenths.
    diamond = teacher.evaluate(StructureBatch.from_atoms([bulk("Si")])).energy[0] / 2
    assert 3.5 < energies[14] - diamond < 5.5


def test_so3lr_in_float32_says_so() -> None:
    if importlib.util.find_spec("so3krates_torch") is None:
        pytest.skip(get_card("so3lr").remedy)
    with open_teacher("so3lr", options={"dtype": "float32"}, threads=1) as teacher:
        labels = teacher.evaluate(StructureBatch.from_atoms([molecule("H2O")]))
        assert teacher.capabilities.precision == teacher.card.precision == "float32"
        assert teacher.identity.options == '{"dtype": "float32"}'
        assert labels.energy[0] == np.float32(labels.energy[0])
