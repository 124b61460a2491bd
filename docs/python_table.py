"""Write docs/python.md: public functions and classes with their signatures and docstrings, from the sources.

python docs/python_table.py
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("python.md")
_ALWAYS = {"cutoff", "InputError", "LimbeckError", "MissingPackageError", "CheckFailure", "OutOfDomainError"}
_HEAD = """# Python

<!-- test: given -->

Written by `python docs/python_table.py` from signatures and docstrings; do not edit. Axis letters: S
structures, N atoms of all of them, E directed pairs; units and signs in
[units-and-conventions.md](units-and-conventions.md). Wrong input raises `limbeck.InputError` (a
`ValueError`), a package that is missing `limbeck.errors.MissingPackageError` (an `ImportError`), work that
failed `limbeck.LimbeckError`, of which both are kinds. `import limbeck` loads neither torch nor a teacher.
"""
#: section -> its example, and what is listed: an object, or a class with the members that are told
SECTIONS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "Using a student": (
        """from ase.build import bulk
from limbeck import Calculator, Student

silicon = bulk("Si", cubic=True)
silicon.rattle(0.05, seed=1)
silicon.calc = Calculator("silicon-tiny", threads=1)
assert silicon.get_stress().shape == (6,)  # eV/Å³, xx yy zz yz xz xy

student = Student.load("silicon-tiny", threads=1)
labels = student.evaluate([silicon, silicon * (2, 1, 1)])
assert labels.energy.shape == (2,) and labels.forces.shape == (24, 3)
assert student.hessian(silicon).shape == (8, 3, 8, 3)  # eV/Å²""",
        {
            "limbeck:Calculator": (),
            "limbeck:Student": ("load", "evaluate", "session", "hvp", "hessian", "make_calculator", "check"),
            "limbeck.runtime.session:Session": ("evaluate",),
            "limbeck.runtime.session:Evaluation": (),
            "limbeck.runtime.guard:Guard": (),
            "limbeck.runtime.guard:OutOfDomainError": (),
            "limbeck.runtime.released:list_students": (),
            "limbeck.artifact.file:read_card": (),
            "limbeck.artifact.file:read_student": (),
            "limbeck.artifact.convert:convert_checkpoint": (),
        },
    ),
    "Making a student": (
        """from limbeck import distill

plan = distill({"bulk": "Cu", "teacher": "ase.calculators.emt:EMT", "budget": "10m"}, dry_run=True)
assert plan["plan"]["frames"] > 0""",
        {
            "limbeck:distill": (),
            "limbeck.dataset:read_labelled": (),
            "limbeck.core.structures:StructureBatch": ("from_atoms",),
            "limbeck.core.labels:Labels": (),
            "limbeck.core.labels:LabelledSet": (),
        },
    ),
    "Potentials: teachers, students, your own": (
        """from ase.calculators.emt import EMT
from limbeck.core.potential import AsePotential, Capabilities
from limbeck.testing import check_potential

emt = AsePotential(EMT(), Capabilities(elements=frozenset({29}), atom_energies=True), "emt")
report = check_potential(emt)
print(report)""",
        {
            "limbeck.testing:check_potential": (),
            "limbeck.testing:CheckReport": (),
            "limbeck.testing:CheckResult": (),
            "limbeck.testing:CheckFailure": (),
            "limbeck.core.potential:Potential": ("evaluate", "make_calculator", "close"),
            "limbeck.core.potential:Capabilities": (),
            "limbeck.core.potential:AsePotential": (),
            "limbeck.teachers:load_teacher": (),
            "limbeck.labelling:open_teacher": (),
            "limbeck.labelling:label": (),
        },
    ),
    "Evaluating a student": (
        """from limbeck import Student
from limbeck.dataset import read_labelled
from limbeck.validation import nve_drift, validate

copper = Student.load("runs/si/tiny.safetensors", threads=1)
test = read_labelled("runs/si/test.extxyz")
found = validate(copper, test, n_worst=3)
print(found.errors.all.force_rmse_mev_per_a, found.worst[0].worst_element)

start = test.to_atoms()[0]
drift = nve_drift(copper, start, temperature_k=300, timestep_fs=2, duration_fs=50, seed=0)
print(drift.drift_mev_per_atom_per_ps)""",
        {
            "limbeck.validation:validate": (),
            "limbeck.validation:ValidationReport": (),
            "limbeck.validation:WorstFrame": (),
            "limbeck.validation:GroupedErrors": (),
            "limbeck.validation:Errors": (),
            "limbeck.validation:compute_metrics": (),
            "limbeck.validation:grouped_metrics": (),
            "limbeck.validation:nve_drift": (),
            "limbeck.validation:DriftReport": (),
            "limbeck.validation:on_policy_error": (),
            "limbeck.validation:OnPolicyReport": (),
            "limbeck.validation:long_range_force": (),
            "limbeck.validation:LongRangeReport": (),
        },
    ),
    "Speed, exports, reports": (
        """from pathlib import Path
from limbeck.benchmark.run import run_benchmark
from limbeck.export.run import ExportOptions, export_student
from limbeck.report import model_card, preset_rows, read_run, recommend

speed = run_benchmark(
    ["silicon-tiny"], teacher="none", batches=[1], sizes=[16], engines=["native"], threads=1, row_limit_s=2.0
)
print(speed.rows[0].latency_ms_median)

summary = export_student("silicon-tiny", ["torchscript"], Path("exports"), ExportOptions(timed=False))
assert not summary["failures"] and summary["exports"][0]["verdict"] == "pass"

run = read_run("runs/si")
print(recommend(preset_rows(run), target_force_rmse_mev_per_a=30).text)
Path("tiny.card.md").write_text(model_card(run.students["tiny"].card, "tiny.safetensors"))""",
        {
            "limbeck.benchmark.run:run_benchmark": (),
            "limbeck.benchmark.run:BenchReport": (),
            "limbeck.benchmark.rows:Row": (),
            "limbeck.benchmark.models:TeacherChoice": (),
            "limbeck.export.run:export_student": (),
            "limbeck.export.run:ExportOptions": (),
            "limbeck.workflows.finalize:finalize": (),
            "limbeck.workflows.finalize_inputs:FinalizeSettings": (),
            "limbeck.workflows.learning_curve:CurveSettings": (),
            "limbeck.workflows.report:write_report": (),
            "limbeck.report:write_plots": (),
            "limbeck.report:read_run": (),
            "limbeck.report:preset_rows": (),
            "limbeck.report:PresetRow": (),
            "limbeck.report:recommend": (),
            "limbeck.report:Recommendation": (),
            "limbeck.report:model_card": (),
        },
    ),
}


def render() -> str:
    """The text of docs/python.md."""
    parts = [_HEAD]
    for title, (example, listed) in SECTIONS.items():
        parts += [f"## {title}", "", "```python", example, "```", ""]
        for path, members in listed.items():
            parts += _told(path, members)
    return "\n".join(parts)


def find(path: str) -> Any:
    """The object at ``module:name``."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def _told(path: str, members: tuple[str, ...]) -> list[str]:
    owner = find(path)
    name = path.split(":")[1]
    lines = [f"### {path.replace(':', '.')}", "", _header(name, owner), "", *_body(owner)]
    for member in members:
        lines += [_header(f"{name}.{member}", getattr(owner, member)), "", *_body(getattr(owner, member))]
    return lines


def _header(name: str, thing: Any) -> str:
    if inspect.isclass(thing) and issubclass(thing, BaseException):
        return f"**`{name}`** (error)"
    return f"**`{name}{_signature(thing)}`**"


def _signature(thing: Any) -> str:
    """With annotations as they are written in the source, defaults by value or by name."""
    if inspect.isclass(thing) and inspect.isabstract(thing):
        return ""
    found = inspect.signature(thing)
    words, starred = [], False
    for p in found.parameters.values():
        if p.name in ("self", "cls"):
            continue
        if p.kind is p.KEYWORD_ONLY and not starred:
            words.append("*")
        starred = starred or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        word = star + p.name + (f": {_annotation(p.annotation)}" if p.annotation is not p.empty else "")
        words.append(word + (f" = {_default(p.default)}" if p.default is not p.empty else ""))
    back = found.return_annotation
    silent = inspect.isclass(thing) or back is found.empty
    return f"({', '.join(words)})" + ("" if silent else f" -> {_annotation(back)}")


def _annotation(value: Any) -> str:
    return value if isinstance(value, str) else getattr(value, "__name__", str(value))


def _default(value: Any) -> str:
    if callable(value):
        return "..." if value.__name__ == "<lambda>" else value.__name__
    # a record as a default (a frozen dataclass) by its name alone
    return f"{type(value).__name__}()" if dataclasses.is_dataclass(value) else repr(value)


def _body(thing: Any) -> list[str]:
    """The docstring as Markdown: headings of its parts in bold, one item a line; its example is left out."""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda m: f"`{m[1].split('.')[-1]}`", inspect.getdoc(thing) or "")
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    text = "\n".join(line for line in text.splitlines() if not line.startswith(">>>"))
    names = _names(thing)
    lines: list[str] = []
    for block in re.split(r"\n{2,}", text.strip()):
        rows = block.splitlines()
        if len(rows) > 1 and set(rows[1].strip()) == {"-"}:
            lines += [f"*{rows[0].strip()}*", "", *(f"- {item}" for item in _items(rows[2:], names)), ""]
        else:
            lines += [" ".join(row.strip() for row in rows), ""]
    return lines


def _names(thing: Any) -> set[str]:
    """What the docstring may tell of one by one: parameters, attributes, errors."""
    fields = set(getattr(thing, "__annotations__", ())) if inspect.isclass(thing) else set()
    return fields | set(inspect.signature(thing).parameters) | _ALWAYS


def _items(rows: list[str], names: set[str]) -> list[str]:
    """One point for each ``name: text``, also where several stand in one line."""
    word = "(?:" + "|".join(sorted(map(re.escape, names), key=len, reverse=True)) + ")"
    several = rf"{word}(?:, {word})*: "
    items = re.split(rf"(?:^|(?<=[.)]) )(?={several})", " ".join(row.strip() for row in rows))
    return [re.sub(rf"^({several[:-2]}): ", r"`\1`: ", f"{item}".strip()) for item in items if item.strip()]


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
