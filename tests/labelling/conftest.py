"""Fixtures of the labelling tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from limbeck.core.labels import Labels
from limbeck.labelling.record import LabelRecord, make_record
from limbeck.teachers.card import TeacherIdentity


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
        atoms.info.update(family=f"chain-{i % 2}", step="rattle", temperature_K=100.0 * i)
        frames.append(atoms)
    return frames


def make_label_record(seed: int, family: str = "", spin: int = 0) -> LabelRecord:
    """A record with random numbers; even seeds have stress, seeds divisible by 3 atomic energies."""
    rng = np.random.default_rng(seed)
    n = 1 + seed % 4
    atoms = Atoms(numbers=rng.integers(1, 80, n), positions=rng.normal(size=(n, 3)))
    if seed % 2 == 0:
        atoms.set_cell(rng.normal(size=(3, 3)) + 4 * np.eye(3))
        atoms.pbc = True
    atoms.info.update(family=family or f"käse-{seed % 3}", step="md", temperature_K=300.0)
    if spin:
        atoms.info["spin"] = spin
    labels = Labels(
        energy=rng.normal(size=1),
        forces=rng.normal(size=(n, 3)),
        stress=rng.normal(size=(1, 3, 3)) if seed % 2 == 0 else None,
        atom_energies=rng.normal(size=n) if seed % 3 == 0 else None,
    )
    identity = TeacherIdentity("toy", "1.0", "0" * 64, "{}", "float64")
    return make_record(atoms, labels, identity, order=seed)


@pytest.fixture(scope="session")
def frames() -> Callable[..., list[Atoms]]:
    return make_frames


@pytest.fixture(scope="session")
def label_record() -> Callable[..., LabelRecord]:
    return make_label_record
