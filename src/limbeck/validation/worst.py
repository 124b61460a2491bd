"""The frames with the largest force errors as a file: what to look at, and what to label more of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from limbeck.core.frames import write_frames
from limbeck.core.labels import LabelledSet
from limbeck.errors import InputError
from limbeck.records.metrics import ValidationReport
from limbeck.validation.metrics import select_labels

FORCES, ENERGY, STRESS = "student_forces", "student_energy", "student_stress"


def worst_atoms(report: ValidationReport, labelled: LabelledSet, student: str) -> list[Atoms]:
    """The frames of ``report.worst``, worst first, with reference labels and the student's answers.

    Reference labels stand where labels always do, so the file can be labelled anew, trained on or
    validated on. Beside them: arrays ``student_forces`` (eV/Å), ``info`` ``student_energy`` (eV),
    ``student_stress`` (eV/Å³, where periodic), ``student``, ``frame`` (its number in the file) and
    ``force_rmse_mev_per_a``.
    """
    index = list(report.worst_places)
    chosen = labelled.select(index)
    predicted = select_labels(labelled.structures, report.prediction, np.array(index, dtype=np.int64))
    offsets, periodic = chosen.structures.offsets, chosen.structures.periodic
    frames = chosen.to_atoms()
    for k, (frame, worst) in enumerate(zip(frames, report.worst, strict=True)):
        frame.arrays[FORCES] = predicted.forces[offsets[k] : offsets[k + 1]].copy()
        frame.info[ENERGY] = float(predicted.energy[k])
        if predicted.stress is not None and periodic[k]:
            frame.info[STRESS] = predicted.stress[k].copy()
        frame.info |= {
            "student": student, "frame": worst.index,
            "force_rmse_mev_per_a": round(worst.force_rmse_mev_per_a, 3),
        }  # fmt: skip
    return frames


def check_worst_file(path: Path, data: Path) -> None:
    """Refuse a name that the frames cannot be written to, before anything is evaluated.

    Raises
    ------
    InputError: no extended XYZ, or the file of the reference labels itself.
    """
    if path.suffix.lower() not in (".extxyz", ".xyz"):
        raise InputError(
            "worst frames are written as extended XYZ",
            where=path,
            wanted="a name that ends in .extxyz or .xyz",
        )
    if path.resolve() == data.resolve():
        raise InputError(
            "the worst frames would replace the reference labels", where=path, remedy="choose another --worst"
        )


def write_worst(path: Path, frames: Sequence[Atoms]) -> None:
    """Write the frames whole."""
    write_frames(path, frames)
