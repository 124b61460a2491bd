"""``limbeck export``: write, certify, judge and keep, format after format."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ase import Atoms

from limbeck.artifact.file import StudentRecord, read_student
from limbeck.core.devices import require_torch
from limbeck.core.files import write_whole
from limbeck.core.hashing import hash_file
from limbeck.errors import LimbeckError
from limbeck.export import aot
from limbeck.export.certificate import Comparison, References, Repeats
from limbeck.export.formats import SUFFIXES, FormatName, Graph, check_installed, make_graph, write_format
from limbeck.export.loss import Loss, measure_loss, slower
from limbeck.export.quantise import Quantisation, store_weights
from limbeck.export.runtimes import Runtime
from limbeck.export.speed import time_export
from limbeck.export.structures import parity_structures
from limbeck.export.tolerance import TOLERANCES
from limbeck.progress import format_figure
from limbeck.runtime.released import find_student
from limbeck.runtime.student import Student

Say = Callable[[str], None]
_Checked = TypeVar("_Checked", Comparison, Repeats)


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes
    ----------
    quantisation, force: weights in fewer bits, and whether to keep what would be refused.
    structures: test structures for the certificate; else ``test.extxyz`` beside the student, else
        generated ones.
    threads: of the runtimes while they are timed.
    aot, aot_limit_s: whether torch-export also compiles an AOTInductor package, and for how long at most.
    timed: whether latency is measured.
    float32: the certified file of the same student and format that rounded weights are timed against;
        written anew unless given.
    """

    quantisation: Quantisation | None = None
    force: bool = False
    structures: Path | None = None
    threads: int = 1
    aot: bool = False
    aot_limit_s: float = 600.0
    timed: bool = True
    float32: Path | None = None


class RefusedError(LimbeckError):
    """Rounded weights that cost too much: a finding about the student, no fault of the export.

    ``figures``: what is known of the file that was refused.
    """

    figures: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Work:
    """What all formats of one export share."""

    graph: Graph
    float32: Graph | None
    references: References
    student: Student
    options: ExportOptions
    loss: Loss | None


def export_student(
    student: Path | str, formats: Sequence[FormatName], out: Path, options: ExportOptions | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Export a student file, or a released student by name, to ``out``; JSON-able summary.

    A format that fails leaves no file and is told under ``failures``; the others go on. Where rounding is
    refused, ``refused`` says so too, and ``refused_figures`` what was measured of the file, if one was made.

    Raises
    ------
    InputError: the student or the structures cannot be used.
    MissingPackageError: a package that a format needs is not installed.
    LimbeckError: ``out`` cannot be written.
    """
    options = options or ExportOptions()
    formats = tuple(dict.fromkeys(formats))
    check_installed(formats)
    path, kept, work = _begin(student, out, options)
    if work is None:
        return kept.value
    if not work.student.record.state.is_plain:
        state = work.student.record.state
        say(f"note: {path.stem} is for structures of {state}; the files have no input for it, nor check it")
    for kind in formats:
        kept.attempt(kind, partial(_export_one, work, kind, path.stem, out, None), say)
    if "torch-export" in formats and options.aot:
        programs = [done["path"] for done in kept.value["exports"] if done["format"] == "torch-export"]
        _export_package(work, path.stem, out, kept, say, Path(programs[0]) if programs else None)
    return kept.value


def export_package(
    student: Path | str, program: Path, out: Path, options: ExportOptions | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Compile the ``.pt2`` program that :func:`export_student` wrote into an AOTInductor package.

    Summary and errors as there; ``skipped`` has the reason where there is no compiler, or not the time.
    """
    path, kept, work = _begin(student, out, options or ExportOptions())
    if work is not None:
        _export_package(work, path.stem, out, kept, say, program)
    return kept.value


def _begin(student: Path | str, out: Path, options: ExportOptions) -> tuple[Path, _Summary, _Work | None]:
    """The student's file, an empty summary, and what its formats share; None where it was refused."""
    require_torch("exports")
    path = find_student(student)
    record = read_student(path)
    structures = parity_structures(
        record.architecture, record.card, student_file=path, given=options.structures,
        zbl_radius=record.baseline.zbl_radius,
    )  # fmt: skip
    _make_folder(out)
    kept = _Summary(path, options.quantisation, {kind: len(part) for kind, part in structures.items()})
    return path, kept, _prepare(path, record, structures, options, kept)


class _Summary:
    """What an export has come to so far."""

    def __init__(self, path: Path, quantisation: Quantisation | None, structures: dict[str, int]) -> None:
        self.value: dict[str, Any] = {
            "student": path.stem, "student_sha256": hash_file(path), "quantisation": quantisation,
            "structures": structures, "exports": [], "skipped": {}, "failures": [],
        }  # fmt: skip

    def attempt(self, kind: str, work: Callable[[], dict[str, Any]], say: Say) -> None:
        try:
            done = work()
        except LimbeckError as error:
            self.fail(error)
            say(f"{kind}: failed: {error}")
            return
        self.value["exports"].append(done)
        say(describe(done))

    def fail(self, error: LimbeckError) -> None:
        self.value["failures"].append(str(error))
        if isinstance(error, RefusedError):
            self.value |= {"refused": str(error), "refused_figures": error.figures}


def describe(done: dict[str, Any]) -> str:
    """One line about one export."""
    times = ", ".join(
        f"{row['atoms']} atoms {format_figure(row['export_ms'])} ms "
        f"(native {format_figure(row['native_ms'])})"
        for row in done["latency"]
    )
    kind, first = next(iter(done["parity"]["against_student"].items()))
    line = (
        f"{done['path']}: {done['bytes'] / 1000:.0f} kB, certified on {done['n_structures']} structures, "
        f"forces of {kind} ones within {first['force_mev_per_a']:.2g} meV/Å"
    )
    line += f"; {times}, {done['threads']} thread(s)" if times else ""
    loss = done.get("quantisation")
    if loss is None:
        return line
    against = [reason for reason in (loss["objection"], loss["slower"]) if reason]
    return (
        f"{line}; {loss['quantisation']} changes forces by {loss['force_rmse_mev_per_a']:.3g} meV/Å (rms)"
        + (f"; kept for --force in spite of {', and '.join(against)}" if against else "")
    )


def _prepare(
    path: Path,
    record: StudentRecord,
    structures: dict[str, list[Atoms]],
    options: ExportOptions,
    kept: _Summary,
) -> _Work | None:
    """Round and judge the weights, trace, and let the student answer; None where rounding is refused."""
    quantisation = options.quantisation
    stored = store_weights(record, quantisation)
    student = Student(stored.record, name=path.stem, threads=1)
    loss, plain = None, None
    names = {"student_hash": kept.value["student_sha256"], "name": path.stem}
    if quantisation is not None:
        before = Student(record, name=path.stem, threads=1)
        loss = measure_loss(before, student, next(iter(structures.values())), quantisation)
        kept.value["loss"] = loss.to_dict()
        if loss.objection() and not options.force:
            kept.fail(
                RefusedError(
                    f"{quantisation} is refused", where=path.stem, got=loss.objection(), remedy=loss.remedy(),
                )
            )  # fmt: skip
            return None
        if options.timed and options.float32 is None:
            plain = make_graph(store_weights(record, None), quantisation=None, **names)
    graph = make_graph(stored, quantisation=quantisation, **names)
    return _Work(graph, plain, References(student, structures), student, options, loss)


def _export_one(work: _Work, kind: FormatName, stem: str, out: Path, program: Path | None) -> dict[str, Any]:
    """Write under another name, certify, and rename: a file of this name has passed."""
    options = work.options
    quantised = f".{options.quantisation}" if options.quantisation else ""
    target = out / f"{stem}{quantised}{SUFFIXES[kind]}"
    with _scratch(out) as folder:
        written = folder / target.name
        about = _write(work.graph, kind, written, program, options)
        with Runtime() as runtime:
            # on the threads that a host gets which asks for none: on one, kernels that race agree
            loaded = runtime.load(written, kind)
            comparison = _require(work.references.compare(runtime), target)
            repeats = _require(work.references.repeat(runtime, loaded["threads"]), target)
            latencies = _time(work, runtime, kind, written) if options.timed else []
        done = {
            "format": kind,
            "path": str(target),
            "bytes": written.stat().st_size,
            "sha256": hash_file(written),
            **about,
            "runtime": loaded["versions"],
            "verdict": "pass",
            "tolerance": vars(TOLERANCES[work.references.precision]),
            "n_structures": sum(len(part) for part in work.references.structures.values()),
            "parity": comparison.to_dict(),
            "repeats": asdict(repeats),
            "threads": options.threads,
            "latency": [one.to_dict() for one in latencies],
        }
        if work.loss is not None:
            done["quantisation"] = work.loss.to_dict()
            objection = slower(latencies) if options.quantisation == "int8" else None
            done["quantisation"]["slower"] = objection
            if objection and not options.force:
                refused = RefusedError(
                    "int8 is refused", where=target, got=objection,
                    remedy="--quantize float16, or --force to keep it all the same",
                )  # fmt: skip
                refused.figures = done
                raise refused
        _keep(written, target)
    write_whole(f"{target}.certificate.json", _json(done))
    return done


def _write(
    graph: Graph, kind: FormatName, path: Path, program: Path | None, options: ExportOptions
) -> dict[str, Any]:
    if kind != "aot-inductor":
        return write_format(graph, kind, path)
    import torch

    if program is None:
        raise TypeError("a package is compiled from a program")
    aot.compile_package(program, path, graph.metadata, options.aot_limit_s)
    return {"torch": torch.__version__}


def _require(found: _Checked, target: Path) -> _Checked:
    """LimbeckError where a part of the certificate does not pass."""
    if not found.passes:
        raise LimbeckError(
            "the export does not agree with the student, so it was removed", where=target,
            got=found.failure(), wanted="within the tolerance",
            remedy="report it with the student; --structures names other structures",
        )  # fmt: skip
    return found


def _time(work: _Work, runtime: Runtime, kind: FormatName, written: Path) -> list[Any]:
    float32, given, threads = None, work.options.float32, work.options.threads
    if given is not None and work.options.quantisation is not None:
        float32 = "float32"
        runtime.load(given, kind, float32, threads)
    elif work.float32 is not None and kind != "aot-inductor":
        float32 = "float32"
        beside = written.with_name(f"float32{SUFFIXES[kind]}")
        write_format(work.float32, kind, beside)
        runtime.load(beside, kind, float32, threads)
    runtime.load(written, kind, threads=threads)
    structures = next(iter(work.references.structures.values()))
    return time_export(runtime, work.student, structures, threads=threads, float32=float32)


def _export_package(
    work: _Work, stem: str, out: Path, kept: _Summary, say: Say, program: Path | None
) -> None:
    """An AOTInductor package from a program, where a compiler is there and quick enough."""
    reason = aot.reason_to_skip() if program is not None else "no program to compile"
    if reason is None:
        try:
            done = _export_one(work, "aot-inductor", stem, out, program)
        except aot.NotCompiledError as error:
            reason = str(error)
        except LimbeckError as error:
            kept.fail(error)
            say(f"aot-inductor: failed: {error}")
        else:
            kept.value["exports"].append(done)
            say(describe(done))
    if reason is not None:
        kept.value["skipped"]["aot-inductor"] = reason
        say(f"aot-inductor: skipped: {reason}")


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LimbeckError(
            "cannot make the folder", where=out, got=error.strerror, remedy="choose another --out"
        ) from error


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder beside the exports, so that a file can be moved in one step.

    It bears machine and process: what a killed process left is removed by the next one there.
    """
    here = f".export-{platform.node() or 'here'}-"
    for left in out.glob(f"{here}*-*"):
        owner = left.name.removeprefix(here).split("-")[0]
        if owner.isdecimal() and not _is_running(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    try:
        made = tempfile.TemporaryDirectory(dir=out, prefix=f"{here}{os.getpid()}-")
    except OSError as error:
        raise LimbeckError(
            "cannot write into the folder", where=out, got=error.strerror, remedy="choose another --out"
        ) from error
    with made as folder:
        yield Path(folder)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _keep(written: Path, target: Path) -> None:
    try:
        with open(written, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(written, target)
    except OSError as error:
        raise LimbeckError("cannot write the file", where=target, got=error.strerror) from error


def _json(value: Any) -> str:
    import json

    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
