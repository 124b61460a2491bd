"""A module imports only from earlier layers or from its own; no file names a machine's folders."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "limbeck"
LAYERS = (
    "units errors _native progress core teachers sampling labelling dataset students artifact training runtime "
    "validation benchmark export testing report config pipeline doctor cli"
).split()
#: the package's own __init__ names nothing at import time but errors and lazy attributes
TOP = "__init__"


def layer_of(path: Path, package: Path) -> str:
    first = path.relative_to(package).parts[0]
    return first.removesuffix(".py")


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of limbeck, inside functions too, relative ones refused."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                (node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "limbeck"
            )
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level
            elif node.module == "limbeck":
                yield from ((node.lineno, f"limbeck.{alias.name}") for alias in node.names)
            elif node.module and node.module.startswith("limbeck."):
                yield node.lineno, node.module


def breaches(package: Path, layers: list[str]) -> list[str]:
    """``file:line what is wrong`` for every import against the order, and modules without a layer."""
    found = []
    for path in sorted(package.rglob("*.py")):
        own = layer_of(path, package)
        if own == TOP:
            continue
        name = path.relative_to(package.parent)
        if own not in layers:
            found.append(f"{name}:1 {own!r} stands in no layer")
            continue
        for line, module in imported_modules(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if module.startswith("."):
                found.append(f"{name}:{line} relative import")
                continue
            target = module.split(".")[1] if "." in module else ""
            if target in ("", "__version__"):
                continue
            if target not in layers:
                found.append(f"{name}:{line} {module!r} stands in no layer")
            elif layers.index(target) > layers.index(own):
                found.append(f"{name}:{line} {own} imports {module} from a later layer")
    return found


def test_modules_import_from_earlier_layers_only():
    assert not (found := breaches(PACKAGE, LAYERS)), "\n".join(found)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("from limbeck.core.labels import Labels", None),
        ("from limbeck.sampling.config import SamplingConfig", None),
        (
            "from limbeck.training.loop import fit",
            "sampling imports limbeck.training.loop from a later layer",
        ),
        ("import limbeck.pipeline", "sampling imports limbeck.pipeline from a later layer"),
        ("from limbeck import cli", "sampling imports limbeck.cli from a later layer"),
        ("from . import run", "relative import"),
        ("import limbeck.misc", "'limbeck.misc' stands in no layer"),
    ],
)
def test_a_planted_import_is_judged(tmp_path, statement, text):
    planted = tmp_path / "limbeck" / "sampling" / "planted.py"
    planted.parent.mkdir(parents=True)
    planted.write_text(f"def late():\n    {statement}\n")
    expected = [] if text is None else [f"limbeck/sampling/planted.py:2 {text}"]
    assert breaches(tmp_path / "limbeck", LAYERS) == expected


def project_files() -> list[Path]:
    """Text files under version control, or about to be."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout.split("\n")  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    ends = (
        ".py",
        ".toml",
        ".txt",
        ".md",
        ".yaml",
        ".yml",
        ".json",
        ".cfg",
        ".sh",
        ".cpp",
        ".hpp",
        "Makefile",
        "run",
    )
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
