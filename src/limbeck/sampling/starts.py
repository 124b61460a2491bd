"""Starting structures: from files and folders, from ASE's reference crystals, from SMILES.

Each start begins an origin family: ``mine.cif#0``, ``Si#0``, ``smiles#3``. Frames that follow each
other in a trajectory share families (``run.traj#0-39``), because they resemble each other: were
they families of their own, a split would put neighbours in time on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols

from limbeck.core.charge import write_charge
from limbeck.core.checks import check_structures
from limbeck.core.reading import read_any
from limbeck.errors import InputError, LimbeckError, MissingPackageError
from limbeck.units import G_PER_CM3

_PRUNE_RMSD_A = 0.3  # heavy atoms; closer conformers relax to the same minimum as a rule
_EMBEDDINGS_PER_CONFORMER = 4


#: files that a folder of structures is read for: by suffix, or by how their name begins
_SUFFIXES = frozenset(
    ".cif .vasp .poscar .contcar .xyz .extxyz .traj .pdb .xsf .res .cell .gen .gro .mol .sdf .cml".split()
)
_NAMES = ("poscar", "contcar")
_NEAR_A = 1.0  # root mean square of the displacements between two frames of a trajectory
_FAMILIES_PER_TRAJECTORY, _FRAMES_PER_FAMILY = 5, 5  # at most, at least


def read_structures(path: Path | str) -> list[Atoms]:
    """Every structure of a file that ASE reads, checked, each with its family.

    Raises
    ------
    InputError: missing, empty or unreadable file, or a structure that
        :func:`~limbeck.core.checks.check_structures` refuses.
    """
    frames = read_any(path)
    check_structures(frames, str(path))
    for first, length in _trajectories(frames):
        # few families of several frames each, so that most neighbours in time are in the same one
        block = -(-length // min(_FAMILIES_PER_TRAJECTORY, max(1, length // _FRAMES_PER_FAMILY)))
        for k in range(length):
            low = first + k - k % block
            high = min(low + block, first + length) - 1
            name = f"{low}" if length == 1 else f"{low}-{high}"
            frames[first + k].info.setdefault("family", f"{Path(path).name}#{name}")
    return frames


def read_folder(folder: Path | str) -> tuple[list[Atoms], list[str]]:
    """The structures of every structure file of a folder, sorted by name, and the files left out.

    Files count as structures by their names (``.cif``, ``.vasp``, ``POSCAR*``, ``.xyz``, ``.traj``...);
    folders in the folder, hidden files and all others are left out.

    Raises
    ------
    InputError: no such folder, no structure file, or files that cannot be used: all are named.
    """
    folder = Path(folder)
    try:
        files = sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))
    except OSError as error:
        raise InputError("cannot read the folder", where=folder, got=error.strerror) from error
    chosen = [f for f in files if f.suffix.lower() in _SUFFIXES or f.name.lower().startswith(_NAMES)]
    if not chosen:
        raise InputError(
            "no structure file in the folder",
            where=folder,
            got=f"{len(files)} files",
            wanted="files such as *.cif, *.vasp, POSCAR*, *.xyz, *.traj",
        )
    frames: list[Atoms] = []
    bad: list[tuple[str, LimbeckError]] = []
    for file in chosen:
        try:
            frames += read_structures(file)
        except LimbeckError as error:
            bad.append((file.name, error))
    if bad:
        names = ", ".join(name for name, _ in bad)
        raise InputError(
            f"{len(bad)} of {len(chosen)} structure files cannot be used",
            where=folder,
            got=f"{names}; the first: {bad[0][1]}",
            remedy="mend them or take them out of the folder",
        )
    return frames, [f.name for f in files if f not in chosen]


def _trajectories(frames: Sequence[Atoms]) -> list[tuple[int, int]]:
    """(first, length) of each run of frames that follow each other; 1 for a frame on its own."""
    starts = [0] + [k for k in range(1, len(frames)) if not _follows(frames[k - 1], frames[k])]
    return [(a, b - a) for a, b in zip(starts, [*starts[1:], len(frames)], strict=True)]


def _follows(before: Atoms, after: Atoms) -> bool:
    """Whether the same atoms have moved by 1 Å or less, as a whole or past a periodic face left aside."""
    if len(before) != len(after) or (before.numbers != after.numbers).any():
        return False
    if (before.pbc != after.pbc).any():
        return False
    moved = after.positions - before.positions  # (N, 3)
    if before.pbc.any():
        inverse = np.linalg.inv(after.cell.complete().array)
        # through fractions, so that a cell that breathes counts as no displacement
        fraction = after.positions @ inverse - before.positions @ np.linalg.inv(before.cell.complete().array)
        fraction -= np.where(after.pbc, np.round(fraction), 0.0)
        moved = fraction @ after.cell.complete().array
    moved = moved - moved.mean(axis=0)
    return float(np.sqrt((moved**2).sum(axis=1).mean())) <= _NEAR_A


def bulk_structure(symbol: str) -> Atoms:
    """The reference crystal of an element: its conventional cubic cell, else the primitive one.

    Raises
    ------
    InputError: no such element, or ASE has no bulk reference for it.
    """
    from ase.build import bulk

    if symbol not in chemical_symbols[1:]:
        compound = _is_formula(symbol)
        raise InputError(
            "a compound has no reference crystal here" if compound else "no such element",
            where="--bulk",
            got=repr(symbol),
            wanted="the symbol of one element such as Si",
            remedy="give the compound's crystal as a file, such as a CIF, with --structures"
            if compound
            else None,
        )
    for cubic in (True, False):
        try:
            atoms = bulk(symbol, cubic=cubic)
        except (ValueError, RuntimeError):
            continue
        atoms.info["family"] = f"{symbol}#0"
        return atoms
    raise InputError(
        "no bulk reference structure for the element",
        where="--bulk",
        got=symbol,
        wanted="an element that is fcc, bcc, hcp, diamond or sc at its reference state",
        remedy="give the crystal as a file with --structures",
    )


def set_density(atoms: Atoms, density_g_per_cm3: float) -> None:
    """Stretch a periodic structure to a density, its atoms with it."""
    wanted = atomic_masses[atoms.numbers].sum() * G_PER_CM3 / density_g_per_cm3  # Å³
    atoms.set_cell(atoms.cell.array * (wanted / atoms.get_volume()) ** (1 / 3), scale_atoms=True)


def _is_formula(text: str) -> bool:
    """Whether it reads as a formula of known elements."""
    try:
        numbers = Atoms(text).numbers
    except (KeyError, ValueError):
        return False
    return len(numbers) > 1 and bool((numbers > 0).all())


def smiles_conformers(smiles: str, n: int = 1, seed: int = 0) -> list[Atoms]:
    """Up to ``n`` distinct conformers of a molecule, hydrogens added, lowest in energy first.

    ETKDGv3 embedding (Wang et al. 2020, doi:10.1021/acs.jcim.0c00025), then MMFF94, or UFF where
    MMFF has no parameters. Conformers within 0.3 Å RMSD of the heavy atoms count once.

    Returns
    -------
    Structures without a cell, in Å; ``info["charge"]`` is the formal charge where it is not zero.

    Raises
    ------
    InputError: the SMILES cannot be read, or no conformer can be embedded.
    MissingPackageError: RDKit is not installed.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdDistGeom
    except ImportError as error:
        raise MissingPackageError(
            "RDKit is not installed",
            where="--smiles",
            wanted="the package rdkit",
            remedy="pip install -c constraints.txt -e '.[molecules]'",
        ) from error
    if n < 1:
        raise InputError(
            "the number of conformers is not positive", where="--smiles", got=n, wanted="1 or more"
        )
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles) if smiles.strip() else None
        if molecule is None:
            raise InputError(
                "not a SMILES", where="--smiles", got=repr(smiles), wanted="a SMILES such as 'CCO'"
            )
        if (parts := len(Chem.GetMolFrags(molecule))) > 1:
            raise InputError(
                "a SMILES of several molecules",
                where="--smiles",
                got=f"{smiles!r}, {parts} molecules",
                wanted="one molecule, without a dot",
                remedy="give the complex as a file with --structures, or the molecules of a liquid one by "
                "one, such as --liquid '4 [Na+], 4 [Cl-], 60 O'",
            )
        molecule = Chem.AddHs(molecule)
        settings: Any = rdDistGeom.ETKDGv3()
        # RDKit multiplies the seed by the number of each embedding, so that zero makes all alike
        settings.randomSeed = seed + 1
        settings.numThreads = 1  # the conformers then depend on the seed alone
        rdDistGeom.EmbedMultipleConfs(molecule, n * _EMBEDDINGS_PER_CONFORMER, settings)
        if not molecule.GetNumConformers():
            raise InputError(
                "RDKit cannot embed the molecule",
                where="--smiles",
                got=repr(smiles),
                wanted="a molecule with a three-dimensional structure",
                remedy="give it as a file with --structures",
            )
        kept = _distinct(molecule, _optimise(molecule), n)
    charge = Chem.GetFormalCharge(molecule)
    frames = []
    for k, conformer in enumerate(kept):
        atoms = Atoms(
            numbers=[atom.GetAtomicNum() for atom in molecule.GetAtoms()],
            positions=molecule.GetConformer(conformer).GetPositions(),
        )
        atoms.info["family"] = f"smiles#{k}"
        write_charge(atoms.info, charge)
        frames.append(atoms)
    return frames


def _optimise(molecule: Any) -> list[int]:
    """Relax every conformer in place; their ids, lowest energy first."""
    from rdkit.Chem import rdForceFieldHelpers as force_fields

    if force_fields.MMFFHasAllMoleculeParams(molecule):
        outcome = force_fields.MMFFOptimizeMoleculeConfs(molecule, maxIters=1000)
    elif force_fields.UFFHasAllMoleculeParams(molecule):
        outcome = force_fields.UFFOptimizeMoleculeConfs(molecule, maxIters=1000)
    else:
        outcome = [(0, 0.0)] * molecule.GetNumConformers()
    ids = [conformer.GetId() for conformer in molecule.GetConformers()]
    energies = [energy for _, energy in outcome]
    return [ids[k] for k in sorted(range(len(ids)), key=energies.__getitem__)]


def _distinct(molecule: Any, ids: list[int], n: int) -> list[int]:
    """The first ``n`` of ``ids`` that differ from those before by more than the pruning RMSD."""
    from rdkit import Chem
    from rdkit.Chem import rdMolAlign

    heavy = Chem.RemoveAllHs(molecule)
    probe = heavy if heavy.GetNumAtoms() > 2 else molecule
    kept: list[int] = []
    for k in ids:
        # Each conformer is compared through copies, because GetBestRMS aligns the probe in place.
        far = all(
            rdMolAlign.GetBestRMS(Chem.Mol(probe), probe, prbId=k, refId=other, maxMatches=1000)
            > _PRUNE_RMSD_A
            for other in kept
        )
        if far:
            kept.append(k)
        if len(kept) == n:
            break
    return kept
