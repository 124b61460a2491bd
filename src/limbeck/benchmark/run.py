"""The benchmark of students beside their teacher: speed and memory by size and by batch."""

from __future__ import annotations

import importlib.metadata
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from ase.data import chemical_symbols

from limbeck import __version__
from limbeck.artifact.file import StudentFile
from limbeck.benchmark.models import (
    NO_TEACHER,
    Contender,
    TeacherChoice,
    by_elements,
    card_teacher,
    make_contenders,
    read_students,
)  # fmt: skip
from limbeck.benchmark.rows import Row, make_row
from limbeck.benchmark.systems import STARTS_FILE, System, build_system, find_origin
from limbeck.core.devices import require_device
from limbeck.core.machine import available_threads, describe_machine, usable_cores
from limbeck.core.structures import StructureBatch
from limbeck.core.timing import Limits, Timing, Unmeasured, measure_in_turns
from limbeck.errors import InputError, LimbeckError
from limbeck.progress import Progress, no_progress
from limbeck.students.engine import EngineKind

BATCH_ATOMS = 16  #: atoms of the structures that batches are made of
BATCHES = (1, 2, 4, 8, 16, 32)
SIZES = (16, 100, 1000, 4000)
ENGINES = ("native", "torch")
ROW_LIMIT_S = 20.0
_REACH_BEYOND_A = 1.0  # between copies of a molecule, beyond the cutoff
_PACKAGES = ("ase", "numpy", "torch", "vesin")


@dataclass(frozen=True)
class BenchReport:
    """What ``limbeck bench`` measured.

    Attributes
    ----------
    rows: one a model, engine, system and batch; those that were not measured say why.
    machine, settings, versions: what the figures hold for. systems: where structures come from.
    """

    rows: tuple[Row, ...]
    machine: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    systems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What ``bench.json`` holds."""
        return {
            "what": "energies, forces and (where periodic) stress in one call; one structure as a step of "
            "dynamics takes it, its neighbour list kept while it holds, batches with lists made anew",
            "machine": self.machine,
            "versions": self.versions,
            "settings": self.settings,
            "systems": list(self.systems),
            "rows": [row.to_dict() for row in self.rows],
        }


@dataclass(frozen=True)
class _Case:
    """Copies of a system in one call."""

    system: System
    batch: int

    @property
    def total_atoms(self) -> int:
        return len(self.system.atoms) * self.batch


@dataclass
class _Group:
    """Students of the same elements with their teacher, on the same systems; rows as they are measured."""

    contenders: list[Contender]
    cases: list[_Case]
    #: contender -> atoms in a call that took it too long
    too_slow: dict[int, int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def measure(self, case: _Case, limits: Limits) -> None:
        """Rows of one batch, in the order of the contenders; what was too slow before is not tried again."""
        batch = StructureBatch.from_atoms(case.system.copies(case.batch))
        results: dict[int, Timing | str] = {
            k: f"a call on {atoms:,} atoms took too long already" for k, atoms in self.too_slow.items()
        }
        tried = [k for k in range(len(self.contenders)) if k not in self.too_slow]
        if limits.left() <= 0:
            results |= {k: str(limits.used_up()) for k in tried}
        else:
            opens = [partial(self.contenders[k].open, batch) for k in tried]
            for k, (result, parameters) in zip(tried, measure_in_turns(opens, batch, limits), strict=True):
                model = self.contenders[k].model
                if model.parameters is None:  # a teacher's are known once it is loaded
                    model = replace(model, parameters=parameters)
                    self.contenders[k] = replace(self.contenders[k], model=model)
                if isinstance(result, Unmeasured) and result.too_slow:
                    self.too_slow[k] = case.total_atoms
                results[k] = str(result) if isinstance(result, Unmeasured) else result
        teachers = [results[k] for k, one in enumerate(self.contenders) if one.model.is_teacher]
        teacher = teachers[0] if teachers and isinstance(teachers[0], Timing) else None
        name, atoms = case.system.name, len(case.system.atoms)
        self.rows += [
            make_row(one.model, name, atoms, case.batch, results[k], teacher)
            for k, one in enumerate(self.contenders)
        ]


def run_benchmark(
    students: Sequence[Path | str],
    *,
    teacher: TeacherChoice | str | None = None,
    batches: Sequence[int] = BATCHES,
    sizes: Sequence[int] = SIZES,
    engines: Sequence[str] = ENGINES,
    threads: int | None = None,
    device: str = "cpu",
    row_limit_s: float = ROW_LIMIT_S,
    budget_s: float = math.inf,
    structures: Path | None = None,
    progress: Progress = no_progress,
    clock: Callable[[], float] = time.monotonic,
) -> BenchReport:
    """Students by engine and their teacher, measured in turns, each model in a process of its own.

    Parameters
    ----------
    students: files, or names of released students; those of the same elements are measured side by side.
    teacher: None takes the one on the first student's card, ``"none"`` leaves it out.
    batches: numbers of structures of 16 atoms in one call. sizes: atoms of single structures.
    engines: ``native`` (on the CPU), ``torch`` (on ``device``). threads: None takes all usable cores.
    row_limit_s: for all calls of one row; a model too slow for it is skipped, for all that is larger too.
    budget_s: for everything; what does not fit is skipped, the largest first.
    structures: what systems are made of, instead of the run folder's structures or the card's elements.

    Raises
    ------
    InputError: a student or a file that cannot be read, numbers that make no sense.
    """
    threads = available_threads() if threads is None else threads
    _check(batches, sizes, engines, threads, device, row_limit_s, budget_s)
    found = read_students(students)
    if not found:
        raise InputError("no student to measure", wanted="student files, or names of released students")
    limits = Limits(clock=clock, row_s=row_limit_s, deadline=clock() + budget_s, budget_s=budget_s)
    about, sources, prepared = describe_machine(), [], []
    for students_alike in by_elements(found) if structures is None else [found]:
        cases, source = _make_cases(students_alike, batches, sizes, structures)
        choice = card_teacher(students_alike) if teacher is None else teacher
        if isinstance(choice, str):
            choice = None if choice == NO_TEACHER else TeacherChoice(choice)
        contenders = make_contenders(students_alike, engines, choice, threads, device)
        prepared.append(_Group(contenders, cases))
        sources.append(f"{', '.join(student.name for student in students_alike)}: {source}")
    # small ones first in all groups: should the time not suffice, each has its small ones
    jobs = sorted(
        ((group, case) for group in prepared for case in group.cases), key=lambda job: job[1].total_atoms
    )
    for done, (group, case) in enumerate(jobs):
        progress("bench", done, len(jobs), f"{case.batch} x {len(case.system.atoms)} atoms")
        group.measure(case, limits)
    progress("bench", len(jobs), len(jobs))
    found_packages = [one for name in _PACKAGES for one in importlib.metadata.distributions(name=name)]
    return BenchReport(
        rows=tuple(row for group in prepared for row in group.rows),
        machine=about,
        settings={
            "threads": threads, "device": device, "engines": list(engines), "precision": "float32",
            "batches": list(batches), "sizes": list(sizes), "batch_atoms": BATCH_ATOMS,
            "row_limit_s": row_limit_s, "budget_s": budget_s if math.isfinite(budget_s) else None,
            "rounds": limits.rounds, "enough_s": limits.enough_s,
        },
        versions={"limbeck": __version__, **{one.name: one.version for one in found_packages}},
        systems=tuple(sources),
    )  # fmt: skip


def _make_cases(
    students: Sequence[StudentFile], batches: Sequence[int], sizes: Sequence[int], structures: Path | None
) -> tuple[list[_Case], str]:
    """What students of the same elements are measured on, the smallest first, and where it comes from."""
    beside = [s for s in students if (s.path.parent / STARTS_FILE).is_file()]
    first = (beside or students)[0]
    origin = find_origin(first.path, first.card, structures)
    if structures is not None:
        _check_known(students, {int(z) for atoms in origin.frames for z in atoms.numbers}, structures)
    reach = max(student.architecture.cutoff for student in students) + _REACH_BEYOND_A
    small = build_system(origin, BATCH_ATOMS, reach)
    cases = {(len(small.atoms), batch): _Case(small, batch) for batch in batches}
    for n in sizes:
        system = build_system(origin, n, reach)
        cases.setdefault((len(system.atoms), 1), _Case(system, 1))
    return sorted(cases.values(), key=lambda case: (case.total_atoms, case.batch)), origin.source


def _check_known(students: Sequence[StudentFile], elements: set[int], structures: Path) -> None:
    """InputError where no student knows the structures that were given: all rows would say so, in turn."""
    if any(elements <= set(student.architecture.elements) for student in students):
        return
    raise InputError(
        "no student knows all elements of the structures",
        where=structures,
        got=" ".join(chemical_symbols[z] for z in sorted(elements)),
        wanted="; ".join(
            f"{one.name}: {' '.join(chemical_symbols[z] for z in sorted(one.architecture.elements))}"
            for one in students
        ),
    )


def _check(
    batches: Sequence[int], sizes: Sequence[int], engines: Sequence[str], threads: int, device: str,
    row_limit_s: float, budget_s: float,
) -> None:  # fmt: skip
    """Refuse what cannot be measured, before anything starts."""
    for name, numbers in (("batch", batches), ("atoms", sizes)):
        if any(isinstance(n, bool) or n < 1 for n in numbers):
            raise InputError(
                f"{name} holds what is no number of them", got=list(numbers), wanted="1 or more each"
            )
    if not batches and not sizes:
        raise InputError("nothing to measure", got="no batch and no size", wanted="one of them")
    known = [kind for kind in get_args(EngineKind) if kind != "auto"]
    if not engines or set(engines) - set(known):
        raise InputError("unknown engine", got=", ".join(engines) or "none", wanted=" or ".join(known))
    if not 1 <= threads <= usable_cores():
        raise InputError(
            "invalid number of threads", got=threads, wanted=f"1 to {usable_cores()}",
            remedy="give --threads, or allow the process more cores",
        )  # fmt: skip
    if not (row_limit_s > 0 and budget_s > 0):
        raise InputError("a limit of time is not positive", got=min(row_limit_s, budget_s), wanted="seconds")
    require_device(device)


def require_figures(report: BenchReport) -> None:
    """LimbeckError where not a single row was measured."""
    reasons = [row.skipped for row in report.rows]
    if report.rows and all(reasons):
        raise LimbeckError("nothing could be measured", got=reasons[0])
