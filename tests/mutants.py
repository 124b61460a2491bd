"""Do the tests notice a wrong sign, factor, index or comparison? Draws mutants of the numerical code and runs,
for each, the tests that cover its line.

    python tests/mutants.py [--count 200] [--seed 1] [--jobs 2] [--survivors]

Mutants are made in a copy below build/mutants, never in the working tree; results are kept there line by line, so an
interrupted run resumes. A mutant is run again when its file changed, and one that survived when the tests did.
Of the tests that cover a line, those of its room come first, the fastest first, as many as take BASELINE_S without
a mutation: a mutant that needs LIMIT_S hangs.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
WORK = REPOSITORY / "build" / "mutants"
LIMIT_S, BASELINE_S = 60, 25
#: what cannot be noticed, by file, line and mutation, with the reason
EQUIVALENT = REPOSITORY / "tests" / "equivalent_mutants.toml"

#: an equal share of the mutants is drawn from each
ROOMS = {
    "students": ["src/limbeck/students/*.py"],
    "runtime": ["src/limbeck/runtime/**/*.py"],
    "splits": ["src/limbeck/dataset/split.py"],
    "label store": ["src/limbeck/records/label_*.py"],
    "metrics": ["src/limbeck/validation/metrics.py"],
    "loss": ["src/limbeck/training/loss.py", "src/limbeck/training/optimizer.py"],
    "sampling": [
        "src/limbeck/sampling/*.py",
        "src/limbeck/core/trajectory.py",
        "src/limbeck/core/integrators.py",
    ],
    "native": ["native/include/limbeck/*.hpp", "native/src/neighbour_table.cpp"],
}
#: the native core is exercised through Python
NATIVE_TESTS = ["tests/students/test_engines.py", "tests/runtime/test_native.py"]

SWAPS: dict[type, tuple[type, str, str]] = {
    ast.Add: (ast.Sub, "+", "-"),
    ast.Sub: (ast.Add, "-", "+"),
    ast.Mult: (ast.Div, "*", "/"),
    ast.Div: (ast.Mult, "/", "*"),
    ast.Lt: (ast.LtE, "<", "<="),
    ast.LtE: (ast.Lt, "<=", "<"),
    ast.Gt: (ast.GtE, ">", ">="),
    ast.GtE: (ast.Gt, ">=", ">"),
    ast.Eq: (ast.NotEq, "==", "!="),
    ast.NotEq: (ast.Eq, "!=", "=="),
}


@dataclass(frozen=True)
class Mutant:
    room: str
    file: str
    line: int
    text: str  # the line as it stands
    change: str
    begin: int  # offsets of what is replaced, in characters
    end: int
    replacement: str

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.file}|{self.text}|{self.change}|{self.begin}".encode()).hexdigest()[:16]

    def applied(self, source: str) -> str:
        return source[: self.begin] + self.replacement + source[self.end :]


def is_number(node: ast.expr) -> bool:
    text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return not text and not isinstance(node, ast.JoinedStr | ast.List)


def numerical_nodes(node: ast.AST, within: ast.AST | None = None) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    """Nodes and their parents, but for those of messages and annotations, which tests rightly leave open."""
    yield node, within
    for name, value in ast.iter_fields(node):
        if isinstance(node, ast.Raise) or name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield from numerical_nodes(child, node)


def python_mutants(room: str, path: Path) -> Iterator[Mutant]:
    source = path.read_text()
    starts = [0]
    for row in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(row))

    def at(line: int, column: int) -> int:
        row = source[starts[line - 1] : starts[line]]
        return starts[line - 1] + len(row.encode()[:column].decode())

    def mutant(node: ast.expr, begin: int, end: int, old: str, new: str) -> Mutant:
        line = source.count("\n", 0, begin) + 1
        text = source.splitlines()[line - 1].strip()
        name = str(path.relative_to(REPOSITORY))
        return Mutant(room, name, line, text, f"{old} -> {new}", begin, end, new)

    def operator(node: ast.expr, left: ast.expr, right: ast.expr, kind: type) -> Iterator[Mutant]:
        if kind not in SWAPS:
            return
        _, old, new = SWAPS[kind]
        begin = at(left.end_lineno or 0, left.end_col_offset or 0)
        end = at(right.lineno, right.col_offset)
        found = re.search(re.escape(old), source[begin:end])
        if found:
            yield mutant(node, begin + found.start(), begin + found.end(), old, new)

    for node, within in numerical_nodes(ast.parse(source)):
        if isinstance(node, ast.BinOp) and is_number(node.left) and is_number(node.right):
            yield from operator(node, node.left, node.right, type(node.op))
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield from operator(node, node.left, node.comparators[0], type(node.ops[0]))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            begin = at(node.lineno, node.col_offset)
            yield mutant(node, begin, begin + 1, "-", "+")
        elif (
            isinstance(node, ast.Constant)
            and type(node.value) in (int, float)
            and isinstance(
                within, ast.BinOp | ast.Subscript | ast.Slice | ast.Tuple
            )  # not a choice, as a default is
        ):
            begin, end = at(node.lineno, node.col_offset), at(node.end_lineno or 0, node.end_col_offset or 0)
            new = repr(node.value + 1) if isinstance(node.value, int) else repr(node.value * 1.5 or 0.5)
            yield mutant(node, begin, end, source[begin:end], new)


def native_mutants(room: str, path: Path) -> Iterator[Mutant]:
    source = path.read_text()
    patterns = [
        (r"(?<=[\w\])]) \+ (?=[\w(&])", " - "),
        (r"(?<=[\w\])]) - (?=[\w(&])", " + "),
        (r"(?<=[\w\])]) \* (?=[\w(])", " / "),
        (r" \+= ", " -= "),
        (r" < (?=[\w(])", " <= "),
        (r"(?<=T\()\d+(?=\))", "7"),
        (r"(?<=\[)[12] \* F(?= \+)", "3 * F"),
    ]
    for pattern, new in patterns:
        for found in re.finditer(pattern, source):
            begin = found.start()
            line = source.count("\n", 0, begin) + 1
            text = source.splitlines()[line - 1].strip()
            if text.startswith(("//", "#", "template", "for (", "throw", "case")) or '"' in text:
                continue
            name, old = str(path.relative_to(REPOSITORY)), found.group(0)
            yield Mutant(room, name, line, text, f"{old.strip()} -> {new.strip()}", begin, found.end(), new)


def draw(count: int, seed: int) -> list[Mutant]:
    """The same mutants for a seed and a source."""
    chosen: list[Mutant] = []
    for n, (room, patterns) in enumerate(ROOMS.items()):
        make = native_mutants if room == "native" else python_mutants
        matches = {pattern: list(REPOSITORY.glob(pattern)) for pattern in patterns}
        if missing := [pattern for pattern, found in matches.items() if not found]:
            raise SystemExit(f"error: no file matches {', '.join(missing)}; remedy: correct ROOMS")
        paths = sorted({path for found in matches.values() for path in found})
        found = [m for path in paths for m in make(room, path)]
        share = count * (n + 1) // len(ROOMS) - count * n // len(ROOMS)
        chosen += random.Random(f"{seed} {room}").sample(found, min(share, len(found)))
    return chosen


def environment(root: Path) -> dict[str, str]:
    return {
        **os.environ,
        "LIMBECK_MUTANT": str(root / "src"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


# An editable installation's finder comes first in sys.meta_path: without it, the copy's package is found.
RUN = """
import os, sys
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "ScikitBuildRedirectingFinder"]
sys.path.insert(0, os.environ["LIMBECK_MUTANT"])
import limbeck, pytest
assert limbeck.__file__.startswith(os.environ["LIMBECK_MUTANT"]), limbeck.__file__
sys.exit(pytest.main(sys.argv[1:]))
"""


def make_copy(name: str) -> Path:
    root = WORK / name
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for file in tracked.stdout.split("\n"):
        if file and (REPOSITORY / file).is_file():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / file, root / file)
    import limbeck._native

    shutil.copy2(limbeck._native.__file__, root / "src" / "limbeck")
    for folder in ("students",):  # what an installation puts beside the package
        if not (root / "src" / "limbeck" / "released").exists():
            (root / "src" / "limbeck" / "released").symlink_to(root / folder)
    return root


def state_of(*patterns: str) -> str:
    state = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in REPOSITORY.glob(pattern)):
        if path != Path(__file__).resolve():
            state.update(path.read_bytes())
    return state.hexdigest()[:16]


def covering_tests(root: Path, jobs: int) -> dict[str, dict[str, list[str]]]:
    """file -> line -> tests, from one run of the suite under coverage; kept until source or tests change."""
    kept = WORK / f"coverage-{state_of('src/**/*.py', 'tests/**/*.py')}.json"
    if kept.exists():
        found: dict[str, dict[str, list[str]]] = json.loads(kept.read_text())
        return found
    print("measuring which tests cover which line", flush=True)
    command = [sys.executable, "-c", RUN, "-q", "-m", "not slow", "-p", "no:cacheprovider", "-n", str(jobs)]
    command += [
        "--dist",
        "loadfile",
        "--junitxml=junit.xml",
        "--cov=limbeck",
        "--cov-context=test",
        "--cov-report=",
    ]
    subprocess.run(command, cwd=root, env=environment(root), check=False)
    from coverage import CoverageData

    seconds: dict[str, float] = {}
    for case in ElementTree.parse(root / "junit.xml").iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        seconds[f"{file}::{case.attrib['name']}"] = float(case.attrib["time"])
    data = CoverageData(str(root / ".coverage"))
    data.read()
    covered: dict[str, dict[str, list[str]]] = {}
    for file in data.measured_files():
        name = str(Path(file).relative_to(root))
        lines = {
            n: {t.split("|")[0] for t in contexts if "::" in t}
            for n, contexts in data.contexts_by_lineno(file).items()
        }
        # a constant is read at import, which belongs to no test: then all tests of the file
        anywhere = set().union(*lines.values())
        own = f"tests/{name.split('/')[2]}/"
        rank = {t: (not t.startswith(own), seconds.get(t, 1.0), t) for t in anywhere}
        covered[name] = {}
        for n, tests in lines.items():
            left, chosen = float(BASELINE_S), []
            for test in sorted(tests or anywhere, key=rank.__getitem__):
                left -= seconds.get(test, 1.0)
                if left > 0 or not chosen:
                    chosen.append(test)
            covered[name][str(n)] = chosen
    kept.write_text(json.dumps(covered))
    return covered


def build_native(root: Path) -> bool:
    """Whether the copy's core compiles; for the portable instruction set alone, which takes seconds."""
    build = root / "build-native"
    if not build.exists():
        import nanobind

        options = ["-DCMAKE_BUILD_TYPE=Release", "-DLIMBECK_PORTABLE=ON"]
        options += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dnanobind_DIR={nanobind.cmake_dir()}"]
        configure = ["cmake", "-S", ".", "-B", str(build), "-G", "Ninja", *options]
        subprocess.run(configure, cwd=root, check=True, capture_output=True)
    done = subprocess.run(["cmake", "--build", str(build)], cwd=root, capture_output=True)
    for path in build.glob("_native*.so"):
        shutil.copy2(path, root / "src" / "limbeck")
    return done.returncode == 0


def outcome_of(mutant: Mutant, root: Path, tests: list[str]) -> str:
    """killed, survived, or uncovered."""
    if not tests:
        return "uncovered"
    target = root / mutant.file
    whole = target.read_text()
    try:
        target.write_text(mutant.applied(whole))
        if mutant.room == "native" and not build_native(root):
            return "killed"  # by the compiler
        command = [sys.executable, "-c", RUN, "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests]
        done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, timeout=LIMIT_S)
        return "survived" if done.returncode == 0 else "killed"
    except subprocess.TimeoutExpired:
        return "killed"  # it hangs: without it the tests need less than half of this
    finally:
        target.write_text(whole)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=200)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--survivors", action="store_true", help="list what is known, run nothing")
    chosen = options.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    kept = WORK / "results.jsonl"
    known: dict[str, str] = {}
    tests = state_of("tests/**/*.py")
    if kept.exists():
        for row in map(json.loads, kept.read_text().splitlines()):
            if row["outcome"] == "killed" or row["tests"] == tests:
                known[row["key"]] = row["outcome"]
    mutants = draw(chosen.count, chosen.seed)
    reasons = tomllib.loads(EQUIVALENT.read_text())["mutant"] if EQUIVALENT.exists() else []
    excused = {(r["file"], r["text"], r["change"]): r["reason"] for r in reasons}
    waiting = [m for m in mutants if m.key not in known and (m.file, m.text, m.change) not in excused]
    if not chosen.survivors and waiting:
        run(waiting, chosen.jobs, kept, known, tests)
    outcomes = {m: known.get(m.key, "not run") for m in mutants}
    for m, outcome in outcomes.items():
        if (m.file, m.text, m.change) in excused:
            outcomes[m] = "equivalent"
        elif outcome != "killed":
            print(f"{outcome}: {m.file}:{m.line}: {m.change}\n    {m.text}")
    counts = {o: list(outcomes.values()).count(o) for o in sorted(set(outcomes.values()))}
    wanted = len(mutants) - counts.get("equivalent", 0)
    print(counts, f"killed {counts.get('killed', 0) / max(1, wanted):.1%} of {wanted}")


def run(waiting: list[Mutant], jobs: int, kept: Path, known: dict[str, str], state: str) -> None:
    roots = [make_copy(f"copy{k}") for k in range(jobs)]
    covered = covering_tests(roots[0], jobs)
    free = list(roots)

    def one(mutant: Mutant) -> None:
        root = free.pop()
        try:
            lines = covered.get(mutant.file, {})
            tests = NATIVE_TESTS if mutant.room == "native" else lines.get(str(mutant.line), [])
            outcome = outcome_of(mutant, root, tests)
        finally:
            free.append(root)
        known[mutant.key] = outcome
        with kept.open("a") as file:
            file.write(
                json.dumps({"key": mutant.key, "outcome": outcome, "tests": state, **asdict(mutant)}) + "\n"
            )
        print(f"{len(known):4d} {outcome:9s} {mutant.file}:{mutant.line} {mutant.change}", flush=True)

    # native mutants last: after them the copies hold a portable core
    ordered = sorted(waiting, key=lambda m: m.room == "native")
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, ordered))


if __name__ == "__main__":
    main()
