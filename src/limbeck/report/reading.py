"""What a run folder holds, read defensively (other stages write it, files may be missing), and evidence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms

from limbeck.artifact.file import StudentFile
from limbeck.core.labels import LabelledSet
from limbeck.core.scans import scan_mask
from limbeck.errors import InputError, LimbeckError
from limbeck.records.metrics import (
    GIVEN,
    TEST,
    VALIDATION,
    Errors,
    GroupedErrors,
    Metrics,
    ValidationReport,
    as_dict,
    is_number,
)

TARGET = "target_force_rmse_mev_per_a"
CURVES = "learning-curve"  #: folder of the trainings, and of what came out, a file a preset
BENCH, FINAL_BENCH = "bench.json", "finalize.bench.json"  #: a user's own, and that of limbeck finalize


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    config, config_text: config.yaml, parsed and as it stands there.
    metrics: metrics.json. presets: those evaluated there, the largest student first.
    students: preset -> its file, where it is there and can be read.
    logs: preset -> the rows of its training log, earlier rounds first.
    bench: that file, empty where missing. exports: certificates, one a file.
    curves: what ``limbeck learning-curve`` found, one a preset.
    given: labels to compare the students on instead of the run's own.
    notes: what is there but could not be read, one sentence each.
    """

    folder: Path
    config: dict[str, Any]
    config_text: str
    metrics: Metrics
    presets: tuple[str, ...]
    students: dict[str, StudentFile]
    logs: dict[str, list[dict[str, Any]]]
    bench: dict[str, Any]
    exports: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    curves: tuple[dict[str, Any], ...] = ()
    given: Path | None = None

    @property
    def name(self) -> str:
        return self.metrics.name or self.folder.absolute().name

    @property
    def split(self) -> str:
        """The split that students are compared on."""
        if self.given is not None:
            return GIVEN
        held = all(TEST in self.metrics.students[preset].splits for preset in self.presets)
        return TEST if held else VALIDATION

    @property
    def compared_on(self) -> Path:
        """The labels of that split."""
        return self.given or self.folder / f"{self.split}.extxyz"

    @property
    def what(self) -> str:
        """Its structures, in a word."""
        return {TEST: "test", VALIDATION: "validation", GIVEN: "test"}[self.split]

    def errors(self, preset: str) -> Errors:
        """A student's errors on that split as a whole; none where it was not evaluated on it."""
        return self.metrics.students[preset].errors(self.split)

    def evaluated_on(self, labels: Path, metrics: Mapping[str, Any]) -> Run:
        """The run with ``metrics`` (preset -> errors as metrics.json groups them) on ``labels``."""
        students = {
            name: replace(one, splits={**one.splits, GIVEN: GroupedErrors.from_json(metrics[name])})
            if name in metrics
            else one
            for name, one in self.metrics.students.items()
        }
        return replace(self, given=labels, metrics=replace(self.metrics, students=students))

    @property
    def target_force_rmse(self) -> float | None:
        """The wanted force RMSE, meV/Å, where the configuration names one."""
        return figures(self.config).get(TARGET)


@dataclass(frozen=True)
class Evidence:
    """What figures are made of.

    Attributes
    ----------
    learned: labels that students learned from and that chose their best weights; None where they are
        not in the run folder.
    compared: the labelled set that students are compared on, None where its file is missing.
    what: how it is called. reports: preset -> predictions and errors on it.
    starts: starting structures. notes: what could not be read or is shown in part.
    """

    learned: LabelledSet | None = None
    compared: LabelledSet | None = None
    what: str = "test"
    reports: dict[str, ValidationReport] = field(default_factory=dict)
    starts: list[Atoms] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def sets(self) -> list[tuple[str, LabelledSet]]:
        """(name, set) of what is there, those learned from first, without contact scans."""
        found = []
        for name, labelled in (("training labels", self.learned), (f"{self.what} frames", self.compared)):
            if labelled is not None and len(labelled):
                scans = scan_mask(labelled.config_type)
                some = scans.any() and not scans.all()
                found.append((name, labelled.select(np.flatnonzero(~scans)) if some else labelled))
        return found


def read_run(folder: Path | str, results: Path | None = None) -> Run:
    """Read a finished run.

    Parameters
    ----------
    results: where limbeck finalize put its benchmark, which then comes before a bench.json, and exports/;
        the run folder unless given.

    Raises
    ------
    InputError: no run folder, or a run that has not reached its end.
    """
    folder = Path(folder)
    benches = (BENCH, FINAL_BENCH) if results is None else (FINAL_BENCH, BENCH)
    results = results or folder
    marker = folder / "config.yaml"
    if not marker.is_file():
        raise InputError(
            "this is no run folder",
            where=folder,
            got="no config.yaml in it" if folder.is_dir() else "no such folder",
            wanted="a folder that limbeck distill or limbeck train has written",
        )
    if not (folder / "metrics.json").is_file():
        raise InputError(
            "the run is not finished",
            where=folder,
            got="no metrics.json",
            remedy="run the same command again: it resumes",
        )
    notes: list[str] = []
    metrics = Metrics.from_json(_read_json(folder / "metrics.json", notes))
    if not metrics.students:
        raise InputError(
            "metrics.json holds no evaluated student",
            where=folder / "metrics.json",
            got=notes[0] if notes else "no preset with a split",
            remedy="start the command of the run again",
        )
    evaluated = list(metrics.students)
    students = _read_students(folder, evaluated, notes)
    text = marker.read_text(encoding="utf-8", errors="replace")
    size = {name: student.parameters for name, student in students.items()}
    presets = sorted(evaluated, key=lambda name: -size.get(name, 0))
    return Run(
        folder=folder,
        config=_parse_config(text, marker, notes),
        config_text=text,
        metrics=metrics,
        presets=tuple(presets),
        students=students,
        logs={name: _read_log(folder, name) for name in presets},
        bench=_read_bench([results / name for name in benches], students, notes),
        exports=tuple(_read_exports(results / "exports", notes)),
        curves=tuple(_read_curves(folder / CURVES, notes)),
        notes=tuple(notes),
    )


def _read_students(folder: Path, presets: list[str], notes: list[str]) -> dict[str, StudentFile]:
    found = {}
    for preset in presets:
        path = folder / f"{preset}.safetensors"
        try:
            found[preset] = StudentFile.read(path, preset)
            _ = found[preset].parameters
        except (LimbeckError, KeyError, TypeError, ValueError, OSError) as error:
            found.pop(preset, None)
            notes.append(f"{preset} is left out of the figures: {error}")
    return found


def _parse_config(text: str, path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        return as_dict(yaml.safe_load(text))
    except yaml.YAMLError as error:
        notes.append(f"{path.name} is no YAML: {' '.join(str(error).split())[:120]}")
        return {}


def _read_json(path: Path, notes: list[str]) -> dict[str, Any]:
    """The object in a file; empty where there is no such file, or, with a note, nothing that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{path.name} holds no JSON object")
    return as_dict(value)


def _read_bench(
    paths: Sequence[Path], students: Mapping[str, StudentFile], notes: list[str]
) -> dict[str, Any]:
    """The first benchmark that is there, with the rows that say what was measured of these students."""
    path = next((path for path in paths if path.is_file()), None)
    if path is None or not (bench := _read_json(path, notes)):
        return {}
    found = bench.get("rows")
    rows = found if isinstance(found, list) else []
    kept = [row for row in rows if _is_bench_row(row)]
    if len(kept) < len(rows) or not kept:
        lost = len(rows) - len(kept) or "all"
        notes.append(f"{path.name}: {lost} rows lack a model, numbers of atoms or finite figures")
    own = (None, *(student.sha256 for student in students.values()))
    stale = ", ".join(dict.fromkeys(row["model"] for row in kept if row.get("student_sha256") not in own))
    if stale:
        notes.append(f"{path.name} is of other files than the run's ({stale}): limbeck bench anew")
    return {**bench, "rows": [row for row in kept if row.get("student_sha256") in own]}


def _is_bench_row(row: Any) -> bool:
    row = as_dict(row)
    words = all(isinstance(row.get(key), str) for key in ("model", "engine"))
    counts = all(isinstance(row.get(key), int) and row[key] > 0 for key in ("atoms", "batch"))
    figures = ("latency_ms_median", "structures_per_s", "atoms_per_s", "peak_memory_mb", "speedup_vs_teacher")
    known = [row[key] for key in figures if row.get(key) is not None]
    return words and counts and all(is_number(value) and value > 0 for value in known)


def _read_log(folder: Path, preset: str) -> list[dict[str, Any]]:
    """Rows of ``log.jsonl``; where the student came out of iterations, theirs one after another."""
    found = (folder / "active_learning").glob(f"*/{preset}/log.jsonl")
    iterations = sorted((int(path.parts[-3]), path) for path in found if path.parts[-3].isdecimal())
    rows: list[dict[str, Any]] = []
    for path in [folder / "train" / preset / "log.jsonl", *(path for _, path in iterations)]:
        before = rows[-1]["spent_s"] if rows else 0.0
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        for line in lines:
            try:
                row = json.loads(line)
                rows.append({**figures(row), "spent_s": before + float(row["spent_s"])})
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # the last line of a killed process
    return rows


def _read_exports(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Certificates: objects with a path and a format, alone in a file or under ``exports``."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        value = _read_json(path, notes)
        inner = value.get("exports")
        for one in inner if isinstance(inner, list) else [value]:
            if isinstance(one, dict) and one.get("path"):
                found.setdefault(Path(str(one["path"])).name, one)
    return [found[name] for name in sorted(found)]


def _read_curves(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Learning curves: objects with a preset, a verdict in words, and points."""
    found = []
    for path in sorted(path for path in folder.glob("*.json") if not path.name.startswith("times-")):
        value = _read_json(path, notes)
        points = value.get("points")
        words = all(isinstance(value.get(key), str) for key in ("preset", "text"))
        whole = isinstance(points, list) and all(isinstance(p, dict) and "skipped" in p for p in points)
        if words and points and whole:
            found.append(value)
        elif value:
            notes.append(f"{CURVES}/{path.name} is no result of limbeck learning-curve")
    return found


def figures(value: Any) -> dict[str, Any]:
    """What of an object can be counted with: its finite numbers."""
    return {name: one for name, one in as_dict(value).items() if is_number(one)}
