"""``limbeck export``: write, certify, evaluate and keep, format after format."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from limbeck.artifact.file import StudentArtifact, read_student
from limbeck.core.devices import require_torch
from limbeck.core.files import write_whole
from limbeck.core.hashing import hash_file
from limbeck.errors import LimbeckError
from limbeck.export.certificate import References
from limbeck.export.formats import SUFFIXES, FormatName, Graph, check_installed, make_graph, write_format
from limbeck.export.quantise import Loss, Quantisation, measure_loss, slower, store_weights
from limbeck.export.runtimes import Latency, Runtime, time_export
from limbeck.export.structures import Structures, parity_structures
from limbeck.progress import format_figure
from limbeck.runtime.released import find_student
from limbeck.runtime.student import Student

Say = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes
    ----------
    quantisation, force: weights in fewer bits, and whether to keep what would be refused.
    structures: test structures for the certificate; else ``test.extxyz`` in the student's folder, else
        generated ones.
    threads: of the runtimes while they are timed.
    timed: whether latency is measured.
    float32: the certified file of the same student and format that rounded weights are timed against;
        written anew unless given.
    """

    quantisation: Quantisation | None = None
    force: bool = False
    structures: Path | None = None
    threads: int = 1
    timed: bool = True
    float32: Path | None = None


class RefusedError(LimbeckError):
    """Rounded weights that cost too much: a finding about the student, no fault of the export."""

    figures: dict[str, Any] | None = None  #: of the file that was refused, if one was made


@dataclass(frozen=True)
class _Work:
    """What all formats of one export share."""

    graph: Graph
    float32: Graph | None
    references: References
    options: ExportOptions
    loss: Loss | None


def export_student(
    student: Path | str, formats: Sequence[FormatName], out: Path, options: ExportOptions | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Export a student file, or a released student by name, to ``out``; JSON-able summary.

    A format that fails leaves no file and is listed in ``failures``; the others continue. Where rounding is
    refused, ``refused`` is the reason and ``refused_figures`` what was measured of the file, if it was made.

    Raises
    ------
    InputError: the student or the structures cannot be used.
    MissingPackageError: a package that a format needs is not installed.
    LimbeckError: ``out`` cannot be written.
    """
    options = options or ExportOptions()
    formats = tuple(dict.fromkeys(formats))
    require_torch("exports")
    check_installed(formats)
    path = find_student(student)
    record = read_student(path)
    structures = parity_structures(record, student_file=path, given=options.structures)
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()  # before anything is traced
    except OSError as error:
        what, remedy = "cannot write into the folder", "choose another --out"
        raise LimbeckError(what, where=out, got=error.strerror, remedy=remedy) from error
    summary: dict[str, Any] = {
        "student": path.stem, "student_sha256": hash_file(path), "quantisation": options.quantisation,
        "structures": {kind: len(part) for kind, part in structures.items()}, "exports": [], "failures": [],
    }  # fmt: skip
    try:
        work = _prepare(record, structures, options, summary)
    except RefusedError as refused:
        _fail(summary, refused)
        return summary
    if not (state := record.state).is_plain:
        say(f"note: {path.stem} is for structures of {state}; the files have no input for it, nor check it")
    for kind in formats:
        try:
            done = _export_one(work, kind, path.stem, out)
        except LimbeckError as error:
            _fail(summary, error)
            say(f"{kind}: failed: {error}")
        else:
            summary["exports"].append(done)
            say(describe(done))
    return summary


def _fail(summary: dict[str, Any], error: LimbeckError) -> None:
    summary["failures"].append(str(error))
    if isinstance(error, RefusedError):
        summary |= {"refused": str(error), "refused_figures": error.figures}


def describe(done: dict[str, Any]) -> str:
    """One line about one export."""
    show, times = format_figure, []
    for row in done["latency"]:
        times.append(f"{row['atoms']} atoms {show(row['export_ms'])} ms (native {show(row['native_ms'])})")
    kind, first = next(iter(done["parity"]["against_student"].items()))
    line = (
        f"{done['path']}: {done['bytes'] / 1000:.0f} kB, certified on {done['n_structures']} structures, "
        f"forces of {kind} ones within {first['force_mev_per_a']:.2g} meV/Å"
    )
    line += f"; {', '.join(times)}, {done['threads']} thread(s)" if times else ""
    if (loss := done.get("quantisation")) is not None:
        against = [reason for reason in (loss["objection"], loss["slower"]) if reason]
        line += f"; {loss['quantisation']} changes forces by {loss['force_rmse_mev_per_a']:.3g} meV/Å (rms)"
        line += f"; kept for --force in spite of {', and '.join(against)}" if against else ""
    return line


def _prepare(
    record: StudentArtifact, structures: Structures, options: ExportOptions, summary: dict[str, Any]
) -> _Work:
    """Round and evaluate the weights, trace, and evaluate the student; RefusedError where that costs much."""
    quantisation, name = options.quantisation, summary["student"]
    names = {"student_hash": summary["student_sha256"], "name": name}
    model = store_weights(record, quantisation)
    student = Student(model.record, name=name, threads=1)
    loss, plain = None, None
    if quantisation is not None:
        before = Student(record, name=name, threads=1)
        loss = measure_loss(before, student, next(iter(structures.values())), quantisation)
        summary["loss"] = loss.to_dict()
        if (objection := loss.objection()) and not options.force:
            what = f"{quantisation} is refused"
            raise RefusedError(what, where=name, got=objection, remedy=loss.remedy())
        if options.timed and options.float32 is None:
            plain = make_graph(store_weights(record, None), quantisation=None, **names)
    graph = make_graph(model, quantisation=quantisation, **names)
    return _Work(graph, plain, References(student, structures), options, loss)


def _export_one(work: _Work, kind: FormatName, stem: str, out: Path) -> dict[str, Any]:
    """Write elsewhere, certify, and only then write to ``out``: a file there has passed."""
    options, references = work.options, work.references
    quantised = f".{options.quantisation}" if options.quantisation else ""
    target = out / f"{stem}{quantised}{SUFFIXES[kind]}"
    with tempfile.TemporaryDirectory(prefix="limbeck-export-") as folder:
        written = Path(folder) / target.name
        about = write_format(work.graph, kind, written)
        with Runtime() as runtime:
            # on the threads that a host gets which asks for none: on one, kernels that race agree
            loaded = runtime.load(written, kind)
            comparison = references.compare(runtime)
            repeats = references.repeat(runtime, loaded["threads"])
            for found in (comparison, repeats):
                if not found.passes:
                    raise LimbeckError(
                        "the export does not agree with the student, so it was removed", where=target,
                        got=found.failure(), wanted="within the tolerance",
                        remedy="report it with the student; --structures names other structures",
                    )  # fmt: skip
            latencies = _time(work, runtime, kind, written) if options.timed else []
        done = {
            "format": kind,
            "path": str(target),
            "bytes": written.stat().st_size,
            "sha256": hash_file(written),
            **about,
            "runtime": loaded["versions"],
            "verdict": "pass",
            "tolerance": vars(references.tolerance),
            "n_structures": sum(len(part) for part in references.structures.values()),
            "parity": asdict(comparison),
            "repeats": asdict(repeats),
            "threads": options.threads,
            "latency": [one.to_dict() for one in latencies],
        }
        if work.loss is not None:
            objection = slower(latencies) if options.quantisation == "int8" else None
            done["quantisation"] = work.loss.to_dict() | {"slower": objection}
            if objection and not options.force:
                remedy = work.loss.remedy()
                refused = RefusedError("int8 is refused", where=target, got=objection, remedy=remedy)
                refused.figures = done
                raise refused
        write_whole(target, partial(shutil.copyfile, written))
    write_whole(f"{target}.certificate.json", json.dumps(done, indent=2, ensure_ascii=False) + "\n")
    return done


def _time(work: _Work, runtime: Runtime, kind: FormatName, written: Path) -> list[Latency]:
    options, references = work.options, work.references
    plain = options.float32 if options.quantisation else None
    if plain is None and work.float32 is not None:
        plain = written.with_name(f"float32{SUFFIXES[kind]}")
        write_format(work.float32, kind, plain)
    if plain is not None:
        runtime.load(plain, kind, "float32", options.threads)
    runtime.load(written, kind, threads=options.threads)
    atoms = next(iter(references.structures.values()))[0]
    return time_export(runtime, references.student, atoms, options.threads, plain is not None)
