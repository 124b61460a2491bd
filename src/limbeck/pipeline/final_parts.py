"""The parts of ``limbeck finalize``: each takes what there is, works, and says what it made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols
from ase.io import read

from limbeck.benchmark.models import TeacherChoice
from limbeck.benchmark.run import require_figures, run_benchmark
from limbeck.core.files import write_whole
from limbeck.core.labels import LabelledSet
from limbeck.errors import InputError, LimbeckError
from limbeck.export.formats import FormatName, check_installed
from limbeck.export.quantise import Quantisation
from limbeck.export.run import ExportOptions, export_package, export_student
from limbeck.pipeline.final_inputs import Inputs, Ware
from limbeck.pipeline.ledger import Done, Skip
from limbeck.progress import Progress
from limbeck.report.card import model_card
from limbeck.report.page import write_report
from limbeck.report.reading import read_run
from limbeck.report.recommendation import PresetRow, preset_rows, recommend
from limbeck.runtime.student import Student
from limbeck.sampling.frames import write_frames
from limbeck.validation.doubt import doubt_labels
from limbeck.validation.run import validate
from limbeck.validation.worst import worst_atoms

N_WORST = 20  #: frames of one student for relabelling
#: fewer than ``limbeck bench`` measures: overhead, batches, and what dynamics usually has
BATCHES, SIZES = (1, 8, 32), (100, 1000)


def validate_one(ware: Ware, labelled: LabelledSet, out: Path, progress: Progress) -> Done:
    """Errors of one student on the held-out labels, and its worst frames for relabelling."""
    report = validate(Student.load(ware.path), labelled, n_worst=N_WORST, progress=progress)
    figures, frames = out / f"{ware.name}.json", out / f"{ware.name}.worst.extxyz"
    worst = [asdict(frame) for frame in report.worst]
    write_whole(figures, json.dumps({"data": report.metrics, "run": {"worst_frames": worst}}, indent=1))
    write_frames(frames, worst_atoms(report, labelled, ware.name))
    doubt = doubt_labels(labelled.labels.forces, report.prediction.forces)
    return Done({"all": report.metrics["all"]}, (figures, frames), doubt)


def gather_worst(files: Sequence[Path], out: Path) -> Done:
    """Frames that are among the worst of any student, each once, the most accurate student's first."""
    frames: dict[int, Any] = {}
    for path in files:
        for atoms in read(path, ":"):
            frames.setdefault(int(atoms.info["frame"]), atoms)
    write_frames(out, list(frames.values()))
    return Done({"frames": len(frames)}, (out,))


def export_one(ware: Ware, kind: FormatName, out: Path, structures: Path | None, threads: int) -> Done:
    """One format of one student with its certificate."""
    check_installed((kind,))
    options = ExportOptions(structures=structures, threads=threads, aot=False)
    return _made(export_student(ware.path, (kind,), out, options))


def compile_one(
    ware: Ware, program: Path, out: Path, structures: Path | None, threads: int, limit_s: float
) -> Done:
    """An AOTInductor package of the exported program."""
    options = ExportOptions(structures=structures, threads=threads, aot_limit_s=limit_s)
    summary = export_package(ware.path, program, out, options)
    if summary["skipped"]:
        raise Skip(next(iter(summary["skipped"].values())))
    return _made(summary)


def quantise_one(
    ware: Ware,
    how: Quantisation,
    out: Path,
    structures: Path | None,
    threads: int,
    float32: Path | None,
) -> Done:
    """Rounded weights in ONNX, judged by size, speed, accuracy and dynamics.

    A refusal says something of the student and is a finding; of float16, which every student should
    stand, it is a failure.
    """
    check_installed(("onnx",))
    options = ExportOptions(quantisation=how, structures=structures, threads=threads, float32=float32)
    summary = export_student(ware.path, ("onnx",), out, options)
    if not summary.get("refused"):
        done = _made(summary)
        return replace(done, result=done.result | {"quantisation": how, "verdict": "kept"})
    if how == "float16":
        raise LimbeckError(summary["refused"])
    # the file is gone; what was measured of it stays
    measured = {
        k: v for k, v in (summary["refused_figures"] or {}).items() if k not in ("path", "sha256", "verdict")
    }
    result = measured | {
        "quantisation": how, "verdict": "refused", "reason": summary["refused"], "loss": summary.get("loss"),
    }  # fmt: skip
    return Done(result, (), f"refused: {summary['refused'].split('; remedy:')[0]}")


def _made(summary: dict[str, Any]) -> Done:
    """What an export's summary comes to; LimbeckError where it failed."""
    if summary["failures"]:
        raise LimbeckError(summary["failures"][0])
    certificate = summary["exports"][0]
    path = Path(certificate["path"])
    result = dict(certificate) | ({"loss": summary["loss"]} if "loss" in summary else {})
    return Done(result, (path, path.with_name(f"{path.name}.certificate.json")))


def bench_all(
    wares: Sequence[Ware],
    out: Path,
    *,
    teacher: TeacherChoice | str | None,
    threads: int | None,
    row_limit_s: float,
    budget_s: float,
    structures: Path | None,
    progress: Progress,
) -> Done:
    """All students on the native engine beside their teacher."""
    report = run_benchmark(
        [ware.path for ware in wares],
        teacher=teacher,
        batches=BATCHES,
        sizes=SIZES,
        engines=("native",),
        threads=threads,
        row_limit_s=row_limit_s,
        budget_s=budget_s,
        structures=structures,
        progress=progress,
    )
    require_figures(report)
    figures = report.to_dict()
    write_whole(out, json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    without = sum(row.skipped is not None for row in report.rows)
    finding = f"{without} of {len(report.rows)} rows were not measured" if without else ""
    return Done({"rows": figures["rows"]}, (out,), finding)


def recommend_students(
    inputs: Inputs, rows: Sequence[PresetRow], target: float | None, measured: Mapping[str, Any]
) -> Done:
    """Which student to use: of a run as its report says, else among students of the same elements.

    ``measured``: errors by student on the labels that were given, which then count alone.
    """
    if inputs.run is not None:
        run = read_run(inputs.run.folder, inputs.out)
        if inputs.given is not None:
            run = run.judged_on(inputs.given, measured)
        target = run.target_force_rmse if target is None else target
        advice = recommend(preset_rows(run), target)
        told = {"target_force_rmse_mev_per_a": target, "errors_on": str(run.compared_on)}
        return Done(asdict(advice) | told, (), advice.text)
    groups: dict[frozenset[int], list[PresetRow]] = {}
    for ware, row in zip(inputs.wares, rows, strict=True):
        groups.setdefault(ware.elements, []).append(row)
    advices = {
        " ".join(chemical_symbols[z] for z in sorted(elements)): recommend(group, target)
        for elements, group in groups.items()
    }
    several = len(advices) > 1
    text = " ".join(f"For {name}: {one.text}" if several else one.text for name, one in advices.items())
    chosen = [{"elements": name, **asdict(one)} for name, one in advices.items()]
    return Done({"text": text, "groups": chosen, "target_force_rmse_mev_per_a": target}, (), text)


def report_page(inputs: Inputs, target: float | None, progress: Progress) -> Done:
    """``report.html`` and the cards of a run."""
    if inputs.run is None:
        raise InputError("a report is of a run", got="students alone")
    written = write_report(
        inputs.run.folder,
        inputs.out / "report.html",
        target_force_rmse_mev_per_a=target,
        data=inputs.given,
        keys=inputs.keys.model_dump(),
        results=inputs.out,
        progress=progress,
    )
    return Done({"notes": list(written.notes)}, (written.page, *written.cards), "; ".join(written.notes))


def write_card(ware: Ware, out: Path) -> Done:
    """The card of one student as model hubs read it."""
    path = out / f"{ware.name}.card.md"
    write_whole(path, model_card(ware.card, ware.path.name))
    return Done({}, (path,))
