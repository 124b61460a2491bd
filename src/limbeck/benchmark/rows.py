"""One row of a benchmark: what was measured of one model on one batch, or why it was not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from limbeck.core.timing import Timing, speedup


@dataclass(frozen=True)
class Model:
    """What a row is about.

    Attributes
    ----------
    name: of the student or teacher. preset, parameters: None where unknown.
    engine: ``native``, ``torch`` or ``teacher``.
    device: cpu or cuda. threads: that it may use. sha256: of the student's file.
    """

    name: str
    engine: str
    device: str
    threads: int
    preset: str | None = None
    parameters: int | None = None
    sha256: str | None = None

    @property
    def is_teacher(self) -> bool:
        return self.engine == "teacher"


@dataclass(frozen=True)
class Row:
    """One line of ``bench.json``; its fields are the keys there.

    Attributes
    ----------
    atoms: of one structure. batch: structures in one call.
    latency_ms_median, latency_ms_iqr: of a call; the distance between the quartiles.
    structures_per_s, atoms_per_s: at the median; of all atoms of the batch.
    speedup_vs_teacher: median over rounds of the teacher's time over this one's in the same round.
    skipped: why there are no figures, else None. student_sha256: of the student's file.
    """

    model: str
    preset: str | None
    parameters: int | None
    engine: str
    device: str
    threads: int
    system: str
    atoms: int
    batch: int
    latency_ms_median: float | None = None
    latency_ms_iqr: float | None = None
    structures_per_s: float | None = None
    atoms_per_s: float | None = None
    peak_memory_mb: float | None = None
    speedup_vs_teacher: float | None = None
    skipped: str | None = None
    student_sha256: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_row(
    model: Model, system: str, atoms: int, batch: int, result: Timing | str, teacher: Timing | None = None
) -> Row:
    """A row from its timing, or from the reason that there is none.

    Parameters
    ----------
    teacher: the teacher's timing on the same batch, where it has one.
    """
    figures: dict[str, Any] = {"skipped": result}
    if not isinstance(result, str):
        low, median, high = np.quantile(result.seconds, (0.25, 0.5, 0.75))
        figures = {
            "latency_ms_median": float(1e3 * median),
            "latency_ms_iqr": float(1e3 * (high - low)),
            "structures_per_s": float(batch / median),
            "atoms_per_s": float(atoms * batch / median),
            "peak_memory_mb": result.peak_memory_mb,
            "speedup_vs_teacher": None if teacher is None else speedup(teacher.rounds, result.rounds),
        }
    return Row(
        model.name, model.preset, model.parameters, model.engine, model.device, model.threads,
        system, atoms, batch, student_sha256=model.sha256, **figures,
    )  # fmt: skip
