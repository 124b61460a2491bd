"""What ``limbeck finalize`` is given, read and checked before any work: a run, students, old checkpoints."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.artifact.convert import convert_checkpoint
from limbeck.artifact.file import read_student
from limbeck.benchmark.models import StudentFile, TeacherChoice, read_students
from limbeck.config import LabelKeys
from limbeck.core.charge import ChargeState
from limbeck.core.hashing import hash_file
from limbeck.core.labels import LabelledSet
from limbeck.core.machine import usable_cores
from limbeck.dataset.read import read_reference
from limbeck.errors import InputError, LimbeckError
from limbeck.export.formats import FORMATS, FormatName, check_installed
from limbeck.export.quantise import QUANTISATIONS, Quantisation
from limbeck.export.structures import HELDOUT
from limbeck.report.reading import Run, read_run
from limbeck.runtime.released import find_student

PARTS = ("validate", "bench", "export", "quantize", "report")  #: what ``--skip`` names
_LEGACY = (".pt", ".pth")


@dataclass(frozen=True)
class FinalizeSettings:
    """How to finalise.

    Attributes
    ----------
    out: None takes the run folder, or ``finalized`` in the working directory.
    data: labels to validate on instead of the run's held-out set. keys: their names.
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
    quantisations: tuple[Quantisation, ...] = QUANTISATIONS
    skip: frozenset[str] = frozenset()
    target_force_rmse_mev_per_a: float | None = None
    budget_s: float = 600.0
    began: float | None = None
    threads: int | None = None
    row_limit_s: float = 20.0
    overwrite: bool = False
    debug: bool = False


@dataclass(frozen=True)
class Ware:
    """One student: its file and card under a name that no other one here has, and what identifies it."""

    file: StudentFile
    sha256: str

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def card(self) -> dict[str, Any]:
        return dict(self.file.card)

    @property
    def state(self) -> ChargeState:
        return ChargeState.of_card(self.file.card, self.path)

    @property
    def elements(self) -> frozenset[int]:
        return frozenset(self.file.architecture.elements)


@dataclass(frozen=True)
class Inputs:
    """What there is to finalise.

    Attributes
    ----------
    out: the folder that everything goes to. run: None unless a run folder was given.
    wares: students that can be used, the largest first. broken: name -> why, of a run's that cannot.
    converted: (old checkpoint, student file). data: the labels' file, None where there is none.
    given: the same, where it was named instead of the run's held-out set and judges the students.
    keys: names of its labels.
    """

    out: Path
    run: Run | None
    wares: tuple[Ware, ...]
    broken: dict[str, str] = field(default_factory=dict)
    converted: tuple[tuple[Path, Path], ...] = ()
    data: Path | None = None
    labelled: LabelledSet | None = None
    given: Path | None = None
    keys: LabelKeys = field(default_factory=LabelKeys)

    @property
    def data_hash(self) -> str | None:
        """Of the labels, whatever they are read from."""
        if self.labelled is None:
            return None
        labels = self.labelled.labels
        parts = (self.labelled.structures.positions, labels.forces, labels.energy, self.labelled.frame)
        digest = hashlib.sha256()
        for part in parts:
            digest.update(np.ascontiguousarray(part, dtype="<f8").tobytes())
        return digest.hexdigest()


def read_inputs(given: Sequence[Path | str], settings: FinalizeSettings) -> Inputs:
    """Read and check everything; of writing, only old checkpoints are converted, last of all.

    Raises
    ------
    InputError: whatever cannot be used. MissingPackageError: a format that was asked for by name
        needs a package that is not here.
    """
    _check(settings)
    folders = [Path(one) for one in given if Path(one).is_dir() and not _is_released(one)]
    if folders and len(given) > 1:
        raise InputError(
            "a run is finalised alone", got=" ".join(map(str, given)), wanted="one run, or several students"
        )
    if folders:
        return _of_run(folders[0], settings)
    return _of_students(given, settings)


def _is_released(name: Path | str) -> bool:
    """A folder of a released student's name hides no student, as everywhere else."""
    try:
        return find_student(name) != Path(name)
    except InputError:
        return False


def _of_run(folder: Path, settings: FinalizeSettings) -> Inputs:
    run = read_run(folder)
    usable = {preset: run.students[preset].path for preset in run.presets if preset in run.students}
    broken, wares = {p: _reason(run, p) for p in run.presets if p not in usable}, []
    for preset, path in usable.items():
        try:
            read_student(path)
            wares.append(_ware(read_students([path])[0]))
        except LimbeckError as error:
            broken[preset] = str(error)
    if not wares:
        raise InputError(
            "no student of the run can be used", where=folder, got="; ".join(broken.values()) or "none"
        )
    data = settings.data
    if data is None and (folder / HELDOUT).is_file():
        data = folder / HELDOUT
    given = None if "validate" in settings.skip else settings.data
    made = Inputs(
        settings.out or folder, run, tuple(wares), broken, data=data, given=given, keys=settings.keys
    )
    return _with_data(made)


def _reason(run: Run, preset: str) -> str:
    told = [note for note in run.notes if note.startswith(f"{preset} ")]
    return told[0] if told else f"{preset}.safetensors cannot be read"


def _of_students(given: Sequence[Path | str], settings: FinalizeSettings) -> Inputs:
    out = settings.out or Path("finalized")
    if not given:
        raise InputError("nothing to finalise", wanted="a run folder, student files or released students")
    old = [Path(one) for one in given if Path(one).suffix.lower() in _LEGACY]
    for path in old:
        if not path.is_file():
            raise InputError("no such checkpoint", where=path, wanted="a .pt state dict")
    names = [one for one in given if Path(one) not in old]
    for name in names:
        read_student(find_student(name))
    if settings.data is not None and names:
        wares = tuple(map(_ware, read_students(names)))
        _with_data(Inputs(out, None, wares, data=settings.data, keys=settings.keys))
    converted = [(path, out / "converted" / f"{path.stem}.safetensors") for path in old]
    targets = [target for _, target in converted]
    if len(set(targets)) < len(targets):
        raise InputError(
            "checkpoints of one name would replace each other",
            got=", ".join(map(str, old)),
            remedy="finalise them into folders of their own (--out)",
        )
    for path, target in converted:
        convert_checkpoint(path, target)
    wares = tuple(map(_ware, read_students([*names, *targets])))
    made = Inputs(out, None, wares, converted=tuple(converted), data=settings.data, keys=settings.keys)
    return _with_data(made)


def _ware(file: StudentFile) -> Ware:
    return Ware(file, hash_file(file.path))


def _with_data(inputs: Inputs) -> Inputs:
    """The labels read; InputError where no student knows their elements."""
    if inputs.data is None:
        return inputs
    labelled = read_reference(inputs.data, **inputs.keys.model_dump())
    elements = {int(z) for z in np.unique(labelled.structures.numbers)}
    if not any(elements <= ware.elements for ware in inputs.wares):
        from ase.data import chemical_symbols

        raise InputError(
            "no student knows all elements of the data",
            where=inputs.data,
            got=" ".join(chemical_symbols[z] for z in sorted(elements)),
            wanted="; ".join(
                f"{ware.name}: {' '.join(chemical_symbols[z] for z in sorted(ware.elements))}"
                for ware in inputs.wares
            ),
        )
    return replace(inputs, labelled=labelled)


def _check(settings: FinalizeSettings) -> None:
    strange = sorted(settings.skip - set(PARTS))
    if strange:
        raise InputError("unknown part", where="--skip", got=", ".join(strange), wanted=", ".join(PARTS))
    if settings.data is None and settings.keys != LabelKeys():
        raise InputError("names of labels without a file", wanted="--data FILE beside them")
    target = settings.target_force_rmse_mev_per_a
    if target is not None and not 0 < target < math.inf:
        raise InputError(
            "the target is no error", where="--target-force-rmse", got=target, wanted="meV/Å, above zero"
        )
    if settings.threads is not None and not 1 <= settings.threads <= usable_cores():
        raise InputError(
            "so many threads have no cores of their own here",
            where="--threads",
            got=settings.threads,
            wanted=f"1 to {usable_cores()}",
        )
    if settings.out is not None and settings.out.exists() and not settings.out.is_dir():
        raise InputError("the folder is a file", where=settings.out, remedy="choose another --out")
    if settings.formats is not None:
        unknown = [name for name in settings.formats if name not in FORMATS]
        if unknown:
            raise InputError("unknown format", where="--to", got=unknown[0], wanted=", ".join(FORMATS))
        check_installed(settings.formats)
