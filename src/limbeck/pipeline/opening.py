"""What a command begins with: starting structures, and a teacher that is made for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from limbeck.config import DistillConfig, TeacherConfig
from limbeck.core.checks import check_structures
from limbeck.core.kinds import LEAST_MOLECULES, finite_molecules, structure_kind
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.labelling.config import LabellingConfig
from limbeck.labelling.remote import WorkerPotential, open_teacher
from limbeck.pipeline.lengths import check_lengths
from limbeck.sampling.config import SamplingConfig
from limbeck.sampling.frames import thin
from limbeck.sampling.liquids import pack_liquid
from limbeck.sampling.preparing import Relax
from limbeck.sampling.starts import bulk_structure, read_folder, read_structures, smiles_conformers
from limbeck.teachers.custom import is_custom
from limbeck.teachers.registry import get_card
from limbeck.teachers.support import check_supported

MOST_STARTS = 200  #: frames of a file; more are thinned to so many
#: steps enough to take apart what packing put too close, without a search for the minimum
PACKED_RELAX = Relax(fmax_ev_per_a=1.0, steps=40)


def starting_structures(config: DistillConfig, notes: list[str] | None = None) -> list[Atoms]:
    """The structures a run begins with, checked; ``notes``: what was left out is added."""
    notes = [] if notes is None else notes
    if config.structures is not None:
        starts, where = _read(config.structures, notes), str(config.structures)
    elif config.smiles is not None:
        starts = smiles_conformers(config.smiles, config.n_conformers, config.seed)
        where = f"SMILES {config.smiles}"
    elif config.liquid is not None:
        starts, where = pack_liquid(config.liquid, config.seed), "--liquid"
    else:
        starts, where = [bulk_structure(str(config.bulk))], f"bulk {config.bulk}"
    check_structures(starts, where)
    if all(len(a) == 1 and structure_kind(a) != "crystal" for a in starts):
        raise InputError(
            "a single atom has no forces to learn from",
            where=where,
            got=starts[0].get_chemical_formula(),
            wanted="a molecule or a crystal",
        )
    notes += [*check_lengths(starts, where), *_left_behind(starts, where)]
    return starts


def _left_behind(starts: Sequence[Atoms], where: str) -> list[str]:
    """Notes on what a file said and sampling does not keep, or did not say."""
    notes = []
    fixed = sum(bool(atoms.constraints) for atoms in starts)
    if fixed:
        some = "" if fixed == len(starts) else f" of {fixed} structures"
        notes.append(f"{where}: constraints{some} (selective dynamics) are not kept: all atoms move")
    for k, atoms in enumerate(starts):
        if len(atoms) <= LEAST_MOLECULES or atoms.pbc.any():
            continue
        molecules = len(finite_molecules(atoms))
        if molecules >= LEAST_MOLECULES:
            notes.append(
                f"{where}: structure {k} holds {molecules} separate molecules and no cell, so it is sampled "
                'as a cluster in vacuum; for a liquid give its cell (Lattice="..." pbc="T T T" in extended '
                "XYZ), or --liquid"
            )
            break
    return notes


def _read(path: Path, notes: list[str]) -> list[Atoms]:
    if path.is_dir():
        starts, others = read_folder(path)
        if others:
            names = ", ".join(others[:5]) + ", ..." * (len(others) > 5)
            notes.append(f"{path}: {len(others)} files are no structures by their names: {names}")
    else:
        starts = read_structures(path)
    if len(starts) > MOST_STARTS:
        kept = thin(starts, MOST_STARTS)
        notes.append(f"{path}: {len(kept)} of {len(starts)} frames are starting structures, evenly spaced")
        return kept
    return starts


def relaxed_first(config: DistillConfig, sampling: SamplingConfig) -> SamplingConfig:
    """The sampling after a short relaxation of packed boxes, unless it begins with one of its own."""
    packed = config.liquid is not None and config.teacher is not None
    if not packed or any(isinstance(step, Relax) for step in sampling.steps):
        return sampling
    return SamplingConfig.model_validate(dict(sampling) | {"steps": (PACKED_RELAX, *sampling.steps)})


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
