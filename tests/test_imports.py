"""Importing Limbeck is cheap: no torch and no other heavy package is bundled."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = [
    "chgnet", "e3nn", "lightning", "lightning_fabric", "matplotlib", "pandas", "pymatgen", "rdkit", "sevenn",
    "sklearn", "so3krates_torch", "tensorboard", "torch", "torch_geometric", "vesin",
]  # fmt: skip


def loaded_after(statement: str) -> set[str]:
    """Top-level modules of a fresh interpreter after ``statement``."""
    code = (
        f"{statement}\nimport sys, json\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "more"),
    [
        ("import limbeck", ["ase", "numpy", "pydantic", "rich", "scipy", "typer"]),
        ("import limbeck.cli", ["ase", "numpy", "pydantic", "scipy", "yaml"]),
        ("import limbeck.config", []),
        ("import limbeck.core.potential, limbeck.core.labels, limbeck.core.files, limbeck.core.hashing", []),
        ("import limbeck.teachers", []),
        ("from limbeck.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass", ["ase", "numpy"]),
    ],
)
def test_import_loads_nothing_heavy(statement, more):
    assert sorted(loaded_after(statement) & {*HEAVY, *more}) == []


def test_public_names_are_listed_and_an_unknown_one_is_refused():
    import limbeck

    assert {"Calculator", "Student", "distill", "LimbeckError", "InputError", "__version__"} <= set(
        dir(limbeck)
    )
    with pytest.raises(AttributeError, match="no attribute 'Studnet'"):
        limbeck.Studnet  # noqa: B018


def test_import_writes_nothing(tmp_path):
    code = "import limbeck, limbeck.cli, limbeck.config"
    environment = {"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    assert list(tmp_path.iterdir()) == []
