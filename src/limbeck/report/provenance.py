"""Where a run's numbers come from, as a list of facts and as a methods paragraph for a paper."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from limbeck import __version__
from limbeck.artifact.file import StudentFile
from limbeck.records.metrics import as_dict, is_number
from limbeck.report.markup import code, details, facts, linked, number, table, text
from limbeck.report.reading import Run
from limbeck.students.specification import Architecture

PAINN = "K. T. Schütt, O. T. Unke, M. Gastegger, Proc. 38th ICML 2021, arXiv:2102.03150"
ZBL = (
    "J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Matter, Pergamon, "
    "New York 1985"
)
SOAP = "N. Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, arXiv:2409.11321"
ADAMW = "I. Loshchilov, F. Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101"
ASE = "A. H. Larsen et al., J. Phys.: Condens. Matter 2017, 29, 273002; doi 10.1088/1361-648X/aa680e"
_TESTED = {
    "test": "trajectories of the teacher that were not used in training",
    "validation": "the validation set",
    "given": "an independent test set",
}
_METRICS = (
    ("force_rmse_mev_per_a", "the force RMSE", "{:.1f}", "meV/Å"),
    ("energy_mae_mev_per_atom", "the energy MAE", "{:.2f}", "meV/atom"),
    ("stress_mae_mev_per_a3", "the stress MAE", "{:.2f}", "meV/Å³"),
)


def provenance(run: Run) -> str:
    """Where everything comes from: teacher, licence, versions, seeds, hashes, commands."""
    card = next((student.card for student in run.students.values()), {})
    teacher, data, training = (as_dict(card.get(key)) for key in ("teacher", "data", "training"))
    name = teacher_name(run)
    own = own_labels(name)
    options = str(teacher.get("options") or "{}")
    arithmetic = [str(teacher.get("precision") or ""), "" if options == "{}" else options]
    trained = sorted({str(s.card.get("limbeck_version")) for s in run.students.values()} - {"None"})
    versions = [f"trained with {', '.join(trained)}"] * bool(trained) + [f"this page by {__version__}"]
    rows = [
        ("Labels" if own else "Teacher", name and f"{code(name)} {text(teacher.get('version') or '')}"),
        ("Licence of the teacher", "" if own else text(teacher.get("licence") or "not known")),
        ("Citation", linked(teacher.get("citation") or "")),
        ("Weights, SHA-256", teacher.get("weights_hash") and code(teacher["weights_hash"])),
        ("Arithmetic, options", text(", ".join(filter(None, arithmetic)))),
        ("System", text(_system(run, as_dict(data.get("elements"))))),
        ("Training labels", text("; ".join(_amounts(data)))),
        ("Labels, SHA-256", data.get("content_hash") and code(data["content_hash"])),
        ("Split", text(training.get("split") or "")),
        ("Energy references", text(training.get("references") or "")),
        ("Seed", number(training.get("seed", run.config.get("seed")), "{:d}")),
        ("Limbeck", text("; ".join(versions))),
        ("Command", run.metrics.command and code(run.metrics.command)),
    ]
    files = [
        (
            text(preset),
            code(student.path.name),
            code(student.sha256),
            number(student.parameters, "{:,}"),
            number(student.path.stat().st_size / 1e3, "{:,.0f}"),
        )
        for preset, student in ((p, run.students[p]) for p in run.presets if p in run.students)
    ]
    columns = ("student", "file", "SHA-256", "parameters", "kB")
    return (
        facts(rows)
        + (table(columns, files, words=(0, 1, 2)) if files else "")
        + details("Configuration (config.yaml)", f"<pre>{text(run.config_text)}</pre>")
    )


def _amounts(data: dict[str, Any]) -> list[str]:
    """How many structures, atoms and groups, and in which ranges, as a student's card has it."""
    if not data.get("n_structures"):
        return []
    parts = [f"{data['n_structures']:,} structures, {data.get('n_atoms', 0):,} atoms"]
    if data.get("n_groups"):
        parts.append(f"{data['n_groups']:,} groups")
    return parts + _ranges(data)


def _ranges(data: dict[str, Any]) -> list[str]:
    """Temperatures and densities, where known."""
    found = []
    for key, form, unit in (("temperature_k", "{:g}", "K"), ("density_g_per_cm3", "{:.2f}", "g/cm³")):
        if data.get(key):
            low, high = (form.format(value) for value in data[key])
            found.append(f"{low} {unit}" if low == high else f"{low} to {high} {unit}")
    return found


def teacher_name(run: Run) -> str | None:
    """Who made the labels, as the students' cards, the configuration or the metrics have it."""
    cards = [student.card for student in run.students.values()]
    for said in (*(card.get("teacher") for card in cards), run.config.get("teacher")):
        if name := as_dict(said).get("name"):
            return str(name)
    return run.metrics.teacher.name or None


def own_labels(name: str | None) -> bool:
    """Whether labels were the user's own, which a card names in place of a teacher."""
    return name is None or name.startswith("labels of ")


def _system(run: Run, elements: dict[str, Any]) -> str:
    for source in ("bulk", "smiles", "liquid", "structures"):
        if value := run.config.get(source):
            shown = Path(str(value)).name if source == "structures" else value
            if isinstance(shown, dict):
                shown = json.dumps(shown, ensure_ascii=False)
            return f"{source} {shown}; elements {', '.join(elements)}"
    return f"elements {', '.join(elements)}" if elements else ""


def elements_of(run: Run) -> list[str]:
    """Symbols of the elements that the students know."""
    for student in run.students.values():
        return [chemical_symbols[int(z)] for z in student.card.get("elements", [])]
    return []


def methods(run: Run) -> str:
    """The paragraph and its references as markup; "" where no student file says how it was made."""
    students = [run.students[preset] for preset in run.presets if preset in run.students]
    if not students:
        return ""
    references: list[str] = []

    def cite(reference: str) -> str:
        if reference not in references:
            references.append(reference)
        return f"[{references.index(reference) + 1}]"

    sentences = [
        *_models(run, students, cite),
        *_labels(run, students[0].card, cite),
        *_training(students, cite),
        *_accuracy(run, students),
        f"Structures were handled with ASE {cite(ASE)}.",
    ]
    listed = "".join(f"<li>{linked(reference)}</li>" for reference in references)
    return f"<blockquote>{text(' '.join(filter(None, sentences)))}</blockquote><ol>{listed}</ol>"


def _models(run: Run, students: list[StudentFile], cite: Callable[[str], str]) -> list[str]:
    one = len(students) == 1
    described = []
    for student in students:
        size = Architecture.from_dict(student.card["architecture"])
        described.append(
            f"{student.name}: {size.n_parameters:,} parameters, {size.hidden_dim} features, "
            f"{size.interactions} interaction layers, {size.rbf} radial basis functions"
        )
    cutoff = ", ".join(sorted({f"{float(s.card['cutoff_a']):g}" for s in students}))
    versions = sorted({str(s.card.get("limbeck_version") or __version__) for s in students})
    return [
        f"Interatomic {'potential' if one else 'potentials'} for {', '.join(elements_of(run))} of the PaiNN "
        f"architecture {cite(PAINN)} with Ziegler-Biersack-Littmark repulsion at short range {cite(ZBL)} "
        f"and a cutoff of {cutoff} Å {'was' if one else 'were'} trained with Limbeck {', '.join(versions)} "
        f"({'; '.join(described)})."
    ]


def _labels(run: Run, card: dict[str, Any], cite: Callable[[str], str]) -> list[str]:
    data, teacher = as_dict(card.get("data")), as_dict(card.get("teacher"))
    name = teacher_name(run)
    target = "Energies, forces and stresses" if data.get("n_stress") else "Energies and forces"
    if own_labels(name):
        source = f"were taken from {name or 'labelled structures'}"
    else:
        version = f" (package version {teacher['version']})" if teacher.get("version") else ""
        cited = f" {cite(str(teacher['citation']))}" if teacher.get("citation") else ""
        source = f"were computed with {name}{version}{cited}"
        if teacher.get("precision"):
            source += f" in {teacher['precision']} arithmetic"
    if not data.get("n_structures"):
        return [f"{target} {source}."]
    told = "; ".join([f"{data['n_atoms']:,} atoms"] * bool(data.get("n_atoms")) + _ranges(data))
    return [f"{target} of {data['n_structures']:,} training structures ({told}) {source}."]


def _training(students: list[StudentFile], cite: Callable[[str], str]) -> list[str]:
    sentences, cards = [], [as_dict(student.card.get("training")) for student in students]
    settings = [as_dict(card.get("settings")) for card in cards]
    if all(settings):
        soap = settings[0].get("optimizer", "soap") == "soap"
        sentences.append(
            f"A {str(settings[0].get('loss', 'huber')).capitalize()} loss was minimised with "
            f"{f'SOAP {cite(SOAP)}' if soap else f'AdamW {cite(ADAMW)}'} "
            f"(learning rate {_each(settings, 'learning_rate')}, weight decay "
            f"{_each(settings, 'weight_decay')}, decay of the weights' moving average "
            f"{_each(settings, 'ema_decay')})."
        )
    epochs = [
        f"{student.name} was trained for {card['epochs']:,} epochs"
        for student, card in zip(students, cards, strict=True)
        if card.get("epochs") is not None
    ]
    if epochs:
        sentences.append(
            f"The preset {_listed(epochs)} (random seed {cards[0].get('seed', 'unknown')}); the weights "
            "with the lowest error on the validation set were kept."
        )
    return sentences


def _accuracy(run: Run, students: list[StudentFile]) -> list[str]:
    """One sentence a metric: the values of all students on the split that they are compared on."""
    errors = {student.name: run.errors(student.name) for student in students}
    sentences = []
    for key, label, form, unit in _METRICS:
        found = {preset: getattr(one, key) for preset, one in errors.items()}
        values = [f"{form.format(v)} {unit} ({preset})" for preset, v in found.items() if v is not None]
        if values:
            sentences.append(f"{label} is {_listed(values)}")
    if not sentences:
        return []
    count = max(one.n_structures or 0 for one in errors.values())
    on = f"{count:,} structures from {_TESTED[run.split]}" if count else _TESTED[run.split]
    return [f"On {on}, {'; '.join(sentences)}."]


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _each(settings: list[dict[str, Any]], key: str) -> str:
    """The values of a setting, in the order of the students; once where all have the same."""
    values = [f"{one[key]:g}" if is_number(one.get(key)) else "not recorded" for one in settings]
    return values[0] if len(set(values)) == 1 else _listed(values)
