"""Who is measured: students by engine, and a teacher; students of the same elements side by side."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from limbeck.artifact.file import read_card
from limbeck.benchmark.process import ProcessSubject
from limbeck.benchmark.rows import Model
from limbeck.core.hashing import hash_file
from limbeck.core.structures import StructureBatch
from limbeck.core.timing import Subject, Unmeasured
from limbeck.errors import LimbeckError
from limbeck.runtime.released import find_student
from limbeck.students.specification import Architecture
from limbeck.teachers.custom import is_custom
from limbeck.teachers.environments import OWN, find_interpreter
from limbeck.teachers.registry import check_teacher, get_card
from limbeck.teachers.support import check_supported

NO_TEACHER = "none"  #: the name that asks for no teacher


@dataclass(frozen=True)
class TeacherChoice:
    """A teacher as the configuration names it: see ``open_teacher``."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    python: Path | None = None
    trust: bool = False


@dataclass(frozen=True)
class StudentFile:
    """A student to be measured: its file and card, and a name that no other one here has."""

    path: Path
    card: Mapping[str, Any]
    name: str

    @property
    def architecture(self) -> Architecture:
        return Architecture.from_dict(self.card["architecture"])


@dataclass(frozen=True)
class Contender:
    """A model and how it is opened for a batch (Unmeasured where it cannot be)."""

    model: Model
    open: Callable[[StructureBatch], Subject]


def read_students(names: Sequence[Path | str]) -> list[StudentFile]:
    """Students by file or released name, most parameters first; files of one name get their folder's too.

    Raises
    ------
    InputError: no such student, or a damaged file.
    """
    paths = list(dict.fromkeys(find_student(name) for name in names))
    stems = [path.stem for path in paths]
    found = [
        StudentFile(
            path,
            read_card(path),
            path.stem if stems.count(path.stem) == 1 else f"{path.absolute().parent.name}/{path.stem}",
        )
        for path in paths
    ]
    return sorted(found, key=lambda student: -student.architecture.n_parameters)


def by_elements(students: Sequence[StudentFile]) -> list[list[StudentFile]]:
    """Students that can be measured on the same systems, in the order given."""
    groups: dict[tuple[int, ...], list[StudentFile]] = {}
    for student in students:
        groups.setdefault(tuple(student.architecture.elements), []).append(student)
    return list(groups.values())


def student_contenders(
    students: Sequence[StudentFile], engines: Sequence[str], threads: int, device: str
) -> list[Contender]:
    """Every student by every engine, in float32; the native engine stays on the CPU."""
    made = []
    for engine in engines:
        for student in students:
            place = "cpu" if engine == "native" else device
            model = Model(
                name=student.name,
                engine=engine,
                device=place,
                threads=threads,
                preset=student.card.get("preset"),
                parameters=student.architecture.n_parameters,
                sha256=hash_file(student.path),
            )
            opening = {
                "engine": engine,
                "student": str(student.path.absolute()),
                "device": place,
                "threads": threads,
            }
            made.append(Contender(model, functools.partial(_open_student, opening)))
    return made


def teacher_contender(choice: TeacherChoice, threads: int, device: str) -> Contender:
    """The teacher, in the environment that has it."""
    model = Model(name=choice.name, engine="teacher", device=device, threads=threads)
    return Contender(model, functools.partial(_open_teacher, choice, threads, device))


def with_parameters(contender: Contender, parameters: int | None) -> Contender:
    """The contender once its number of parameters is known."""
    if parameters is None or contender.model.parameters is not None:
        return contender
    return replace(contender, model=replace(contender.model, parameters=parameters))


def card_teacher(students: Sequence[StudentFile]) -> TeacherChoice | None:
    """The teacher that the first card with one names; its options stand there as JSON.

    A student of one's own labels has none: its card says ``labels of FILE``.
    """
    for student in students:
        teacher = student.card.get("teacher") or {}
        if teacher.get("name") and not str(teacher["name"]).startswith("labels of "):
            return TeacherChoice(str(teacher["name"]), json.loads(teacher.get("options") or "{}"))
    return None


def _open_student(opening: Mapping[str, Any], batch: StructureBatch) -> Subject:
    return ProcessSubject(OWN, opening)


def _open_teacher(choice: TeacherChoice, threads: int, device: str, batch: StructureBatch) -> Subject:
    try:
        check_teacher(choice.name, choice.options, trust=choice.trust)
        card = None if is_custom(choice.name) else get_card(choice.name)
        interpreter = find_interpreter(card, choice.python, choice.name)
        if card is not None:
            check_supported(card.of(choice.options), batch)
    except LimbeckError as error:
        raise Unmeasured(str(error)) from error
    opening = {
        "engine": "teacher",
        "teacher": choice.name,
        "options": dict(choice.options),
        "trust": choice.trust,
        "device": device,
        "threads": threads,
    }
    return ProcessSubject(interpreter, opening, working_folder=card is None)
