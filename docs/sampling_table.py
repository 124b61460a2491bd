"""Write docs/sampling.md: every kind of step with its keys, from the models that read them.

python docs/sampling_table.py
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from limbeck.sampling.config import SamplingConfig, Step
from limbeck.sampling.dynamics import Dynamics
from limbeck.sampling.steps import Adding, Driven

TARGET = Path(__file__).with_name("sampling.md")
_HEAD = """# Steps of sampling

What may stand under `sampling` (and `test`) in a configuration. Steps run in order: those that prepare
replace the starting structures for every step after them, the others draw from them, or with `from` from the
frames of an earlier step, and add their frames to the result. Lengths are in Å, times in fs, temperatures
in K, pressures in GPa. Written by `python docs/sampling_table.py`; do not edit.
"""
#: keys that several kinds share, told once
SHARED: dict[type[BaseModel], str] = {
    Adding: "Keys of all steps that add frames",
    Driven: "Keys of steps that a teacher or an interim student drives",
    Dynamics: "Keys of steps of molecular dynamics",
}
#: what docstrings leave to the name; of one model alone, and then before its docstring, as `Model.key`
PLAIN = {
    "SamplingConfig.steps": "the steps, in order",
    "Relax.steps": "evaluations at most",
    "Driven.driver": "source of the forces: the teacher, or an interim student, trained on the labels so far",
    "add": "the structure that it starts from stays too",
    "layers": "lattice planes, each of one or more planes of atoms (or `min_thickness_a`)",
    "min_thickness_a": "between the outermost atoms",
    "repeat": "along the surface; at most one of this and `max_atoms`",
    "max_atoms": "the repeats along the surface with the greatest shorter width up to this number of atoms",
    "n": "how many atoms",
    "variants": "the most variants that are not equivalent by symmetry",
    "element": "what is put in",
    "max": "the most structures",
    "timestep_fs": "time step",
    "friction_per_ps": "of the Langevin thermostat",
    "every_fs": "between frames",
    "equilibrate_fs": "before the first frame",
    "melt_K": "heated to",
    "quench_to_K": "heated from, and cooled to",
    "min_ratio": "no pair comes closer than this fraction of its sum of covalent radii",
    "shortest_a": "the shortest distance",
}
EXAMPLES = {
    "supercell": "{kind: supercell, max_atoms: 64}",
    "slab": "{kind: slab, miller: [1, 1, 1], min_thickness_a: 9, vacuum_a: 12, max_atoms: 64}",
    "vacancy": "{kind: vacancy, element: Si, where: surface, variants: 2}",
    "interstitial": "{kind: interstitial, element: Si}",
    "relax": "{kind: relax, fmax_ev_per_a: 0.05, steps: 200, cell: true}",
    "thin": "{kind: thin, max: 50}",
    "rattle": "{kind: rattle, stdev_a: [0.05, 0.1], n: 10}",
    "strain": "{kind: strain, max: 0.05, n: 8, modes: [volumetric, shear]}",
    "md": "{kind: md, temperature_K: [300, 900], starts: 3, frames: 40, driver: student}",
    "melt": "{kind: melt, melt_K: 2500, quench_to_K: 300, pressure_gpa: 0, starts: 2}",
    "rattle-relax": "{kind: rattle-relax, n: 20, trees: 3, strain: 0.03}",
    "modes": "{kind: modes, temperature_K: [300, 600], n: 20}",
    "torsions": "{kind: torsions, n: 40}",
    "contacts": "{kind: contacts, n: 12}",
}


def step_models() -> dict[str, type[BaseModel]]:
    """The model of each kind, in the order of the union."""
    models = get_args(get_args(Step)[0])
    return {model.model_fields["kind"].default: model for model in models}


def render() -> str:
    """The text of docs/sampling.md."""
    parts = [_HEAD, *_section("sampling", SamplingConfig, "{seed: 1, steps: [...]}")]
    for model, title in SHARED.items():
        parts += [f"## {title}", "", *_table(model)]
    for kind, model in step_models().items():
        parts += _section(kind, model, f"- {EXAMPLES[kind]}")
    return "\n".join(parts)


def _section(title: str, model: type[BaseModel], example: str) -> list[str]:
    shared = [name.removeprefix("Keys of ") for owner, name in SHARED.items() if issubclass(model, owner)]
    also = f" It has the keys of {' and of '.join(shared)} as well." if shared else ""
    return [
        f"## {title}",
        "",
        _first_sentence(model) + also,
        "",
        "```yaml",
        example,
        "```",
        "",
        *_table(model),
    ]


def _table(model: type[BaseModel]) -> list[str]:
    lines = ["| key | type | default | |", "|---|---|---|---|"]
    said = _said(model)
    told = {
        name
        for owner in SHARED
        if owner is not model and issubclass(model, owner)
        for name in owner.model_fields
    }
    for name, field in model.model_fields.items():
        if name == "kind" or name in told:
            continue
        default = "required" if field.is_required() else _value(field.get_default(call_default_factory=True))
        about = PLAIN.get(f"{model.__name__}.{name}") or said.get(name) or PLAIN[name]
        bounds = _bounds(field.metadata)
        kind = _type(field.annotation) + (f", {bounds}" if bounds else "")
        lines.append(f"| `{field.alias or name}` | {kind} | {default} | {about} |")
    return [*lines, ""]


def _first_sentence(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")


def _said(model: type[BaseModel]) -> dict[str, str]:
    """What docstrings say of each key, those of its own class before those that it inherits from."""
    said: dict[str, str] = {}
    for owner in reversed([c for c in model.__mro__ if issubclass(c, BaseModel) and c is not BaseModel]):
        text = " ".join(inspect.cleandoc(owner.__dict__.get("__doc__") or "").split())
        names = {field.alias or name: name for name, field in model.model_fields.items()}
        word = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
        heads = list(re.finditer(rf"(?<![\w`-])((?:{word})(?:, (?:{word}))*)(?: \([^)]*\))?: ", text))
        for head, following in zip(heads, [*heads[1:], None], strict=False):
            phrase = text[head.end() : following.start() if following else len(text)]
            phrase = re.split(r"(?<=[.;]) (?=[A-Z])", phrase)[0].rstrip(" .;,")
            for name in head.group(1).split(", "):
                said[names[name]] = phrase.replace("``", "`").replace("|", "or")
    return said


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = _bounds([m for extra in inner[1:] for m in getattr(extra, "metadata", [extra])])
        return _type(inner[0]) + (f" {bounds}" if bounds else "")
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in inner if part is not NoneType))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        parts = [part for part in inner if part is not Ellipsis]
        if annotation == SamplingConfig.model_fields["steps"].annotation:
            return "list of steps"
        kinds = list(dict.fromkeys(map(_type, parts)))
        return f"list of {kinds[0]}" if len(parts) != len(inner) else f"{len(parts)} of {kinds[0]}"
    return {int: "integer", float: "number", str: "text", bool: "true or false"}[annotation]


def _bounds(metadata: list[Any]) -> str:
    signs = {"gt": "> ", "ge": "≥ ", "lt": "< ", "le": "≤ "}
    found = [
        f"{sign}{getattr(m, name):g}" for m in metadata for name, sign in signs.items() if hasattr(m, name)
    ]
    return ", ".join(found)


def _value(default: Any) -> str:
    if default is None or default is PydanticUndefined:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return "[" + ", ".join(map(_value, default)) + "]"
    return f"{default:g}" if isinstance(default, float) else str(default)


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
