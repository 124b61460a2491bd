"""`limbeck finalize`: from a run, students or old checkpoints to all that a user ships, in one command.

A list of steps, each of which does its parts one after another over a content-hash cache.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ase.io import read

from limbeck.artifact.file import StudentFile
from limbeck.benchmark.run import require_figures, run_benchmark
from limbeck.core.charge import ChargeState
from limbeck.core.checks import suits
from limbeck.core.files import write_whole
from limbeck.core.frames import write_frames
from limbeck.core.hashing import hash_file
from limbeck.errors import LimbeckError
from limbeck.export.certificate import REVISION
from limbeck.export.formats import FORMATS, FormatName, check_installed
from limbeck.export.quantise import Quantisation
from limbeck.export.run import ExportOptions, export_student
from limbeck.export.structures import TEST, VALIDATION
from limbeck.progress import Progress, Say, format_seconds, no_progress
from limbeck.report.card import model_card
from limbeck.report.reading import BENCH, CURVES, FINAL_BENCH, read_run
from limbeck.report.recommendation import PresetRow, preset_rows, recommend
from limbeck.runtime.student import Student
from limbeck.validation.doubt import doubt_labels
from limbeck.validation.run import validate
from limbeck.validation.worst import worst_atoms
from limbeck.workflows.finalize_cache import Done, Outcome, Parts, facts
from limbeck.workflows.finalize_inputs import FinalizeSettings, Inputs, read_inputs, symbols
from limbeck.workflows.finalize_summary import as_preset_row, student_rows, summary
from limbeck.workflows.report import write_report
from limbeck.workflows.table import format_table

SUMMARY = "finalize.json"
N_WORST = 20  #: frames of one student for relabelling
#: fewer than ``limbeck bench`` measures: overhead, batches, and what dynamics usually has
BATCHES, SIZES = (1, 8, 32), (100, 1000)
_REPORT_S = 30.0  #: seconds that a report takes at the end
_BENCH_S, _LEAST_BENCH_S = 60.0, 20.0  #: what rounding weights leaves to the benchmark, and what that needs
_COLUMNS = (
    ("model", "student", "{}"),
    ("parameters", "parameters", "{:,}"),
    ("compression", "compression", "{:.0f}x"),
    ("file_kb", "file, kB", "{:.0f}"),
    ("force_rmse", "F RMSE, meV/Å", "{:.1f}"),
    ("threads", "threads", "{}"),
    ("atoms_per_s", "atoms/s", "{:,.0f}"),
    ("speedup", "speed-up", "{:.0f}x"),
)


def finalize(
    given: Sequence[Path | str],
    settings: FinalizeSettings | None = None,
    *,
    progress: Progress = no_progress,
    say: Say = print,
) -> dict[str, Any]:
    """Validate, export with certificates, round weights, measure speed, recommend, report.

    A part that fails is told, and the others go on. Finished parts are kept by the hashes of what they
    were made from: the same command resumes after an interruption, and does again what failed or was
    skipped. Returns what ``finalize.json`` in the folder holds; its ``failed`` lists what failed.

    Raises
    ------
    InputError: a run, a student or data that cannot be used, before any work.
    LimbeckError: the folder cannot be written.
    """
    settings = settings or FinalizeSettings()
    began = time.monotonic() if settings.began is None else settings.began
    inputs = read_inputs(given, settings)
    parts = Parts(
        inputs.out, settings.skip, began + settings.budget_s, settings.budget_s, say,
        overwrite=settings.overwrite, debug=settings.debug,
    )  # fmt: skip
    for path in inputs.converted:
        parts.note(Outcome("convert", path.stem, "done", files=(facts(path),)))
    for name, reason in inputs.broken.items():
        parts.note(Outcome("read", name, "failed", reason))
    for step in (_validate, _export, _quantise, _bench, _recommend, _report):
        step(inputs, parts, progress)
    found = summary(inputs, parts, time.monotonic() - began)
    write_whole(inputs.out / SUMMARY, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    rows = [as_preset_row(student) for student in found["students"]]
    say("\n" + format_table([{**vars(row), "model": row.name} for row in rows], _COLUMNS))
    counts = f"{len(found['failed'])} failed, {len(found['skipped'])} skipped"
    took = f"{len(found['parts'])} parts in {format_seconds(found['seconds'])}"
    say(f"\n{took}, {counts}; summary: {inputs.out / SUMMARY}")
    return found


def require_success(found: dict[str, Any], out: Path) -> None:
    """LimbeckError where a part failed."""
    if failed := found["failed"]:
        raise LimbeckError(
            f"{len(failed)} of {len(found['parts'])} parts failed",
            where=out,
            got=", ".join(failed[:5]) + ", ..." * (len(failed) > 5),
            remedy="the lines above and finalize.json say why; the same command does only those again",
        )


def _validate(inputs: Inputs, parts: Parts, progress: Progress) -> None:
    """Errors of each student on the labels, and the worst frames of all for relabelling."""
    for student in inputs.students:
        reason = "" if "validate" in parts.skip else _why_not_validated(inputs, student)
        if reason:
            parts.note(Outcome("validate", student.name, "skipped", reason))
            continue
        key = {"student": hash_file(student.path), "data": inputs.data_hash}
        parts.run("validate", student.name, partial(_validate_one, inputs, student, progress), key)
    # the most accurate first: where two students miss a frame, its answers stand in the file
    done = sorted(parts.found("validate"), key=lambda one: one.result["all"]["force_rmse_mev_per_a"])
    files = [one.files[1] for one in done]

    def gather() -> Done:
        frames: dict[int, Any] = {}
        for file in files:
            for atoms in read(file["path"], ":"):
                frames.setdefault(int(atoms.info["frame"]), atoms)
        write_frames(inputs.out / "worst.extxyz", list(frames.values()))
        return Done({"frames": len(frames)}, (inputs.out / "worst.extxyz",))

    if files:
        parts.run("worst frames", None, gather, [file["sha256"] for file in files])


def _why_not_validated(inputs: Inputs, student: StudentFile) -> str:
    """Why the labels cannot evaluate a student; empty where they can."""
    state = ChargeState.of_card(dict(student.card), student.path)
    if inputs.labelled is None:
        return f"no {TEST} in the run; --data FILE names labels" if inputs.run else "no --data given"
    if not inputs.knows(student):
        return "the data hold elements that it does not know"
    fits = suits(state, inputs.labelled.structures)
    return "" if fits else f"the data are of another total charge or spin than {state}"


def _validate_one(inputs: Inputs, student: StudentFile, progress: Progress) -> Done:
    labelled, folder = inputs.labelled, inputs.out / "validation"
    assert labelled is not None
    report = validate(Student.load(student.path), labelled, n_worst=N_WORST, progress=progress)
    errors, frames = folder / f"{student.name}.json", folder / f"{student.name}.worst.extxyz"
    worst = [asdict(frame) for frame in report.worst]
    write_whole(errors, json.dumps({"data": report.metrics, "run": {"worst_frames": worst}}, indent=1))
    write_frames(frames, worst_atoms(report, labelled, student.name))
    doubt = doubt_labels(labelled.labels.forces, report.prediction.forces)
    return Done({"all": report.metrics["all"]}, (errors, frames), doubt)


def _export(inputs: Inputs, parts: Parts, progress: Progress) -> None:
    """Every format of every student; the next is begun where the longest so far would still fit."""
    longest = -math.inf  # the first is always begun: each command gets on by one at least
    for student in inputs.students:
        key = _export_key(inputs, student)
        for kind in inputs.settings.formats or FORMATS:
            work = partial(_write_export, inputs, parts, student, kind, None)
            one = parts.run(f"export {kind}", student.name, work, key, _REPORT_S + longest)
            if one.verdict != "skipped" and not one.reused:
                longest = max(longest, one.seconds)


def _quantise(inputs: Inputs, parts: Parts, progress: Progress) -> None:
    """Rounded weights in ONNX, evaluated by size, speed, accuracy and dynamics."""
    for student in inputs.students:
        key = _export_key(inputs, student)
        for how in inputs.settings.quantisations:
            work = partial(_write_export, inputs, parts, student, "onnx", how)
            parts.run(f"quantize {how}", student.name, work, key, _REPORT_S + _BENCH_S)


def _write_export(
    inputs: Inputs, parts: Parts, student: StudentFile, kind: FormatName, how: Quantisation | None
) -> Done:
    """One format of one student with its certificate.

    A refusal of rounded weights says something of the student and is a finding; of float16, which every
    student should stand, it is a failure.
    """
    check_installed((kind,))
    plain = parts.found("export onnx", student.name) if how else []
    options = ExportOptions(
        quantisation=how, structures=_structures(inputs, student), threads=inputs.settings.threads or 1,
        float32=Path(plain[0].files[0]["path"]) if plain else None,
    )  # fmt: skip
    # students of one file name come with their folder's name, so their exports have folders too
    folder = inputs.out / "exports" / Path(student.name).parent
    made = export_student(student.path, (kind,), folder, options)
    refused = made.get("refused")
    if made["failures"] and (not refused or how == "float16"):
        raise LimbeckError(made["failures"][0])
    evaluated = {"quantisation": how, "verdict": "refused" if refused else "kept", "loss": made.get("loss")}
    if refused:
        # the file is gone; what was measured of it stays
        measured = {k: v for k, v in (made["refused_figures"] or {}).items() if k not in ("path", "sha256")}
        return Done(
            measured | evaluated | {"reason": refused}, (), f"refused: {refused.split('; remedy:')[0]}"
        )
    certificate = made["exports"][0]
    path = Path(certificate["path"])
    files = (path, path.with_name(f"{path.name}.certificate.json"))
    return Done(certificate | (evaluated if how else {}), files)


def _structures(inputs: Inputs, student: StudentFile) -> Path | None:
    """Test structures for certificates; None lets the export look beside the student, or make some."""
    usable = inputs.data is not None and not inputs.data.is_dir() and inputs.knows(student)
    return inputs.data if usable else None


def _export_key(inputs: Inputs, student: StudentFile) -> dict[str, Any]:
    source = _structures(inputs, student) or student.path.parent / TEST
    files = (source, source.with_name(VALIDATION)) if source.is_file() else ()  # that fills a run's set up
    packages = ("torch", "onnx", "onnxruntime", "onnxscript")
    found = [one for name in packages for one in importlib.metadata.distributions(name=name)]
    return {
        "student": hash_file(student.path),
        "structures": [hash_file(file) for file in files if file.is_file()],
        "threads": inputs.settings.threads or 1,
        "revision": REVISION,
        "versions": [f"{one.name} {one.version}" for one in found],
    }


def _bench(inputs: Inputs, parts: Parts, progress: Progress) -> None:
    """All students on the native engine beside their teacher."""
    settings, path = inputs.settings, inputs.out / FINAL_BENCH
    starts = None if inputs.run is None else inputs.run.folder / "structures.extxyz"
    structures = starts if starts is not None and starts.is_file() else None

    def work() -> Done:
        report = run_benchmark(
            [student.path for student in inputs.students], teacher=settings.teacher, batches=BATCHES,
            sizes=SIZES, engines=("native",), threads=settings.threads, row_limit_s=settings.row_limit_s,
            budget_s=parts.deadline - time.monotonic() - _REPORT_S, structures=structures,
            progress=progress,
        )  # fmt: skip
        require_figures(report)
        found = report.to_dict()
        write_whole(path, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        without = sum(row.skipped is not None for row in report.rows)
        finding = f"{without} of {len(report.rows)} rows were not measured" if without else ""
        return Done({"rows": found["rows"]}, (path,), finding)

    key = {
        "students": {student.name: hash_file(student.path) for student in inputs.students},
        "teacher": repr(settings.teacher), "threads": settings.threads, "row_limit_s": settings.row_limit_s,
        "sizes": SIZES, "batches": BATCHES, "structures": structures and hash_file(structures),
    }  # fmt: skip
    parts.run("bench", None, work, key, _REPORT_S + _LEAST_BENCH_S)


def _recommend(inputs: Inputs, parts: Parts, progress: Progress) -> None:
    """Which student to use: of a run as its report says, else among students of the same elements."""
    target = inputs.settings.target_force_rmse_mev_per_a

    def work() -> Done:
        if inputs.run is not None:
            run = read_run(inputs.run.folder, inputs.out)
            if inputs.evaluated_on is not None:
                errors = {str(one.student): one.result for one in parts.found("validate")}
                run = run.evaluated_on(inputs.evaluated_on, errors)
            wanted = run.target_force_rmse if target is None else target
            advice = recommend(preset_rows(run), wanted)
            context = {"target_force_rmse_mev_per_a": wanted, "errors_on": str(run.compared_on)}
            return Done(asdict(advice) | context, (), advice.text)
        groups: dict[str, list[PresetRow]] = {}
        for student, row in zip(inputs.students, student_rows(inputs, parts), strict=True):
            groups.setdefault(symbols(student.architecture.elements), []).append(as_preset_row(row))
        advices = {name: recommend(group, target) for name, group in groups.items()}
        several = len(advices) > 1
        text = " ".join(f"For {name}: {one.text}" if several else one.text for name, one in advices.items())
        chosen = [{"elements": name, **asdict(one)} for name, one in advices.items()]
        return Done({"text": text, "groups": chosen, "target_force_rmse_mev_per_a": target}, (), text)

    parts.run("recommendation", None, work, None)


def _report(inputs: Inputs, parts: Parts, progress: Progress) -> None:
    """The page of a run; cards alone where there is no run, for a page is about one."""
    run, out, target = inputs.run, inputs.out, inputs.settings.target_force_rmse_mev_per_a
    if run is None:
        reason = "a report is about a run, and students alone were given"
        parts.note(Outcome("report", None, "skipped", reason))
        for student in inputs.students if "report" not in parts.skip else ():
            path = out / f"{student.name}.card.md"
            write_whole(path, model_card(dict(student.card), student.path.name))
            parts.note(Outcome("card", student.name, "done", files=(facts(path),)))
        return

    def work() -> Done:
        written = write_report(
            run.folder, out / "report.html", target_force_rmse_mev_per_a=target, data=inputs.evaluated_on,
            keys=inputs.settings.keys.model_dump(), results=out, progress=progress,
        )  # fmt: skip
        return Done({"notes": written.notes}, (written.page, *written.cards), "; ".join(written.notes))

    shown = [run.folder / name for name in ("config.yaml", "metrics.json", TEST, VALIDATION)]
    shown += [*run.folder.glob("*.safetensors"), *(run.folder / CURVES).glob("*.json")]
    shown += [out / BENCH, out / FINAL_BENCH, *(out / "exports").glob("*.json")]
    key = {
        "shown": sorted((path.name, hash_file(path)) for path in shown if path.is_file()),
        "target": target,
        "data": inputs.evaluated_on and (inputs.data_hash, inputs.evaluated_on.name),
    }
    parts.run("report", None, work, key)
