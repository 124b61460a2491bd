"""What a command begins with: starting structures, checked, and a teacher that is made for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from limbeck.config import DistillConfig, TeacherConfig
from limbeck.core.checks import check_structures
from limbeck.core.frames import thin
from limbeck.core.kinds import LEAST_MOLECULES, finite_molecules, structure_kind
from limbeck.core.structures import StructureBatch
from limbeck.dataset.lint.bonds import CUTOFF_A, nearest_bonds
from limbeck.errors import InputError
from limbeck.labelling.config import LabellingConfig
from limbeck.labelling.remote import WorkerPotential, open_teacher
from limbeck.sampling import (
    Relax,
    SamplingConfig,
    bulk_structure,
    pack_liquid,
    read_folder,
    read_structures,
    smiles_conformers,
)
from limbeck.teachers.custom import is_custom
from limbeck.teachers.registry import check_supported, get_card

MOST_STARTS = 200  #: frames of a file; more are thinned to this number
#: steps enough to take apart what packing put too close, without a search for the minimum
PACKED_RELAX = Relax(fmax_ev_per_a=1.0, steps=40)
_NOBLE = (2, 10, 18, 36, 54, 86)
_NEAR, _FAR = 0.55, 2.5  # sums of covalent radii; the shortest real bonds, hydrogen's aside, have 0.85
_BOHR = 1.55, 2.5  # where bonds come to lie that are given in bohr; metals have up to 1.2


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


def check_lengths(starts: Sequence[Atoms], where: str) -> list[str]:
    """Notes on distances that no structure has: lengths in another unit, or a cell of a guess.

    Single atoms without neighbours say nothing.

    Raises
    ------
    InputError: half of all atoms are nearer to one another than any are: the unit is another one.
    """
    batch = StructureBatch.from_atoms(list(starts))
    bonds = nearest_bonds(batch)
    structure = batch.structure_of_atom
    compared = (batch.counts[structure] > 1) | batch.periodic[structure]
    compared &= ~np.isin(batch.numbers, _NOBLE)
    if not compared.any():
        return []
    ratio = np.where(compared, bonds.ratio, np.nan)
    middle, nearest = float(np.nanmedian(ratio)), int(np.nanargmin(ratio))
    pair = "-".join(chemical_symbols[batch.numbers[k]] for k in (nearest, int(bonds.other[nearest])))
    measured = f"{pair} at {bonds.distance[nearest]:.2f} Å, {ratio[nearest]:.2f} of the sum of covalent radii"
    if middle < _NEAR:
        raise InputError(
            "atoms are nearer to one another than in any material",
            where=where,
            got=measured,
            wanted=f"lengths in Å, from about {_NEAR:g} of that sum on",
            remedy="check the cell and the unit: lengths in nm are ten times larger in Å, and a file that "
            "was converted from bohr twice has 0.53 of its lengths",
        )
    notes = []
    if ratio[nearest] < _NEAR:
        notes.append(f"{where}: atoms are very near one another ({measured}); check that this is meant")
    if _BOHR[0] < middle < _BOHR[1]:
        notes.append(
            f"{where}: nearest neighbours are {middle:.2f} times the sum of their covalent radii apart, as "
            "if lengths were in bohr (1 bohr = 0.529177 Å); they are taken as Å"
        )
    elif middle >= _FAR:
        far = f"{middle:.2f} times that sum" if np.isfinite(middle) else f"more than {CUTOFF_A:g} Å"
        notes.append(
            f"{where}: most atoms have no neighbour (the nearest is {far} away where covalent radii touch "
            "at 1); check the cell and the unit of lengths, Å"
        )
    return notes


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
