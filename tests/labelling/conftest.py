"""Fixtures of the labelling tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk


@pytest.fixture
def helper_calculators(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make ``helper_calculators`` importable in processes that the test starts."""
    folder = Path(__file__).parent
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return folder


def make_frames(n: int, symbol: str = "Ar") -> list[Atoms]:
    """``n`` different structures with provenance: crystals and every third a molecule."""
    frames = []
    for i in range(n):
        atoms = (
            bulk(symbol, "fcc", a=5.2, cubic=True) if i % 3 else Atoms(f"{symbol}2", [[0, 0, 0], [0, 0, 3.6]])
        )
        atoms.rattle(0.1, seed=i)
        atoms.info.update(group=f"chain-{i % 2}", config_type="rattle", temperature_K=100.0 * i)
        frames.append(atoms)
    return frames
