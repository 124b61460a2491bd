"""What a command begins with: starting structures, and a teacher that is made for them."""

from __future__ import annotations

from collections.abc import Sequence

from ase import Atoms

from limbeck.config import DistillConfig, TeacherConfig
from limbeck.core.checks import check_structures
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.labelling.config import LabellingConfig
from limbeck.labelling.remote import WorkerPotential, open_teacher
from limbeck.pipeline.defaults import is_crystal
from limbeck.sampling.starts import bulk_structure, read_structures, smiles_conformers
from limbeck.teachers.custom import is_custom
from limbeck.teachers.registry import get_card
from limbeck.teachers.support import check_supported


def starting_structures(config: DistillConfig) -> list[Atoms]:
    """The structures a run begins with, checked."""
    if config.structures is not None:
        starts, where = read_structures(config.structures), str(config.structures)
    elif config.smiles is not None:
        starts = smiles_conformers(config.smiles, config.n_conformers, config.seed)
        where = f"SMILES {config.smiles}"
    else:
        starts, where = [bulk_structure(str(config.bulk))], f"bulk {config.bulk}"
    check_structures(starts, where)
    if all(len(a) == 1 and not is_crystal(a) for a in starts):
        raise InputError(
            "a single atom has no forces to learn from",
            where=where,
            got=starts[0].get_chemical_formula(),
            wanted="a molecule or a crystal",
        )
    return starts


def check_teacher_fits(teacher: TeacherConfig, structures: Sequence[Atoms]) -> None:
    """Refuse what the teacher was not made for, before it is loaded, which may take half a minute.

    Of ``module:callable`` nothing is known at this time.
    """
    if not is_custom(teacher.name):
        check_supported(get_card(teacher.name).of(teacher.options), StructureBatch.from_atoms(structures))


def open_configured(teacher: TeacherConfig, labelling: LabellingConfig) -> WorkerPotential:
    """The teacher of a configuration in its workers; a context manager."""
    return open_teacher(
        teacher.name,
        options=teacher.options,
        workers=labelling.workers,
        threads=labelling.threads,
        device=labelling.device,
        python=teacher.python,
        trust=teacher.trust,
    )
