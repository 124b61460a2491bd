"""A student's card as model hubs read it: YAML front matter, then what people want to know."""

from __future__ import annotations

from typing import Any

import yaml
from ase.data import chemical_symbols

from limbeck.core.charge import ChargeState
from limbeck.records.metrics import ON_POLICY, TEST, VALIDATION, DriftFacts, Errors, as_dict, read
from limbeck.students.specification import Architecture

_NAMES = {
    "force_rmse_mev_per_a": "force RMSE (meV/Å)",
    "force_mae_mev_per_a": "force MAE (meV/Å)",
    "force_r2": "force R²",
    "force_cosine": "force cosine",
    "energy_mae_mev_per_atom": "energy MAE (meV/atom)",
    "energy_rmse_mev_per_atom": "energy RMSE (meV/atom)",
    "stress_mae_mev_per_a3": "stress MAE (meV/Å³)",
}
_SPLITS = {
    TEST: "test frames of the teacher's own dynamics",
    VALIDATION: "validation structures",
    ON_POLICY: "frames of the student's own dynamics, labelled by the teacher",
}
#: licences as hubs spell them
_LICENCES = {
    "mit": "mit", "apache-2.0": "apache-2.0", "apache 2.0": "apache-2.0", "bsd-3-clause": "bsd-3-clause",
    "gpl-3.0": "gpl-3.0", "lgpl-3.0": "lgpl-3.0", "cc-by-4.0": "cc-by-4.0", "cc-by-nc-4.0": "cc-by-nc-4.0",
}  # fmt: skip


def model_card(card: dict[str, Any], file_name: str) -> str:
    """Markdown with YAML front matter for the student file ``file_name``.

    Parameters
    ----------
    card: as :func:`limbeck.artifact.file.read_card` gives it.
    """
    name = file_name.removesuffix(".safetensors")
    head = yaml.safe_dump(_front_matter(card, name), sort_keys=False, allow_unicode=True, width=100)
    run = as_dict(card.get("run")).get("name")
    parts = [
        f"# {_line(f'{run}, {name}' if run and run not in name else name)}",
        _lead(card),
        "## Intended use\n\n" + _intended(card),
        "## Limits\n\n" + _limits(card),
        "## Training data\n\n" + _data(card),
        "## Evaluation\n\n" + _evaluation(card),
        "## How to use\n\n" + _usage(file_name),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"


def _front_matter(card: dict[str, Any], name: str) -> dict[str, Any]:
    teacher = card.get("teacher") or {}
    # on one line each: a hub ends the front matter at the first line of three dashes
    licence = _flat(teacher.get("licence") or "")
    known = _LICENCES.get(licence.lower())
    head: dict[str, Any] = {"license": known or ("other" if licence else "unknown")}
    if licence and not known:
        head["license_name"] = licence
    tags = ["interatomic-potential", "molecular-dynamics", "knowledge-distillation", "painn", "ase"]
    head |= {"library_name": "limbeck", "tags": [*tags, *_symbols(card)]}
    if _is_distilled(card):
        head["base_model"] = _flat(teacher["name"])
    results = [
        {
            "task": {"type": "other", "name": "interatomic potential"},
            "dataset": {"type": f"limbeck-{split.replace('_', '-')}", "name": _SPLITS[split]},
            "metrics": [
                {"type": key, "name": name, "value": float(f"{getattr(errors, key):.6g}")}
                for key, name in _NAMES.items()
                if getattr(errors, key) is not None
            ],
        }
        for split, errors in _splits(card).items()
    ]
    return head | ({"model-index": [{"name": name, "results": results}]} if results else {})


def _is_distilled(card: dict[str, Any]) -> bool:
    """Whether a teacher made the labels; a card of a student of own labels says ``labels of FILE``."""
    name = (card.get("teacher") or {}).get("name")
    return bool(name) and not str(name).startswith("labels of ")


def _splits(card: dict[str, Any]) -> dict[str, Errors]:
    """Errors by split; those of the student's own dynamics stand one level deeper on a card."""
    metrics = as_dict(card.get("metrics"))
    found = {split: as_dict(metrics.get(split)) for split in _SPLITS}
    found[ON_POLICY] = as_dict(found[ON_POLICY].get("all"))
    return {split: read(Errors, errors) for split, errors in found.items() if errors}


def _symbols(card: dict[str, Any]) -> list[str]:
    return [chemical_symbols[int(z)] for z in card.get("elements", [])]


def _lead(card: dict[str, Any]) -> str:
    architecture = Architecture.from_dict(card["architecture"])
    teacher = card.get("teacher") or {}
    name = _line(teacher.get("name") or "labels")
    source = f"distilled from `{name}`" if _is_distilled(card) else f"trained on {name}"
    version = f" {_line(teacher['version'])}" if teacher.get("version") else ""
    cited = f" Cite the teacher: {_line(teacher['citation'])}." if teacher.get("citation") else ""
    return (
        f"A compact interatomic potential for {', '.join(_symbols(card))}, {source}{version}: "
        f"{architecture.name}, {architecture.n_parameters:,} parameters, cutoff {architecture.cutoff:g} Å, "
        f"{card.get('dtype', 'float32')}.{cited}"
    )


def _intended(card: dict[str, Any]) -> str:
    data = card.get("data") or {}
    ranges = []
    if data.get("temperature_k"):
        ranges.append("{:g} to {:g} K".format(*data["temperature_k"]))
    if data.get("density_g_per_cm3"):
        ranges.append("{:.2f} to {:.2f} g/cm³".format(*data["density_g_per_cm3"]))
    if data.get("atoms_per_structure"):
        ranges.append("learned from structures of {:,} to {:,} atoms".format(*data["atoms_per_structure"]))
    said = "Molecular dynamics and relaxation of systems like those it learned from"
    return f"{said}: {'; '.join(ranges)}." if ranges else f"{said}."


def _limits(card: dict[str, Any]) -> str:
    limits = card.get("limits") or {}
    lines = [
        "Not a general potential: other compositions, phases, surfaces and reactions are extrapolation, and "
        "`limbeck.Calculator` warns of it.",
        "No electrostatics or dispersion beyond its receptive field"
        + (f" of {limits['receptive_field_a']:g} Å" if limits.get("receptive_field_a") else "")
        + (f" ({_line(limits['long_range'])})" if limits.get("long_range") else "")
        + ".",
        f"For structures of {ChargeState.of_card(card, 'card')}, those of the training data, and no others.",
        f"It inherits the errors of its {'teacher' if _is_distilled(card) else 'labels'}, which the figures "
        "below do not contain.",
    ]
    shortest = (card.get("data") or {}).get("shortest_pair_a") or {}
    if shortest:
        pairs = ", ".join(f"{pair} {distance:.2f} Å" for pair, distance in shortest.items())
        lines.append(f"Shortest distances seen: {pairs}; nearer, ZBL repulsion takes over.")
    return "\n".join(f"- {line}" for line in lines)


def _data(card: dict[str, Any]) -> str:
    data, training, teacher = (card.get(key) or {} for key in ("data", "training", "teacher"))
    lines = []
    if data.get("n_structures"):
        lines.append(f"{data['n_structures']:,} structures, {data.get('n_atoms', 0):,} atoms")
    if data.get("content_hash"):
        lines.append(f"SHA-256 of structures and labels: `{data['content_hash']}`")
    if teacher.get("weights_hash"):
        lines.append(f"SHA-256 of the teacher's weights: `{teacher['weights_hash']}`")
    if training.get("split"):
        lines.append(_line(training["split"]))
    if training.get("epochs") is not None:
        lines.append(
            f"{training['epochs']:,} epochs, {training.get('labels_seen', 0):,} labels seen, "
            f"{training.get('seconds', 0):,.0f} s, seed {training.get('seed')}"
        )
    command = (card.get("run") or {}).get("command")
    if command:
        lines.append(f"Command: `{_line(command)}`")
    return "\n".join(f"- {line}" for line in lines) or "Not recorded."


def _evaluation(card: dict[str, Any]) -> str:
    splits = _splits(card)
    if not splits:
        return "Not recorded."
    shown = [key for key in _NAMES if any(getattr(e, key) is not None for e in splits.values())]
    lines = ["| on | " + " | ".join(_NAMES[key] for key in shown) + " | structures |"]
    lines.append("|---" * (len(shown) + 2) + "|")
    for split, errors in splits.items():
        values = [getattr(errors, key) for key in shown]
        cells = ["–" if value is None else f"{value:.4g}" for value in values]
        lines.append(f"| {_SPLITS[split]} | {' | '.join(cells)} | {errors.n_structures or '–'} |")
    nve = read(DriftFacts, as_dict(card.get("metrics")).get("nve"))
    if nve.drift_mev_per_atom_per_ps is not None:
        lines.append(
            f"\nEnergy drift without a thermostat: {nve.drift_mev_per_atom_per_ps:.3g} meV/atom/ps over "
            f"{nve.duration_fs or 0:g} fs at {nve.temperature_k or 0:g} K."
        )
    return "\n".join(lines)


def _usage(file_name: str) -> str:
    return (
        "```python\n"
        "from ase.io import read\n\n"
        "from limbeck import Calculator\n\n"
        'atoms = read("structure.extxyz")\n'
        f'atoms.calc = Calculator("{_line(file_name)}")  # needs no torch\n'
        "energy, forces = atoms.get_potential_energy(), atoms.get_forces()\n"
        "```\n\n"
        f"`limbeck info {_line(file_name)}` prints all that the file says of itself; `limbeck export` "
        "writes ONNX, torch.export and TorchScript."
    )


def _line(value: object) -> str:
    """A text from outside on one line, without what Markdown would take for code or HTML."""
    return _flat(value).replace("`", "'").replace("<", "&lt;")


def _flat(value: object) -> str:
    return " ".join(str(value).split())
