"""Fixtures of the workflow tests: copper with EMT, which costs milliseconds."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from limbeck import cli

HERE = Path(__file__).parent
Outcome = tuple[int, str, str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """run(*arguments) -> (exit code, stdout, stderr); a first argument with spaces is a command line."""

    def _run(*arguments: object) -> Outcome:
        code = cli.main([*shlex.split(str(arguments[0])), *map(str, arguments[1:])])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return _run


@pytest.fixture
def done(run: Callable[..., Outcome]) -> Callable[..., str]:
    """done(*arguments) -> stdout; the exit code must be 0."""

    def _done(*arguments: object) -> str:
        code, printed, err = run(*arguments)
        assert code == 0, err
        return printed

    return _done


@pytest.fixture
def refused(run: Callable[..., Outcome]) -> Callable[..., str]:
    """refused(*arguments) -> the one line that stands on stderr; the exit code must be 2."""

    def _refused(*arguments: object, code: int = 2) -> str:
        got, _, err = run(*arguments)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert got == code, err
        assert len(lines) == 1, err
        assert err.rstrip("\n").endswith(lines[0])
        return lines[0].removeprefix("error: ")

    return _refused


@pytest.fixture
def importable_here(monkeypatch: pytest.MonkeyPatch) -> Path:
    """This folder on the path of processes that the test starts."""
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
    return HERE


def labelled(atoms: Atoms) -> Atoms:
    """With EMT's energy, forces and, where it is periodic, stress."""
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if atoms.pbc.all():
        results["stress"] = atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def labelled_copper(n: int, seed: int = 0) -> list[Atoms]:
    """``n`` rattled conventional cells with EMT's energy, forces and stress."""
    frames = [bulk("Cu", cubic=True) for _ in range(n)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.08, seed=1000 * seed + k)
    return [labelled(atoms) for atoms in frames]


@pytest.fixture
def copper_file(tmp_path: Path) -> Path:
    """Forty labelled structures of copper."""
    path = tmp_path / "copper.extxyz"
    write(path, labelled_copper(40))
    return path


N_TEST = 4


def small_distillation(folder: Path, **changes: object) -> Path:
    """A configuration in ``folder`` that takes a second; each evaluation is noted in ``evaluations.log``."""
    log = str(folder / "evaluations.log")
    test_set = {"kind": "md", "temperature_K": 300, "frames": N_TEST, "every_fs": 20, "equilibrate_fs": 40,
                "timestep_fs": 4}  # fmt: skip
    values = {
        "bulk": "Cu",
        "teacher": {"name": "counting_emt:CountingEMT", "options": {"log": log}},
        "presets": ["ultra-tiny"],
        "sampling": {"seed": 1, "steps": [{"kind": "rattle", "stdev_a": 0.08, "n": 24}]},
        "test": {"seed": 101, "steps": [test_set]},
        "training": {"epochs": 1, "cutoff": 3.5},
        "validation": {"onpolicy_frames": 0, "nve_fs": 0},
    }
    (folder / "cu.yaml").write_text(yaml.safe_dump(values | changes))
    return folder / "cu.yaml"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of that configuration; nothing in it is changed."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
        assert cli.main(["distill", str(small_distillation(folder)), "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def finished(made: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return shutil.copytree(made / "run", tmp_path / "run")
