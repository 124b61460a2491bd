"""What ``limbeck finalize`` is given, read and checked before any work: a run, students, old checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from limbeck.artifact.convert import convert_checkpoint
from limbeck.artifact.file import StudentFile, read_student
from limbeck.benchmark.models import TeacherChoice, read_students
from limbeck.config import LabelKeys
from limbeck.core.labels import LabelledSet
from limbeck.core.machine import usable_cores
from limbeck.dataset.read import read_reference
from limbeck.errors import InputError, LimbeckError
from limbeck.export.formats import FORMATS, FormatName, check_installed
from limbeck.export.quantise import QUANTISATIONS, Quantisation
from limbeck.export.structures import TEST
from limbeck.report.reading import Run, read_run
from limbeck.runtime.released import find_student, list_students

PARTS = ("validate", "bench", "export", "quantize", "report")  #: what ``--skip`` names
_LEGACY = (".pt", ".pth")


@dataclass(frozen=True)
class FinalizeSettings:
    """How to finalise.

    Attributes
    ----------
    out: None takes the run folder, or ``finalized`` in the working directory.
    data: labels to validate on instead of the run's test set. keys: their names.
    teacher: None takes the one on the card, ``"none"`` leaves it out of the benchmark.
    formats: None takes all that are installed. quantisations, skip: names.
    target_force_rmse_mev_per_a: what the recommended student must meet.
    budget_s: seconds for the whole command, from ``began`` (``time.monotonic()``; None: from now).
    threads: of the benchmark (None: all usable cores) and of the runtimes that are timed (None: 1).
    row_limit_s: of one row of the benchmark.
    """

    out: Path | None = None
    data: Path | None = None
    keys: LabelKeys = field(default_factory=LabelKeys)
    teacher: TeacherChoice | str | None = None
    formats: tuple[FormatName, ...] | None = None
    quantisations: tuple[Quantisation, ...] = ("float16", "int8")
    skip: frozenset[str] = frozenset()
    target_force_rmse_mev_per_a: float | None = None
    budget_s: float = 600.0
    began: float | None = None
    threads: int | None = None
    row_limit_s: float = 20.0
    overwrite: bool = False
    debug: bool = False


@dataclass(frozen=True)
class Inputs:
    """What there is to finalise.

    Attributes
    ----------
    out: the folder that everything goes to. run: None unless a run folder was given.
    students: those that can be used, the largest first. broken: name -> why, of a run's that cannot.
    converted: student files made of old checkpoints. data, labelled: the labels, None where there are none.
    """

    settings: FinalizeSettings
    out: Path
    run: Run | None
    students: list[StudentFile]
    broken: dict[str, str]
    converted: list[Path]
    data: Path | None
    labelled: LabelledSet | None

    @property
    def evaluated_on(self) -> Path | None:
        """Labels that were named to evaluate the students of a run, in place of its own."""
        return self.settings.data if self.run and "validate" not in self.settings.skip else None

    @property
    def elements(self) -> set[int]:
        """Of the labels."""
        return set() if self.labelled is None else set(self.labelled.structures.numbers.tolist())

    @cached_property
    def data_hash(self) -> str | None:
        """Of the labels, whatever they are read from."""
        if self.labelled is None:
            return None
        labels, digest = self.labelled.labels, hashlib.sha256()
        for part in (self.labelled.structures.positions, labels.forces, labels.energy, self.labelled.frame):
            digest.update(np.ascontiguousarray(part, dtype="<f8").tobytes())
        return digest.hexdigest()

    def knows(self, student: StudentFile) -> bool:
        """Whether the student knows all elements of the labels."""
        return self.elements <= set(student.architecture.elements)


def read_inputs(given: Sequence[Path | str], settings: FinalizeSettings) -> Inputs:
    """Read and check everything; of writing, only old checkpoints are converted, last of all.

    Raises
    ------
    InputError: whatever cannot be used. MissingPackageError: a format that was asked for by name
        needs a package that is not here.
    """
    _check(settings)
    released = {student.name for student in list_students()}  # a folder of that name hides no student
    folders = [Path(one) for one in given if Path(one).is_dir() and str(one) not in released]
    if folders and len(given) > 1:
        got = " ".join(map(str, given))
        raise InputError("a run is finalised alone", got=got, wanted="one run, or several students")
    run = read_run(folders[0]) if folders else None
    out = settings.out or (Path("finalized") if run is None else run.folder)
    data, broken, old = settings.data, dict[str, str](), dict[Path, Path]()
    if run is None:
        old, students_given = _read_students(given, out / "converted")
    else:
        broken, students_given = _read_presets(run)
        if data is None and (run.folder / TEST).is_file():
            data = run.folder / TEST
    labelled = None if data is None else read_reference(data, **settings.keys.model_dump())
    for checkpoint, target in old.items():
        convert_checkpoint(checkpoint, target)
    students, converted = read_students([*students_given, *old.values()]), list(old.values())
    inputs = Inputs(settings, out, run, students, broken, converted, data, labelled)
    if not any(map(inputs.knows, students)):
        known = "; ".join(f"{one.name}: {symbols(one.architecture.elements)}" for one in students)
        wrong = "no student knows all elements of the data"
        raise InputError(wrong, where=data, got=symbols(inputs.elements), wanted=known)
    return inputs


def symbols(elements: Sequence[int] | set[int]) -> str:
    return " ".join(chemical_symbols[z] for z in sorted(elements))


def _read_presets(run: Run) -> tuple[dict[str, str], list[Path | str]]:
    """Why students of the run cannot be used, by name, and the files of the others."""
    broken, files = dict[str, str](), list[Path | str]()
    for preset in run.presets:
        try:
            if preset not in run.students:
                unread = [note for note in run.notes if note.startswith(f"{preset} ")]
                raise InputError(unread[0] if unread else f"{preset}.safetensors cannot be read")
            read_student(run.students[preset].path)
            files.append(run.students[preset].path)
        except LimbeckError as error:
            broken[preset] = str(error)
    if not files:
        reasons = "; ".join(broken.values()) or "none"
        raise InputError("no student of the run can be used", where=run.folder, got=reasons)
    return broken, files


def _read_students(given: Sequence[Path | str], folder: Path) -> tuple[dict[Path, Path], list[Path | str]]:
    """Old checkpoints with the files to make of them, and the students, each of which reads."""
    if not given:
        raise InputError("nothing to finalise", wanted="a run folder, student files or released students")
    legacy = [Path(one) for one in given if Path(one).suffix.lower() in _LEGACY]
    old = {path: folder / f"{path.stem}.safetensors" for path in legacy}
    for path in old:
        if not path.is_file():
            raise InputError("no such checkpoint", where=path, wanted="a .pt state dict")
    if len(set(old.values())) < len(old):
        wrong, remedy = "checkpoints of one name would replace each other", "finalise them one by one (--out)"
        raise InputError(wrong, got=", ".join(map(str, old)), remedy=remedy)
    names = [one for one in given if Path(one) not in old]
    for name in names:
        read_student(find_student(name))
    return old, names


def _check(settings: FinalizeSettings) -> None:
    """InputError for settings that cannot be meant."""
    for flag, named, known in (
        ("--skip", settings.skip, PARTS),
        ("--to", settings.formats or (), FORMATS),
        ("--quantize", settings.quantisations, QUANTISATIONS),
    ):
        if unknown := sorted(set(named) - set(known)):
            raise InputError("unknown name", where=flag, got=", ".join(unknown), wanted=", ".join(known))
    if settings.data is None and settings.keys != LabelKeys():
        raise InputError("names of labels without a file", wanted="--data FILE beside them")
    threads, cores = settings.threads, usable_cores()
    if threads is not None and not 1 <= threads <= cores:
        wrong = "invalid number of threads"
        raise InputError(wrong, where="--threads", got=threads, wanted=f"1 to {cores}")
    if settings.out is not None and settings.out.exists() and not settings.out.is_dir():
        raise InputError("the folder is a file", where=settings.out, remedy="choose another --out")
    check_installed(settings.formats or ())
