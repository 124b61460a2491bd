"""Fixtures of the pipeline tests: copper with EMT, which costs milliseconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from limbeck import cli

Outcome = tuple[int, str, str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """run(*arguments) -> (exit code, stdout, stderr)."""

    def _run(*arguments: object) -> Outcome:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return _run


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
    folder = Path(__file__).parent
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    return folder


def labelled_copper(n: int, seed: int = 0) -> list[Atoms]:
    """``n`` rattled conventional cells with EMT's energy, forces and stress."""
    frames = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.08, seed=1000 * seed + k)
        atoms.calc = EMT()
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.fixture
def copper_file(tmp_path: Path) -> Path:
    """Forty labelled structures of copper."""
    path = tmp_path / "copper.extxyz"
    write(path, labelled_copper(40))
    return path
