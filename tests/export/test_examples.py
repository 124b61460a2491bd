"""The example scripts, each in an environment of its own in which Limbeck does not exist."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.optimize import BFGS

from limbeck.export.formats import SUFFIXES, write_format
from limbeck.runtime.calculator import Calculator
from tests.export.tools import need, small_graph, small_student
from tests.students.tools import SYSTEMS

EXAMPLES = Path(__file__).parents[2] / "examples" / "exported"
START = SYSTEMS["triclinic"]
pytestmark = [pytest.mark.slow, pytest.mark.ci]


def make_environment(folder: Path, *without: str) -> Path:
    """A fresh environment whose packages are links to this one's, without those named; its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    sources = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    for entry in sorted(entry for source in sources for entry in source.iterdir()):
        # .pth files are left out too: an editable installation is one
        if entry.suffix == ".pth" or entry.name.lower().lstrip("_").startswith(without):
            continue
        if not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def run_example(python: Path, *arguments: object, absent: str) -> dict:
    """The JSON object that an example prints, in the environment that has none of the absent packages."""

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(python.parents[1])}
        command = [str(python), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")

    for name in absent.split():
        assert "ModuleNotFoundError" in call("-c", f"import {name}").stderr, f"{name} is there after all"
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def export(tmp_path):
    """export(format) -> (path of the small student's export, path of a structure)."""

    def _export(kind: str) -> tuple[Path, Path]:
        need(kind)
        path, structure = tmp_path / f"small{SUFFIXES[kind]}", tmp_path / "start.extxyz"
        write_format(small_graph(), kind, path)
        write(structure, START)
        return path, structure

    return _export


def native_energy() -> float:
    return float(small_student().evaluate([START]).energy[0])


def test_dynamics_with_onnx_without_torch(export, tmp_path):
    python = make_environment(tmp_path / "env", "limbeck", "torch", "functorch")
    script, files, absent = EXAMPLES / "onnx_md.py", export("onnx"), "limbeck torch"
    told = run_example(python, script, *files, "--steps", 40, absent=absent)
    assert abs(told["drift_mev_per_atom"]) < 0.5
    still = run_example(python, script, *files, "--steps", 0, absent=absent)
    assert still["energy_ev"] == pytest.approx(native_energy(), abs=1e-5)


def test_dynamics_with_torchscript(export, tmp_path):
    python = make_environment(tmp_path / "env", "limbeck")
    script, files = EXAMPLES / "torchscript_md.py", export("torchscript")
    told = run_example(python, script, *files, "--steps", 40, absent="limbeck")
    assert 50 < told["temperature_k"] < 1000
    still = run_example(python, script, *files, "--steps", 0, absent="limbeck")
    assert still["energy_ev"] == pytest.approx(native_energy(), abs=1e-5)


def test_relaxation_with_torch_export(export, tmp_path):
    python = make_environment(tmp_path / "env", "limbeck")
    script, files = EXAMPLES / "torch_export_relax.py", export("torch-export")
    told = run_example(python, script, *files, "--fmax", 0.01, "--steps", 12, "--cell", absent="limbeck")
    atoms = START.copy()
    atoms.calc = Calculator(small_student(), guarded=False)
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=12)
    assert told["energy_ev"] == pytest.approx(atoms.get_potential_energy(), abs=1e-3)
    assert told["volume_a3"] == pytest.approx(atoms.get_volume(), rel=1e-4)
    assert abs(atoms.get_volume() - START.get_volume()) > 0.01  # the cell moved
