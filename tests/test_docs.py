"""The pages of docs/: written by their scripts where one writes them, and every block does what it says."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from limbeck.sampling.config import SamplingConfig
from tests.docs_pages import Reader, call, changed, is_given, read_blocks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: examples of sampling.md are read by a test of their own
PAGES = sorted(page for page in DOCS.glob("*.md") if page.name != "sampling.md")
GENERATED = ("sampling", "commands", "python")
#: packages of extras that a page's blocks use
NEEDS = {
    "choosing-a-preset": ("plotly",),
    "commands": ("matplotlib", "plotly"),
    "exports": ("onnxruntime", "onnxscript"),
    "first-student": ("matplotlib", "plotly"),
    "own-data": ("matplotlib",),
}
TEACHER = "ase.calculators.emt:EMT"


def load(name: str) -> ModuleType:
    """The script docs/NAME_table.py."""
    spec = importlib.util.spec_from_file_location(f"{name}_table", DOCS / f"{name}_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERATED)
def test_what_a_script_writes_is_fresh(name):
    table = load(name)
    text = table.TARGET.read_text(encoding="utf-8")
    assert text == table.render(), f"run python docs/{name}_table.py"


def test_every_kind_has_an_example_that_loads():
    table = load("sampling")
    assert set(table.EXAMPLES) == set(table.step_models())
    pool = {"kind": "rattle", "name": "md", "stdev_a": 0.1}
    for kind, text in table.EXAMPLES.items():
        steps = [pool, yaml.safe_load(text)] if kind == "select" else [yaml.safe_load(text)]
        assert SamplingConfig(steps=steps).steps[-1].kind == kind


def test_every_key_of_every_kind_is_told():
    table = load("sampling")
    text = table.render()
    for model in table.step_models().values():
        for name, field in model.model_fields.items():
            assert name == "kind" or f"| `{field.alias or name}` |" in text


def test_every_command_and_option_is_told():
    import typer

    from limbeck.cli import app

    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    for name, command in typer.main.get_command(app).commands.items():
        section = text.split(f"## limbeck {name}\n")[1].split("\n## ")[0]
        for param in command.params:
            if param.opts[0] not in ("--help", "--debug") and param.opts[0].startswith("--"):
                assert f"`{param.opts[0]}`" in section, (name, param.opts)


def test_public_names_are_told():
    import limbeck
    import limbeck.report
    import limbeck.testing

    text = (DOCS / "python.md").read_text(encoding="utf-8")
    told = {n for n in limbeck.__all__ if n != "__version__"} | set(limbeck.testing.__all__)
    assert [name for name in told if f"{name}`" not in text and f"{name}(" not in text] == []


# ---- links and figures -------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, heading = target.partition("#")
        if path.startswith("https://"):
            continue
        other = page.parent / path if path else page
        assert other.exists(), target
        if heading:
            slugs = [
                re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                for line in other.read_text(encoding="utf-8").splitlines()
                if line.startswith("#")
            ]
            assert heading in slugs, target


def test_the_index_lists_every_page():
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in DOCS.glob("*.md") if f"({p.name})" not in text and p.name != "README.md"] == []


def test_the_presets_are_as_told():
    from limbeck.students.specification import PRESETS, preset_architecture
    from tests.students.test_specification import BUDGETS

    text = (DOCS / "choosing-a-preset.md").read_text(encoding="utf-8")
    for preset in PRESETS:
        shape = preset_architecture(preset, tuple(range(1, 11)))
        reach = shape.cutoff * shape.interactions
        row = f"| `{preset}` | {shape.hidden_dim} | {shape.interactions} | {shape.rbf} | {shape.n_parameters:,} | {BUDGETS[preset]:,} | {reach:g} |"
        assert row in text


def test_messages_of_the_questions_are_those_of_the_program():
    sources = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "src" / "limbeck").rglob("*.py"))
    phrases = re.findall(r"^### `(.+)`$", (DOCS / "faq.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(phrases) >= 20
    # what a message fills in stands for a placeholder of the source
    parts = [(phrase, part.strip()) for phrase in phrases for part in phrase.split("…")]
    assert [phrase for phrase, part in parts if part not in sources] == []


# ---- blocks ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of copper with EMT, as `limbeck distill` leaves it, and labelled files beside it."""
    folder = tmp_path_factory.mktemp("docs")
    words = ["distill", "--bulk", "Cu", "--teacher", TEACHER, "--preset", "tiny,ultra-tiny"]
    code, errors = call(changed([*words, "--out", str(folder / "runs" / "si")], ("small",)))
    assert code == 0, errors
    for name, seed, count in (("my_dft", 0, 12), ("test", 1, 4)):
        write(folder / f"{name}.extxyz", labelled(count, seed))
    write(folder / "frames.extxyz", [bulk("Cu", cubic=True)])
    return folder


def labelled(count: int, seed: int) -> list[Any]:
    """Rattled copper with EMT's energy, forces and stress."""
    frames = []
    for k in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.08, seed=100 * seed + k)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        results["stress"] = atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def lay_out(finished: Path, folder: Path) -> None:
    """What a page that is `given` finds in its folder."""
    import torch

    from limbeck.artifact.file import read_student
    from tests.students.tools import checkpoint_state

    shutil.copytree(finished, folder, dirs_exist_ok=True)
    record = read_student(folder / "runs" / "si" / "tiny.safetensors")
    torch.save(checkpoint_state(record), folder / "old_checkpoint.pt")


def pages() -> list[Any]:
    """Pages with blocks; those that train or export are slow."""
    marks = [pytest.mark.slow, pytest.mark.ci]
    found = [page for page in PAGES if read_blocks(page)]
    slow = {p for p in found if is_given(p) or "limbeck distill" in p.read_text(encoding="utf-8")}
    return [pytest.param(p, id=p.stem, marks=marks if p in slow else ()) for p in found]


@pytest.mark.parametrize("page", pages())
def test_blocks_do_what_the_page_says(page, tmp_path, monkeypatch, request):
    for package in NEEDS.get(page.stem, ()):
        pytest.importorskip(package)
    if is_given(page):
        lay_out(request.getfixturevalue("finished_run"), tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    # what exports are timed on; the figures are not looked at
    monkeypatch.setattr("limbeck.export.runtimes.SIZES", (16, 100))
    monkeypatch.setattr("limbeck.export.runtimes._ENOUGH_S", 0.05)
    monkeypatch.setattr("limbeck.export.structures.MANY_ATOMS", 150)
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    Reader(tmp_path).follow(read_blocks(page))
    if page.stem == "exports":
        check_certificates_told(tmp_path / "exports", page.read_text(encoding="utf-8"))


def check_certificates_told(folder: Path, text: str) -> None:
    """Every key of the certificates that a page made is on it."""
    certificates = [json.loads(p.read_text(encoding="utf-8")) for p in folder.glob("*.certificate.json")]
    assert any("quantisation" in certificate for certificate in certificates)
    for certificate in certificates:
        free = {*certificate["runtime"], *certificate["parity"]["against_student"]}
        assert sorted(name for name in set(keys(certificate)) - free if f"`{name}`" not in text) == []


@pytest.mark.slow
@pytest.mark.ci
def test_every_figure_is_told(finished_run):
    from limbeck.benchmark.rows import Row
    from limbeck.records.metrics import WorstFrame
    from limbeck.workflows.active_learning import Iteration, StudentInIteration

    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    metrics = json.loads((finished_run / "runs" / "si" / "metrics.json").read_text(encoding="utf-8"))
    names = set(keys(metrics))
    for record in (Row, Iteration, StudentInIteration, WorstFrame):
        names |= {field.name for field in dataclasses.fields(record)}
    assert sorted(name for name in names if f"`{name}`" not in text) == []


def keys(tree: Any, group: str = "") -> list[str]:
    """All keys of metrics.json but names of groups, elements and temperatures."""
    if isinstance(tree, list):
        return [name for item in tree for name in keys(item)]
    if not isinstance(tree, dict):
        return []
    own = [] if group.startswith("by_") else list(tree)
    return own + [name for key, item in tree.items() for name in keys(item, key)]


# ---- the reader of pages itself ----------------------------------------------------------------


def page_of(tmp_path: Path, text: str) -> Reader:
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    reader = Reader(tmp_path)
    reader.follow(read_blocks(tmp_path / "page.md"))
    return reader


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nlimbeck info no-such-student\n```",  # fails unsaid
        "<!-- test: fails -->\n```sh\nlimbeck students\n```\n```text\nerror: x\n```",  # succeeds
        "<!-- test: fails -->\n```sh\nlimbeck info no-such\n```\n```text\nerror: other\n```",  # other words
        "<!-- test: fails -->\n```sh\nlimbeck info no-such\n```",  # no message shown
        "```sh\nmake demo\n```",  # not run
        "<!-- test: skip -->\n```sh\nmake demo\n```",  # no reason
        "```python\nassert 1 + 1 == 3\n```",
        "```\nlimbeck students\n```",  # no language
    ],
)
def test_a_page_that_is_wrong_fails(tmp_path, text):
    with pytest.raises(AssertionError):
        page_of(tmp_path, text)


def test_blocks_of_a_page_share_a_namespace(tmp_path):
    reader = page_of(tmp_path, "```python\nx = 1\n```\n\n```python\ny = x + 1\n```")
    assert reader.namespace["y"] == 2
