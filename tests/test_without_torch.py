"""Running a student needs no PyTorch; commands that need it fail in one line with the remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

from limbeck.core.labels import LabelledSet
from limbeck.runtime.student import Student
from tests.validation.toys import label_set

#: holds for child processes too, through PYTHONPATH
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "lightning_fabric", "lightning"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""
CALCULATOR = """
import limbeck
from ase.build import bulk
atoms = bulk("Si")
atoms.calc = limbeck.Calculator("silicon-tiny", threads=1)
atoms.get_stress(), limbeck.Student.load("silicon-tiny").hessian(atoms)
"""
#: the common end of their messages
REFUSED = "remedy: pip install 'limbeck[train]'"
WORK = {
    "students": "students",
    "info": "info silicon-tiny --card-md card.md",
    "lint": "lint labels.extxyz",
    "validate": "validate silicon-tiny labels.extxyz",
    "bench": "bench silicon-tiny --engines native --teacher none --batch 1 --atoms 16 --row-limit 2s",
    "doctor": "doctor",
    "teachers": "teachers",
    "label": "label copper.extxyz --teacher ase.calculators.emt:EMT --out store",
}
NEED = {
    "train": "train labels.extxyz --epochs 1 --out new",
    "distill": "distill --bulk Cu --teacher ase.calculators.emt:EMT --budget 1m --out new",
    "learning-curve": "learning-curve labels.extxyz --preset tiny --budget 1m --out new",
    "export": "export silicon-tiny --to torch-export --out new",
    "finalize": "finalize silicon-tiny --out new",
    "convert": "convert old.pt --out new",
    "a GPU": "validate silicon-tiny labels.extxyz --device cuda",
}
RUN = f"""
import contextlib, io, json, sys
from limbeck import cli
exec({CALCULATOR!r})
found = {{}}
for name, command in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        found[name] = cli.main(command.split()), errors.getvalue()
try:
    limbeck.Student.load("silicon-tiny", engine="torch")
except limbeck.LimbeckError as error:
    found["Student"] = 2, f"error: {{error}}\\n"
print(json.dumps(found))
"""


def silicon(count: int) -> LabelledSet:
    frames = [bulk("Si", cubic=True) for _ in range(count)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    labels = Student.load("silicon-tiny", threads=1).evaluate(frames)
    return label_set(frames, labels)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """Exit code and standard error of each command, all in one process without PyTorch."""
    folder, block = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("block")
    (block / "sitecustomize.py").write_text(BLOCK)
    write(folder / "labels.extxyz", silicon(12).to_atoms())
    write(folder / "copper.extxyz", bulk("Cu", cubic=True))
    (folder / "old.pt").write_bytes(b"weights")
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(WORK | NEED)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(block), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (folder / "new").exists()
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", WORK)
def test_it_works_without(outcomes, name):
    code, errors = outcomes[name]
    assert (code, "error: " in errors) == (0, False), errors


@pytest.mark.parametrize("name", [*NEED, "Student"])
def test_the_error_names_what_to_install(outcomes, name):
    code, errors = outcomes[name]
    assert code == 2
    assert errors.count("\n") == 1
    assert errors.startswith("error: ")
    assert errors.endswith(f"{REFUSED}\n"), errors


def test_the_extra_train_brings_it():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    project, heavy = tomllib.loads(text)["project"], ("torch", "lightning-fabric")
    extras = project["optional-dependencies"]
    assert not [line for line in project["dependencies"] if line.startswith(heavy)]
    assert sorted(line.split(">")[0] for line in extras["train"]) == sorted(heavy)
    for name in ("sevennet", "chgnet", "so3lr", "xtb", "export", "tensorboard"):
        assert "limbeck[train]" in extras[name]
    for name in ("demo", "all"):
        assert extras[name][0].startswith("limbeck[train,")
