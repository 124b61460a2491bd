"""`limbeck finalize`: from a run, students or old checkpoints to all that a user ships, in one command."""

from __future__ import annotations

import importlib.metadata
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.core.checks import suits
from limbeck.core.files import write_whole
from limbeck.core.hashing import hash_file
from limbeck.errors import LimbeckError
from limbeck.export.certificate import REVISION
from limbeck.export.formats import FORMATS
from limbeck.export.structures import HELDOUT, VALIDATION
from limbeck.pipeline import final_parts as parts
from limbeck.pipeline.final_inputs import FinalizeSettings, Inputs, Ware, read_inputs
from limbeck.pipeline.final_summary import as_preset_row, student_rows, summary
from limbeck.pipeline.ledger import Done, Ledger
from limbeck.pipeline.table import format_table
from limbeck.pipeline.telling import Say
from limbeck.progress import Progress, format_seconds, no_progress
from limbeck.report.reading import BENCH, CURVES, FINAL_BENCH

SUMMARY = "finalize.json"
_KEPT = ".finalize"
_REPORT_S = 30.0  #: seconds that a report takes at the end
_BENCH_S = 60.0  #: that rounding weights leaves to the benchmark
_LEAST_BENCH_S, _LEAST_COMPILE_S = 20.0, 60.0
_FIGURES = (
    ("model", "student", "{}"),
    ("parameters", "parameters", "{:,}"),
    ("compression", "compression", "{:.0f}x"),
    ("file_kb", "file, kB", "{:.0f}"),
    ("force_rmse", "F RMSE, meV/Å", "{:.1f}"),
    ("threads", "threads", "{}"),
    ("atoms_per_s", "atoms/s", "{:,.0f}"),
    ("speedup", "speed-up", "{:.0f}x"),
)


@dataclass(frozen=True)
class _Job:
    """What the parts of one command share."""

    inputs: Inputs
    settings: FinalizeSettings
    ledger: Ledger
    deadline: float
    progress: Progress

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def threads(self) -> int:
        """Of runtimes that are timed."""
        return self.settings.threads or 1

    @property
    def exports(self) -> Path:
        return self.inputs.out / "exports"

    def skipped(self, name: str) -> str | None:
        return "asked for by --skip" if name in self.settings.skip else None


def finalize(
    given: Sequence[Path | str],
    settings: FinalizeSettings | None = None,
    *,
    progress: Progress = no_progress,
    say: Say = print,
) -> dict[str, Any]:
    """Validate, export with certificates, round weights, measure speed, recommend, report.

    A part that fails is told, and the others go on. Finished parts are kept by the hashes of what they
    were made from: the same command goes on after an interruption, and does again what failed or was
    skipped. Returns what ``finalize.json`` in the folder holds; its ``failed`` lists what failed.

    Raises
    ------
    InputError: a run, a student or data that cannot be used, before any work.
    LimbeckError: the folder cannot be written.
    """
    settings = settings or FinalizeSettings()
    began = time.monotonic() if settings.began is None else settings.began
    inputs = read_inputs(given, settings)
    ledger = Ledger(inputs.out / _KEPT, say, overwrite=settings.overwrite, debug=settings.debug)
    _check_writable(inputs.out)
    job = _Job(inputs, settings, ledger, began + settings.budget_s, progress)
    _note_inputs(job)
    for step in (_validate, _export, _quantise, _bench, _compile, _recommend, _report):
        step(job)
    found = summary(inputs, ledger, time.monotonic() - began, _told(settings))
    write_whole(inputs.out / SUMMARY, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    _say_end(job, found, say)
    return found


def require_success(found: dict[str, Any], out: Path) -> None:
    """LimbeckError where a part failed."""
    if found["failed"]:
        raise LimbeckError(
            f"{len(found['failed'])} of {len(found['parts'])} parts failed",
            where=out,
            got=", ".join(found["failed"][:5]) + ", ..." * (len(found["failed"]) > 5),
            remedy="the lines above and finalize.json say why; the same command does only those again",
        )


def _note_inputs(job: _Job) -> None:
    """What happened to the inputs before the first part."""
    for old, made in job.inputs.converted:
        ware = next(one for one in job.inputs.wares if one.path == made)
        job.ledger.run("convert", ware.name, {"old": hash_file(old)}, partial(Done, files=(made,)))
    for name, reason in job.inputs.broken.items():
        job.ledger.fail("read", name, reason)


def _validate(job: _Job) -> None:
    inputs, ledger = job.inputs, job.ledger
    labelled = inputs.labelled
    elements = set() if labelled is None else {int(z) for z in np.unique(labelled.structures.numbers)}
    for ware in inputs.wares:
        reason = job.skipped("validate")
        if reason is None and labelled is None:
            reason = f"no {HELDOUT} in the run; --data FILE names labels" if inputs.run else "no --data given"
        if reason is None and not elements <= ware.elements:
            reason = "the data hold elements that it does not know"
        if reason is None and labelled is not None and not suits(ware.state, labelled.structures):
            reason = f"the data are of another total charge or spin than {ware.state}"
        if reason is not None:
            ledger.skip("validate", ware.name, reason)
            continue
        assert labelled is not None
        work = partial(parts.validate_one, ware, labelled, inputs.out / "validation", job.progress)
        ledger.run("validate", ware.name, {"student": ware.sha256, "data": inputs.data_hash}, work)
    written = [one for one in ledger.outcomes if one.part == "validate" and one.verdict == "done"]
    if written:
        # the most accurate first: where two students miss a frame, its answers stand in the file
        written.sort(key=lambda one: one.result["all"]["force_rmse_mev_per_a"])
        files = [one.files[1] for one in written]
        worst = partial(parts.gather_worst, [Path(f["path"]) for f in files], inputs.out / "worst.extxyz")
        ledger.run("worst frames", None, {"files": [f["sha256"] for f in files]}, worst)


def _export(job: _Job) -> None:
    """Every format of every student; the next is begun where the longest so far would still fit."""
    longest = -math.inf  # the first is always begun: each command gets on by one at least
    for ware in job.inputs.wares:
        for kind in job.settings.formats or FORMATS:
            part = f"export {kind}"
            if reason := job.skipped("export"):
                job.ledger.skip(part, ware.name, reason)
                continue
            structures = _structures(job, ware)
            work = partial(parts.export_one, ware, kind, _folder(job, ware), structures, job.threads)
            if job.left_s < _REPORT_S + longest:
                work = partial(_out_of_time, job)
            done = job.ledger.run(part, ware.name, _export_inputs(job, ware, structures), work)
            longest = longest if done.reused else max(longest, done.seconds)


def _quantise(job: _Job) -> None:
    for ware in job.inputs.wares:
        plain = job.ledger.found("export onnx", ware.name)
        for how in job.settings.quantisations:
            part = f"quantize {how}"
            structures = _structures(job, ware)
            given = _export_inputs(job, ware, structures)
            float32 = Path(plain[0].result["path"]) if plain else None
            work = partial(
                parts.quantise_one, ware, how, _folder(job, ware), structures, job.threads, float32
            )
            reason = job.skipped("quantize")
            if reason is None and job.left_s < _REPORT_S + _BENCH_S:
                # what is finished costs nothing; what is not waits for the next command
                work, reason = partial(_out_of_time, job), None
            if reason is not None:
                job.ledger.skip(part, ware.name, reason)
            else:
                job.ledger.run(part, ware.name, given, work)


def _bench(job: _Job) -> None:
    settings, inputs = job.settings, job.inputs
    if reason := job.skipped("bench"):
        job.ledger.skip("bench", None, reason)
        return
    starts = None if inputs.run is None else inputs.run.folder / "structures.extxyz"
    structures = starts if starts is not None and starts.is_file() else None
    given = {
        "students": {ware.name: ware.sha256 for ware in inputs.wares},
        "teacher": repr(settings.teacher), "threads": settings.threads, "row_limit_s": settings.row_limit_s,
        "sizes": parts.SIZES, "batches": parts.BATCHES,
        "structures": None if structures is None else hash_file(structures),
    }  # fmt: skip
    work = partial(
        parts.bench_all, inputs.wares, inputs.out / FINAL_BENCH, teacher=settings.teacher,
        threads=settings.threads, row_limit_s=settings.row_limit_s, budget_s=job.left_s - _REPORT_S,
        structures=structures, progress=job.progress,
    )  # fmt: skip
    enough = job.left_s - _REPORT_S >= _LEAST_BENCH_S
    job.ledger.run("bench", None, given, work if enough else partial(_out_of_time, job))


def _compile(job: _Job) -> None:
    """AOTInductor packages, which take a minute or so each, in the time that everything else left."""
    for ware in job.inputs.wares:
        program = job.ledger.found("export torch-export", ware.name)
        if not program:
            continue
        left = job.left_s - _REPORT_S
        structures = _structures(job, ware)
        file = Path(program[0].result["path"])
        work = partial(
            parts.compile_one, ware, file, _folder(job, ware), structures, job.threads, max(left, 1.0)
        )
        given = _export_inputs(job, ware, structures) | {"program": program[0].result["sha256"]}
        enough = left >= _LEAST_COMPILE_S
        job.ledger.run(
            "export aot-inductor", ware.name, given, work if enough else partial(_out_of_time, job)
        )


def _recommend(job: _Job) -> None:
    rows = [as_preset_row(student) for student in student_rows(job.inputs, job.ledger)]
    target = job.settings.target_force_rmse_mev_per_a
    measured = {one.student: one.result for one in job.ledger.found("validate") if one.student}
    given = {"target": target, "rows": [vars(row) for row in rows], "run": _run_hashes(job), **_data_key(job)}
    work = partial(parts.recommend_students, job.inputs, rows, target, measured)
    job.ledger.run("recommendation", None, given, work)


def _report(job: _Job) -> None:
    """The page of a run; cards alone where there is no run, for a page is about one."""
    skipped = job.skipped("report")
    if job.inputs.run is None:
        job.ledger.skip("report", None, skipped or "a report is about a run, and students alone were given")
        for ware in job.inputs.wares if skipped is None else ():
            work = partial(parts.write_card, ware, job.inputs.out)
            job.ledger.run("card", ware.name, {"student": ware.sha256}, work)
        return
    if skipped is not None:
        job.ledger.skip("report", None, skipped)
        return
    target = job.settings.target_force_rmse_mev_per_a
    given = {"run": _run_hashes(job), "target": target, **_data_key(job)}
    job.ledger.run("report", None, given, partial(parts.report_page, job.inputs, target, job.progress))


def _out_of_time(job: _Job) -> Done:
    raise parts.Skip(
        f"the budget, {format_seconds(job.settings.budget_s)}, is used up; the same command goes on with it"
    )


def _folder(job: _Job, ware: Ware) -> Path:
    """Students of one file name come with their folder's name, so their exports have folders too."""
    return job.exports / Path(ware.name).parent


def _structures(job: _Job, ware: Ware) -> Path | None:
    """Held-out structures for certificates; None lets the export look beside the student, or make some."""
    inputs = job.inputs
    if inputs.data is None or inputs.data.is_dir() or inputs.labelled is None:
        return None
    elements = {int(z) for z in np.unique(inputs.labelled.structures.numbers)}
    return inputs.data if elements <= ware.elements else None


def _export_inputs(job: _Job, ware: Ware, structures: Path | None) -> dict[str, Any]:
    beside = ware.path.parent / HELDOUT
    source = structures or (beside if beside.is_file() else None)
    more = None if source is None else source.with_name(VALIDATION)  # fills a run's held-out set up
    return {
        "student": ware.sha256,
        "structures": [hash_file(file) for file in (source, more) if file is not None and file.is_file()],
        "threads": job.threads,
        "folder": str(Path(ware.name).parent),
        "revision": REVISION,
        "versions": {name: _version(name) for name in ("torch", "onnx", "onnxruntime", "onnxscript")},
    }


def _data_key(job: _Job) -> dict[str, Any]:
    """Labels that were named to judge the students of a run."""
    given = job.inputs.given
    return {} if given is None else {"data": job.inputs.data_hash, "name": given.name}


def _run_hashes(job: _Job) -> dict[str, str]:
    """Of the files of a run that its page is made from, under names that hold where it is moved to."""
    if job.inputs.run is None:
        return {}
    folder, out = job.inputs.run.folder, job.inputs.out
    names = ("config.yaml", "metrics.json", HELDOUT, VALIDATION)
    curves = sorted((folder / CURVES).glob("*.json"))
    files = [*(folder / name for name in names), *sorted(folder.glob("*.safetensors")), *curves]
    made = [out / BENCH, out / FINAL_BENCH, *sorted((out / "exports").glob("*.json"))]
    named = {f"run/{path.relative_to(folder)}": path for path in files}
    named |= {f"out/{path.relative_to(out)}": path for path in made}
    return {name: hash_file(path) for name, path in named.items() if path.is_file()}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_writable(out: Path) -> None:
    write_whole(out / _KEPT / "README", "Finished parts of limbeck finalize; --overwrite forgets them.\n")


def _told(settings: FinalizeSettings) -> dict[str, Any]:
    """The settings, JSON-able."""
    return {
        "data": settings.data and str(settings.data),
        "keys": settings.keys.model_dump(exclude_none=True),
        "teacher": getattr(settings.teacher, "name", settings.teacher),
        "formats": list(settings.formats or FORMATS),
        "quantisations": list(settings.quantisations),
        "skip": sorted(settings.skip),
        "target_force_rmse_mev_per_a": settings.target_force_rmse_mev_per_a,
        "budget_s": settings.budget_s,
        "threads": settings.threads,
        "row_limit_s": settings.row_limit_s,
    }


def _say_end(job: _Job, found: dict[str, Any], say: Say) -> None:
    """Figures of the students, and what became of each part."""
    rows = [as_preset_row(student) for student in found["students"]]
    say("")
    say(format_table([{**vars(row), "model": row.name} for row in rows], _FIGURES))
    matrix: dict[str, dict[str, Any]] = {}
    for one in job.ledger.outcomes:
        row = matrix.setdefault(one.student or "(all)", {"model": one.student or "(all)"})
        refused = one.result.get("verdict") == "refused"
        row[one.part] = "refused" if refused else one.verdict
    columns = list(dict.fromkeys(one.part for one in job.ledger.outcomes))
    titles = [(name, name.removeprefix("export ").removeprefix("quantize "), "{}") for name in columns]
    say("")
    for whole in (False, True):  # parts of one student, then parts of all
        shown = [row for name, row in matrix.items() if (name == "(all)") is whole]
        if shown:
            say(format_table(shown, [("model", "part of", "{}"), *titles]))
            say("")
    took = format_seconds(found["seconds"])
    say(f"{len(found['parts'])} parts in {took}, {len(found['failed'])} failed, "
        f"{len(found['skipped'])} skipped; summary: {job.inputs.out / SUMMARY}")  # fmt: skip
