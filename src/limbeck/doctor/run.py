"""The whole examination."""

from __future__ import annotations

import platform

from limbeck import __version__
from limbeck.core.machine import vector_instructions
from limbeck.doctor.engine import check_compiler, check_core
from limbeck.doctor.findings import Diagnosis
from limbeck.doctor.packages import check_exporters, check_optional, check_teachers
from limbeck.doctor.surroundings import check_home, check_threads, check_torch, check_vectors


def examine() -> Diagnosis:
    """Look at everything; takes about a second, imports neither torch nor a teacher, and writes nothing."""
    compiler = check_compiler()
    has_compiler = compiler.status == "ok"
    return Diagnosis(
        versions={"limbeck": __version__, "python": platform.python_version()},
        findings=(
            check_core(has_compiler, vector_instructions()),
            compiler,
            check_threads(),
            check_vectors(),
            check_torch(),
            *check_teachers(),
            *check_exporters(has_compiler),
            *check_optional(),
            check_home(),
        ),
    )
