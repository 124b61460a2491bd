"""Teachers in the environments that ``limbeck teachers install`` makes: real weights, or small files.

LIMBECK_HOME keeps the environments between runs; without it they are made in a temporary folder, but
for those of LARGE, which are only used where ``limbeck teachers install`` made them.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write
from tests.teachers.oracle import labels_by_package, run_python

import limbeck
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.labelling.remote import WorkerPotential, open_teacher
from limbeck.teachers import get_card
from limbeck.teachers.environments import install_environment, installed_python
from limbeck.testing import check_potential

pytestmark = pytest.mark.slow

PathOf = Callable[[str], Path]  # of a teacher: its Python, its model file

BUILD = Path(__file__).with_name("build_model.py")
LARGE = ("mattersim", "aimnet2", "nequip", "deepmd", "pet-mad")
#: by the end of a file's name these know what it is
SUFFIX = {"aimnet2": ".pt", "nequip": ".nequip.zip", "deepmd": ".pth", "pet-mad": ".ckpt"}


def _teachers(*names: str) -> list[object]:
    """Parameters of these teachers; MACE, whose files, names, heads and trust try every path, for CI too."""
    return [pytest.param(n, marks=[pytest.mark.ci] * (n == "mace")) for n in names]


# The package's own ASE calculator is the oracle; nothing of Limbeck is imported.
_ORACLES = {
    "mace": """
from mace.calculators import MACECalculator
calculator = MACECalculator(model_paths=[sys.argv[1]], device="cpu", default_dtype="float64")
""",
    "orb": """
from orb_models.forcefield.calculator import ORBCalculator
from orb_models.forcefield.pretrained import orb_v3_conservative_inf_omat
calculator = ORBCalculator(orb_v3_conservative_inf_omat(
    weights_path=sys.argv[1], device="cpu", precision="float32-highest", compile=False), device="cpu")
""",
    "mattersim": """
from mattersim.forcefield import MatterSimCalculator
calculator = MatterSimCalculator.from_checkpoint(sys.argv[1], device="cpu")
""",
    "aimnet2": """
from aimnet.calculators import AIMNet2ASE, AIMNet2Calculator
calculator = AIMNet2ASE(AIMNet2Calculator(sys.argv[1], device="cpu"))
""",
    "nequip": """
from nequip.integrations.ase import NequIPCalculator
calculator = NequIPCalculator._from_saved_model(sys.argv[1], chemical_species_to_atom_type_map=True)
""",
    # Its operators are built for another version of torch.
    "deepmd": """
import deepmd.env, os, pathlib
deepmd.env.SHARED_LIB_DIR = pathlib.Path(os.devnull)
from deepmd.calculator import DP
calculator = DP(sys.argv[1])
""",
    # Exported, which is TorchScript and has neighbours' lists with a skin.
    "pet-mad": """
import tempfile
from metatomic_ase import MetatomicCalculator
from metatrain.utils.io import load_model
with tempfile.TemporaryDirectory() as folder:
    load_model(sys.argv[1]).export().save(folder + "/model.pt")
    calculator = MetatomicCalculator(folder + "/model.pt", device="cpu")
""",
    # Member by member, and its own calculator's forces and stress.
    "ani-1x": """
import torch, torchani
from pathlib import Path
from torchani import AEVComputer, neurochem
import torchani.ase
folder = Path(torchani.__file__).parent / "resources" / "ani-1x_8x"
constants = neurochem.Constants(str(folder / "rHCNO-5.2R_16-3.5A_a4-8.params"))
parts = [torch.nn.Sequential(AEVComputer(**constants), neurochem.load_model(
    constants.species, str(folder / f"train{k}" / "networks")), neurochem.load_sae(str(folder / "sae_linfit.dat")))
    for k in range(8)]
class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)
    def forward(self, pair, cell=None, pbc=None):
        species, positions = pair
        sums = 0
        for aev, network, shift in self.parts:
            described = aev((species, positions), cell=cell, pbc=pbc)
            sums = sums + shift(network(described)).energies / 8
        return torchani.nn.SpeciesEnergies(species, sums)
calculator = torchani.ase.Calculator(constants.species, Mean().double())
""",
}


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PathOf]:
    """environment(teacher) -> its Python, installed as a user would."""
    kept = os.environ.get("LIMBECK_HOME")
    os.environ["LIMBECK_HOME"] = kept or str(tmp_path_factory.mktemp("limbeck_home"))

    def python_of(name: str) -> Path:
        if name not in LARGE:
            return install_environment(get_card(name))
        found = installed_python(get_card(name))
        if found is None:
            pytest.skip(f"no environment of {name}: limbeck teachers install {name}, with LIMBECK_HOME set")
        return found

    yield python_of
    if kept is None:
        del os.environ["LIMBECK_HOME"]


@pytest.fixture(scope="session")
def model_file(environment: PathOf, tmp_path_factory: pytest.TempPathFactory) -> PathOf:
    """model_file(teacher) -> a file with random weights, made by the teacher's own package."""

    @functools.cache
    def make(name: str) -> Path:
        path = tmp_path_factory.mktemp("models") / f"{name}{SUFFIX.get(name, '.model')}"
        run_python(environment(name), str(BUILD), name, str(path))
        return path

    return make


@pytest.fixture(scope="module", params=_teachers("ani-1x", "mace", "orb", *LARGE))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def options(name: str, model_file: PathOf) -> dict[str, str]:
    option = get_card(name).file_option
    return {} if option is None else {option: str(model_file(name))}


@pytest.fixture(scope="module")
def teacher(name: str, options: dict[str, str], environment: PathOf) -> Iterator[WorkerPotential]:
    python = environment(name)
    with open_teacher(name, options=options, threads=1, python=python, trust=True) as potential:
        yield potential


def _frames(name: str) -> list[Atoms]:
    ethanol = molecule("CH3CH2OH")
    ethanol.rattle(0.05, seed=3)
    water = molecule("H2O")
    if get_card(name).periodic:
        water.set_cell([[5.0, 0, 0], [0.5, 4.5, 0], [0, 0.4, 4.0]])
        water.pbc = True
    water.rattle(0.04, seed=4)
    return [ethanol, water]


def test_labels_equal_the_packages_own(
    name: str, options: dict[str, str], teacher: WorkerPotential, environment: PathOf
) -> None:
    frames = _frames(name)
    found = labels_by_package(environment(name), _ORACLES[name], frames, *options.values())
    batch = StructureBatch.from_atoms(frames)
    labels = teacher.evaluate(batch)
    assert get_card(name).requirement.endswith(f"=={teacher.identity.version}")
    assert len(teacher.identity.weights_hash) == 64
    assert "/" not in teacher.identity.options
    if name == "mace":
        assert teacher.card.elements == teacher.capabilities.elements == {1, 6, 8, 14}
    if name == "ani-1x":
        # Eight networks for each of four elements over 384 descriptors.
        assert teacher.n_parameters == 2_613_280
    # Where the oracle's sums run in another order, some units in the last place.
    eps = float(np.finfo(teacher.capabilities.precision).eps)
    for s, own in enumerate(found["out"]):
        forces = labels.forces[batch.offsets[s] : batch.offsets[s + 1]]
        assert labels.energy[s] == pytest.approx(own["energy"], rel=100 * eps)
        assert np.abs(own["forces"]).max() > 1e-3
        np.testing.assert_allclose(
            forces, own["forces"], rtol=0, atol=1e4 * eps * max(1.0, np.abs(forces).max())
        )
        if own["stress"] is not None:
            np.testing.assert_allclose(labels.stress[s], own["stress"], rtol=0, atol=1e4 * eps)


def test_the_contract_holds(name: str, teacher: WorkerPotential) -> None:
    """ORB's 25 million weights take minutes: of it, only that forces are derivatives of the energy."""
    if name != "orb":
        assert check_potential(teacher).passed
        return
    (ethanol, _), h = _frames(name), 5e-3
    forces = teacher.evaluate(StructureBatch.from_atoms([ethanol])).forces
    direction = np.random.default_rng(0).normal(size=forces.shape)
    direction /= np.linalg.norm(direction)
    moved = [Atoms(ethanol.numbers, ethanol.positions + sign * h * direction) for sign in (1, -1)]
    energies = teacher.evaluate(StructureBatch.from_atoms(moved)).energy
    assert -(energies[0] - energies[1]) / (2 * h) == pytest.approx(np.sum(forces * direction), rel=0.05)


def test_label_to_store(name: str, options: dict[str, str], environment: PathOf, tmp_path: Path) -> None:
    """The command line, with the environment found by itself."""
    environment(name)
    write(tmp_path / "frames.extxyz", _frames(name))
    sets = [f"--set=teacher.options.{key}={value}" for key, value in options.items()]
    trust = ["--trust"] if get_card(name).unpickles else []
    command = ["label", "frames.extxyz", "--teacher", name, "--out", "store", "--extxyz", "out.extxyz"]
    done = subprocess.run(
        [sys.executable, "-m", "limbeck.cli", *command, *sets, *trust],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(limbeck.__file__).resolve().parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "out.extxyz", ":")) == 2


@pytest.mark.parametrize("teacher_name", _teachers("mace", "orb", *LARGE))
def test_a_truncated_model_file_is_one_line(
    teacher_name: str, environment: PathOf, model_file: PathOf, tmp_path: Path
) -> None:
    whole = model_file(teacher_name).read_bytes()
    path = tmp_path / f"half{SUFFIX.get(teacher_name, '.model')}"
    path.write_bytes(whole[: len(whole) // 2])
    option = str(get_card(teacher_name).file_option)
    with pytest.raises(InputError) as caught:
        open_teacher(
            teacher_name, options={option: str(path)}, python=environment(teacher_name), trust=True
        ).close()
    assert f"teacher {teacher_name}: {path}: unreadable model file" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.ci
def test_mace_by_name_takes_the_packages_own_file(
    environment: PathOf, model_file: PathOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where mace-torch keeps what it downloaded: no network is needed, nor trust."""
    kept = tmp_path / "mace"
    kept.mkdir()
    content = model_file("mace").read_bytes()
    for file_name in ("20231210mace128L0_energy_epoch249model", "MACEOFF23_smallmodel"):
        (kept / file_name).write_bytes(content)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    frame = StructureBatch.from_atoms([bulk("Si")])
    found = []
    for model, licence in (("small", "MIT"), ("off-small", "ASL (academic, not commercial)")):
        with open_teacher("mace", options={"model": model}, python=environment("mace")) as potential:
            found.append((potential.identity, potential.evaluate(frame).energy[0]))
            assert potential.card.licence == licence
    assert found[0][1] == found[1][1]
    assert found[0][0].weights_hash == found[1][0].weights_hash
    assert '"model": "small"' in found[0][0].options


def test_mattersim_by_name_takes_the_packages_own_file(
    environment: PathOf, model_file: PathOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where mattersim keeps what it downloaded; a slab is not cut where its atoms cross the cell."""
    kept = tmp_path / ".local/mattersim/pretrained_models"
    kept.mkdir(parents=True)
    (kept / "mattersim-v1.0.0-5M.pth").write_bytes(model_file("mattersim").read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    turned = bulk("Si", cubic=True)
    turned.rattle(0.1, seed=1)
    mirrored = turned.copy()
    mirrored.set_cell(turned.cell.array[[1, 0, 2]])  # the same crystal, its basis left-handed
    options = {"model": "mattersim-v1.0.0-5M"}
    with open_teacher("mattersim", options=options, python=environment("mattersim")) as potential:
        labels = potential.evaluate(StructureBatch.from_atoms([*_slabs(), turned, mirrored]))
        assert '"model": "mattersim-v1.0.0-5M"' in potential.identity.options
    assert labels.energy[0] == pytest.approx(labels.energy[1], rel=1e-5)
    assert labels.energy[0] != pytest.approx(labels.energy[2], rel=1e-3)
    assert np.isnan(labels.stress[:2]).all()
    assert np.abs(labels.stress[2]).max() > 1e-4
    np.testing.assert_allclose(labels.stress[2], labels.stress[3], atol=1e-5)


@pytest.mark.parametrize(("teacher_name", "option"), [("deepmd", {"head": "b"}), ("pet-mad", {})])
def test_two_files_of_one_network_have_its_labels(
    teacher_name: str, option: dict[str, str], environment: PathOf, model_file: PathOf
) -> None:
    """DeePMD: a frozen model and a head of a checkpoint; PET: a checkpoint and the exported model."""
    first, python = model_file(teacher_name), environment(teacher_name)
    batch, labels = StructureBatch.from_atoms([*_slabs(), *_frames(teacher_name)]), []
    batch = batch if teacher_name == "deepmd" else batch.select([2, 3])
    for options in ({"model": str(first)}, {"model": str(first.with_suffix(".pt")), **option}):
        with open_teacher(teacher_name, options=options, python=python, trust=True) as potential:
            labels.append(potential.evaluate(batch))
            assert potential.card.elements == {1, 6, 8, 14}
            assert teacher_name == "deepmd" or potential.capabilities.precision == "float64"
    np.testing.assert_allclose(labels[0].energy, labels[1].energy, rtol=1e-10)
    np.testing.assert_allclose(labels[0].forces, labels[1].forces, atol=1e-10)
    np.testing.assert_allclose(labels[0].stress, labels[1].stress, atol=1e-10)
    if teacher_name == "deepmd":
        assert labels[0].energy[0] == pytest.approx(labels[0].energy[1], rel=1e-10)
        assert np.isnan(labels[0].stress[:2]).all()
    else:
        np.testing.assert_allclose(labels[0].atom_energies.sum(), labels[0].energy.sum(), rtol=1e-10)


def _slabs() -> list[Atoms]:
    """A slab, and the same with its atoms across the cell's boundary."""
    slab = bulk("Si", cubic=True)
    slab.rattle(0.1, seed=1)
    slab.pbc = [True, True, False]
    moved = slab.copy()
    moved.positions[:, 2] -= 2.0
    return [slab, moved]
