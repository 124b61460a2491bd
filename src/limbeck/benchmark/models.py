"""Who is measured: students by engine, and a teacher; students of the same elements side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.artifact.file import StudentFile
from limbeck.benchmark.process import ProcessSubject
from limbeck.benchmark.rows import Model
from limbeck.core.structures import StructureBatch
from limbeck.core.timing import Subject, Unmeasured
from limbeck.errors import LimbeckError
from limbeck.runtime.released import find_student
from limbeck.teachers.custom import is_custom
from limbeck.teachers.environments import OWN, find_interpreter
from limbeck.teachers.registry import check_supported, check_teacher, get_card

NO_TEACHER = "none"  #: the name that asks for no teacher


@dataclass(frozen=True)
class TeacherChoice:
    """A teacher as the configuration names it: see ``open_teacher``."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    python: Path | None = None
    trust: bool = False


@dataclass(frozen=True)
class Contender:
    """A model, and the student's file or the teacher that it is."""

    model: Model
    source: StudentFile | TeacherChoice

    def open(self, batch: StructureBatch) -> Subject:
        """Start its process; Unmeasured where it cannot be started or is not made for the batch."""
        model, source = self.model, self.source
        opening = {"threads": model.threads, "device": model.device}
        if isinstance(source, StudentFile):
            path = str(source.path.absolute())
            return ProcessSubject(OWN, opening | {"engine": model.engine, "student": path})
        name, options, trust = source.name, dict(source.options), source.trust
        try:
            check_teacher(name, options, trust=trust)
            card = None if is_custom(name) else get_card(name)
            interpreter = find_interpreter(card, source.python, name)
            if card is not None:
                check_supported(card.of(options), batch)
        except LimbeckError as error:
            raise Unmeasured(str(error)) from error
        teacher = {"name": name, "options": options, "trust": trust}
        return ProcessSubject(interpreter, opening | {"teacher": teacher}, working_folder=card is None)


def read_students(names: Sequence[Path | str]) -> list[StudentFile]:
    """Students by file or released name, most parameters first; files of one name get their folder's too.

    Raises
    ------
    InputError: no such student, or a damaged file.
    """
    paths = list(dict.fromkeys(find_student(name) for name in names))
    stems = [path.stem for path in paths]
    found = []
    for path, stem in zip(paths, stems, strict=True):
        name = stem if stems.count(stem) == 1 else f"{path.absolute().parent.name}/{stem}"
        found.append(StudentFile.read(path, name))
    return sorted(found, key=lambda student: -student.parameters)


def by_elements(students: Sequence[StudentFile]) -> list[list[StudentFile]]:
    """Students that can be measured on the same systems, in the order given."""
    groups: dict[tuple[int, ...], list[StudentFile]] = {}
    for student in students:
        groups.setdefault(tuple(student.architecture.elements), []).append(student)
    return list(groups.values())


def make_contenders(
    students: Sequence[StudentFile], engines: Sequence[str], teacher: TeacherChoice | None,
    threads: int, device: str,
) -> list[Contender]:  # fmt: skip
    """The teacher, and every student by every engine, in float32; the native engine stays on the CPU."""
    made = [] if teacher is None else [Contender(Model(teacher.name, "teacher", device, threads), teacher)]
    for engine in engines:
        for student in students:
            model = Model(
                student.name, engine, "cpu" if engine == "native" else device, threads,
                preset=student.card.get("preset"), parameters=student.parameters,
                sha256=student.sha256,
            )  # fmt: skip
            made.append(Contender(model, student))
    return made


def card_teacher(students: Sequence[StudentFile]) -> TeacherChoice | None:
    """The teacher that the first card with one names; its options stand there as JSON.

    A student of one's own labels has none: its card says ``labels of FILE``.
    """
    for student in students:
        teacher = student.card.get("teacher") or {}
        if teacher.get("name") and not str(teacher["name"]).startswith("labels of "):
            return TeacherChoice(str(teacher["name"]), json.loads(teacher.get("options") or "{}"))
    return None
