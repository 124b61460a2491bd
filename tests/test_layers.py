"""What may import what: rooms in order, no stage another stage, no cycles; no file names a machine's folders."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "limbeck"
LIBRARIES = "teachers students artifact runtime".split()
STAGES = "sampling labelling dataset training validation benchmark export testing report physics interfaces".split()
#: rooms from the bottom up; a configuration gathers the settings that stages own
ROOMS = [
    *"units errors _native progress core records".split(),
    *LIBRARIES,
    *STAGES,
    *"config planning workflows doctor cli".split(),
]
#: (file, module) where a stage still imports another one; it only shrinks
BREACHES: set[tuple[str, str]] = set()


def imports_of(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, module, name) of every import of limbeck, inside functions too; a relative one begins with a dot."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [("." * node.level + (node.module or ""), alias.name) for alias in node.names]
        else:
            continue
        yield from ((node.lineno, *one) for one in found if one[0].split(".")[0] in ("", "limbeck"))


def refusal(own: str, module: str) -> str | None:
    """Why a file of room ``own`` must not import ``module``."""
    if module.startswith("."):
        return "relative import"
    target = module.split(".")[1]
    for room in (own, target):
        if room not in ROOMS:
            return f"{room!r} is in no group"
    if own in STAGES and target in STAGES and own != target:
        return f"{own} imports {module}, of another stage"
    if ROOMS.index(target) > ROOMS.index(own) and not {own, target} <= set(LIBRARIES):
        return f"{own} imports {module}, of a later group"
    return None


def breaches(package: Path, allowed: Collection[tuple[str, str]] = ()) -> list[str]:
    """``file:line fault`` for every import against the order, and for needless exceptions."""
    found, met = [], set()
    for path in sorted(package.rglob("*.py")):
        file = str(path.relative_to(package))
        own = file.split("/")[0].removesuffix(".py")
        for line, module, name in imports_of(path) if own != "__init__" else ():
            if module == "limbeck" and name in ("", "__version__"):
                continue
            module = f"limbeck.{name}" if module == "limbeck" else module
            met.add((file, module))
            reason = refusal(own, module)
            if reason and (file, module) not in allowed:
                found.append(f"{file}:{line} {reason}")
    return found + [f"{a} no longer imports {b}: take it off the list" for a, b in sorted({*allowed} - met)]


def cycle(package: Path) -> list[str]:
    """Modules that import each other in a ring, lazily or not; empty where none do."""
    files = {".".join(p.relative_to(package.parent).with_suffix("").parts): p for p in package.rglob("*.py")}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    graph = {}
    for own, path in files.items():
        pairs = ((f"{module}.{name}", module) for _, module, name in imports_of(path))
        graph[own] = {full if full in files else module for full, module in pairs} - {own}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_imports_keep_the_order_of_rooms():
    assert not (found := breaches(PACKAGE, BREACHES)), "\n".join(found)


def test_no_imports_go_round():
    assert not (found := cycle(PACKAGE)), " -> ".join(found)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("from limbeck.core.labels import Labels", None),
        ("from limbeck.runtime.student import Student", None),
        ("from limbeck.sampling.config import SamplingConfig", None),
        ("from limbeck.training.loop import fit", "limbeck.training.loop, of another stage"),
        ("import limbeck.workflows", "limbeck.workflows, of a later group"),
        ("from limbeck import cli", "limbeck.cli, of a later group"),
        ("from . import run", "relative import"),
        ("import limbeck.misc", "'misc' is in no group"),
    ],
)
def test_a_planted_import_is_found_or_allowed(tmp_path, statement, text):
    planted = tmp_path / "limbeck" / "sampling" / "planted.py"
    planted.parent.mkdir(parents=True)
    planted.write_text(f"def late():\n    {statement}\n")
    found = breaches(tmp_path / "limbeck")
    assert len(found) == (text is not None)
    if text:
        assert found[0].startswith("sampling/planted.py:2 ")
        assert text in found[0]
        module = statement.split()[1].replace("limbeck", "limbeck.cli" if "cli" in statement else "limbeck")
        assert breaches(tmp_path / "limbeck", {("sampling/planted.py", module)}) == []
    assert len(breaches(tmp_path / "limbeck", {("sampling/gone.py", "limbeck.export.run")})) == len(found) + 1


def test_a_planted_cycle_is_found(tmp_path):
    for name, other in (("one", "two"), ("two", "three"), ("three", "one")):
        (tmp_path / "limbeck").mkdir(exist_ok=True)
        (tmp_path / "limbeck" / f"{name}.py").write_text(f"def late():\n    from limbeck import {other}\n")
    assert len(cycle(tmp_path / "limbeck")) == 4
    (tmp_path / "limbeck" / "three.py").write_text("")
    assert cycle(tmp_path / "limbeck") == []


def project_files() -> list[Path]:
    """Text files under version control, or about to be."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout.split("\n")  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    ends = tuple(".py .toml .txt .md .yaml .yml .json .cfg .sh .cpp .hpp Makefile run".split())
    return [ROOT / name for name in listed if name.endswith(ends) and (ROOT / name).is_file()]


# Folders of one machine: a home, a scratch folder, a drive's root; written so as not to match itself.
MACHINE_PATH = re.compile(r"""(?<![\w.:/$}>)*-])/(?:home|root|Users|work|mnt|scratch|opt)/[\w.-]+""")


def test_no_file_names_a_folder_of_a_machine():
    found = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()[:100]}"
        for path in project_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, "\n".join(found)


def test_the_search_for_machine_paths_finds_one():
    assert MACHINE_PATH.search("path = '/" + "home/someone/data'")
    assert not MACHINE_PATH.search("https://example.org/" + "home/page")
