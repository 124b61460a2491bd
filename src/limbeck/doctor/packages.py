"""Teachers, exporters and optional packages: installed, and which version."""

from __future__ import annotations

from limbeck.doctor import looking
from limbeck.doctor.findings import Finding
from limbeck.teachers import TeacherCard, list_cards
from limbeck.teachers.environments import RECORD, environment_folder, installed_python, is_current

#: distributions, the first of which is installed, and what they are for
EXPORTERS = (
    (("onnx",), "exports to ONNX"),
    (("onnxscript",), "exports to ONNX"),
    (("onnxruntime", "onnxruntime-gpu"), "runs and certifies exports to ONNX"),
)
#: distribution, extra of Limbeck that brings it, and what it is for
OPTIONAL = (
    ("lightning-fabric", "train", "trains students"),
    ("rdkit", "molecules", "starts from SMILES"),
    ("packmol", "liquids", "packs liquids"),
    ("matplotlib", "plots", "draws plots"),
    ("plotly", "report", "draws the report"),
    ("tblite", "xtb", "runs the teacher gfn2-xtb"),
)


def check_teachers() -> list[Finding]:
    """Every teacher: in this environment, in one of its own, or not installed."""
    return [_check_teacher(card) for card in list_cards()]


def _check_teacher(card: TeacherCard) -> Finding:
    folder = environment_folder(card)
    facts: dict[str, str | None] = {"installed": None, "version": None}
    if card.installed:
        version = card.version()
        facts = {"installed": "this environment", "version": version or None}
        return Finding("teachers", card.name, "ok", f"{card.distribution} {version}".strip(), None, facts)
    if installed_python(card) is not None:
        facts["installed"] = str(folder)
        if is_current(card):
            return Finding("teachers", card.name, "ok", f"in {folder}", None, facts)
        detail = f"in {folder}, made from an older list of versions"
        return Finding("teachers", card.name, "warning", detail, f"{card.remedy} --overwrite", facts)
    if (folder / RECORD).is_file():
        detail = f"in {folder}, whose Python is gone"
        return Finding("teachers", card.name, "warning", detail, f"{card.remedy} --overwrite", facts)
    return Finding("teachers", card.name, "missing", card.domain, card.remedy, facts)


def check_exporters(has_compiler: bool) -> list[Finding]:
    """What exports are written, run and compiled with."""
    found = [
        _check_package("exporters", names, purpose, f"{looking.PIP} {names[0]}")
        for names, purpose in EXPORTERS
    ]
    if has_compiler:
        found.append(Finding("exporters", "AOTInductor", "ok", "has the compiler above"))
    else:
        detail = "needs a C++ compiler; compiles .pt2 packages"
        found.append(Finding("exporters", "AOTInductor", "missing", detail, "the compiler above"))
    return found


def check_optional() -> list[Finding]:
    """Packages that some commands want."""
    return [
        _check_package(
            "optional", (name,), purpose, f"{looking.PIP} " + (f"-e '.[{extra}]'" if extra else name)
        )
        for name, extra, purpose in OPTIONAL
    ]


def _check_package(group: str, names: tuple[str, ...], purpose: str, remedy: str) -> Finding:
    for name in names:
        version = looking.package_version(name)
        if version is not None:
            return Finding(group, names[0], "ok", version, None, {"version": version})
    return Finding(group, names[0], "missing", purpose, remedy, {"version": None})
