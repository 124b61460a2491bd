"""Where a run's numbers come from: teacher, licence, versions, seeds, hashes, commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from limbeck import __version__
from limbeck.report.markup import code, details, facts, linked, number, table, text
from limbeck.report.reading import Run


def provenance(run: Run) -> str:
    """Where everything comes from: teacher, licence, versions, seeds, hashes, commands."""
    card = next((student.card for student in run.students.values()), {})
    teacher = card.get("teacher") or {}
    name = teacher_name(run)
    own = own_labels(name)
    version = teacher.get("version")
    data = card.get("data") or {}
    elements = data.get("elements") or {}
    training = card.get("training") or {}
    rows = [
        (
            "Labels" if own else "Teacher",
            code(name) + (f" {text(version)}" if version else "") if name else "",
        ),
        ("Licence of the teacher", "" if own else text(teacher.get("licence") or "not known")),
        ("Citation", linked(teacher.get("citation") or "")),
        ("Weights, SHA-256", code(teacher["weights_hash"]) if teacher.get("weights_hash") else ""),
        ("Arithmetic, options", _options(teacher)),
        ("System", text(_system(run, elements))),
        ("Training labels", _counted(data)),
        ("Labels, SHA-256", code(data["content_hash"]) if data.get("content_hash") else ""),
        ("Split", text(training.get("split") or "")),
        ("Energy references", text(training.get("references") or "")),
        ("Seed", number(training.get("seed", run.config.get("seed")), "{:d}")),
        ("Limbeck", _versions(run)),
        ("Command", code(run.facts["command"]) if run.facts.get("command") else ""),
    ]
    files = table(
        ("student", "file", "SHA-256", "parameters", "kB"),
        [
            (
                text(preset),
                code(student.path.name),
                code(student.sha256),
                number(student.parameters, "{:,}"),
                number(student.path.stat().st_size / 1e3, "{:,.0f}"),
            )
            for preset, student in ((p, run.students[p]) for p in run.presets if p in run.students)
        ],
        words=(0, 1, 2),
    )
    return facts(rows) + (files if run.students else "") + details(
        "Configuration (config.yaml)", f"<pre>{text(run.config_text)}</pre>"
    )  # fmt: skip


def teacher_name(run: Run) -> str | None:
    """Who made the labels, as the students' cards, the configuration or the metrics have it."""
    cards = [student.card for student in run.students.values()]
    for said in (
        *(card.get("teacher") for card in cards),
        run.config.get("teacher"),
        run.facts.get("teacher"),
    ):
        if isinstance(said, dict) and said.get("name"):
            return str(said["name"])
    return None


def own_labels(name: str | None) -> bool:
    """Whether labels were the user's own, which a card names in place of a teacher."""
    return name is None or name.startswith("labels of ")


def _options(teacher: dict[str, Any]) -> str:
    options = str(teacher.get("options") or "{}")
    parts = [str(teacher.get("precision") or ""), "" if options == "{}" else options]
    return text(", ".join(part for part in parts if part))


def _system(run: Run, elements: dict[str, Any]) -> str:
    for source in ("bulk", "smiles", "liquid", "structures"):
        if value := run.config.get(source):
            shown = Path(str(value)).name if source == "structures" else value
            if isinstance(shown, dict):
                shown = json.dumps(shown, ensure_ascii=False)
            return f"{source} {shown}; elements {', '.join(elements)}"
    return f"elements {', '.join(elements)}" if elements else ""


def _counted(data: dict[str, Any]) -> str:
    if not data.get("n_structures"):
        return ""
    parts = [f"{data['n_structures']:,} structures, {data.get('n_atoms', 0):,} atoms"]
    if data.get("n_groups"):
        parts.append(f"{data['n_groups']:,} groups")
    kelvin, density = data.get("temperature_k"), data.get("density_g_per_cm3")
    if kelvin:
        parts.append(f"{kelvin[0]:g} to {kelvin[1]:g} K")
    if density:
        parts.append(f"{density[0]:.2f} to {density[1]:.2f} g/cm³")
    return text("; ".join(parts))


def _versions(run: Run) -> str:
    trained = sorted({str(s.card.get("limbeck_version")) for s in run.students.values()} - {"None"})
    words = f"trained with {', '.join(trained)}; " if trained else ""
    return text(f"{words}this page by {__version__}")


def elements_of(run: Run) -> list[str]:
    """Symbols of the elements that the students know."""
    for student in run.students.values():
        return [chemical_symbols[int(z)] for z in student.card.get("elements", [])]
    return []
