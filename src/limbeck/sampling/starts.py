"""Starting structures: from files and folders, from ASE's reference crystals, from SMILES.

Each start begins an group: ``mine.cif#0``, ``Si#0``, ``smiles#3``. Frames that follow each
other in a trajectory share groups (``run.traj#0-39``), because they resemble each other: were
they groups of their own, a split would put neighbours in time on both sides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from limbeck.core.charge import write_charge
from limbeck.core.checks import check_structures
from limbeck.core.reading import read_any
from limbeck.errors import InputError, LimbeckError, MissingPackageError

_PRUNE_RMSD_A = 0.3  # heavy atoms; closer conformers relax to the same minimum as a rule
_EMBEDDINGS_PER_CONFORMER = 4
#: files that a folder of structures is read for: by suffix, or by how their name begins
_SUFFIXES = frozenset(
    ".cif .vasp .poscar .contcar .xyz .extxyz .traj .pdb .xsf .res .cell .gen .gro .mol .sdf .cml".split()
)
_NAMES = ("poscar", "contcar")
_NEAR_A = 1.0  # root mean square of the displacements between two frames of a trajectory
_GROUPS_PER_TRAJECTORY, _FRAMES_PER_GROUP = 5, 5  # at most, at least


def read_structures(path: Path | str) -> list[Atoms]:
    """Every structure of a file that ASE reads, checked, each with its group.

    Raises
    ------
    InputError: missing, empty or unreadable file, or a structure that
        :func:`~limbeck.core.checks.check_structures` refuses.
    """
    frames = read_any(path)
    check_structures(frames, str(path))
    breaks = [k for k in range(1, len(frames)) if not _follows(frames[k - 1], frames[k])]
    for first, end in zip([0, *breaks], [*breaks, len(frames)], strict=True):
        # few groups of several frames each, so that most neighbours in time are in the same one
        length = end - first
        block = -(-length // min(_GROUPS_PER_TRAJECTORY, max(1, length // _FRAMES_PER_GROUP)))
        for low in range(first, end, block):
            high = min(low + block, end)
            name = f"{low}" if length == 1 else f"{low}-{high - 1}"
            for frame in frames[low:high]:
                frame.info.setdefault("group", f"{Path(path).name}#{name}")
    return frames


def _follows(before: Atoms, after: Atoms) -> bool:
    """Whether the same atoms have moved by 1 Å or less, as a whole or past a periodic face left aside."""
    if not np.array_equal(before.numbers, after.numbers) or (before.pbc != after.pbc).any():
        return False
    moved = after.positions - before.positions  # (N, 3)
    if before.pbc.any():
        cell, old_cell = after.cell.complete().array, before.cell.complete().array
        # through fractions, so that a cell that breathes counts as no displacement
        fraction = after.positions @ np.linalg.inv(cell) - before.positions @ np.linalg.inv(old_cell)
        moved = (fraction - np.where(after.pbc, np.round(fraction), 0.0)) @ cell
    moved -= moved.mean(axis=0)
    return float(np.sqrt((moved**2).sum(axis=1).mean())) <= _NEAR_A


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
        wanted = "files such as *.cif, *.vasp, POSCAR*, *.xyz, *.traj"
        raise InputError(
            "no structure file in the folder", where=folder, got=f"{len(files)} files", wanted=wanted
        )
    frames: list[Atoms] = []
    bad: dict[str, LimbeckError] = {}
    for file in chosen:
        try:
            frames += read_structures(file)
        except LimbeckError as error:
            bad[file.name] = error
    if bad:
        raise InputError(
            f"{len(bad)} of {len(chosen)} structure files cannot be used",
            where=folder,
            got=f"{', '.join(bad)}; the first: {next(iter(bad.values()))}",
            remedy="mend them or take them out of the folder",
        )
    return frames, [f.name for f in files if f not in chosen]


def bulk_structure(symbol: str) -> Atoms:
    """The reference crystal of an element: its conventional cubic cell, else the primitive one.

    Raises
    ------
    InputError: no such element, or ASE has no bulk reference for it.
    """
    from ase.build import bulk

    if symbol not in chemical_symbols[1:]:
        compound = _is_formula(symbol)
        remedy = "give the compound's crystal as a file, such as a CIF, with --structures"
        raise InputError(
            "a compound has no reference crystal here" if compound else "no such element",
            where="--bulk",
            got=repr(symbol),
            wanted="the symbol of one element such as Si",
            remedy=remedy if compound else None,
        )
    for cubic in (True, False):
        try:
            atoms = bulk(symbol, cubic=cubic)
        except (ValueError, RuntimeError):
            continue
        atoms.info["group"] = f"{symbol}#0"
        return atoms
    raise InputError(
        "no bulk reference structure for the element",
        where="--bulk",
        got=symbol,
        wanted="an element that is fcc, bcc, hcp, diamond or sc at its reference state",
        remedy="give the crystal as a file with --structures",
    )


def _is_formula(text: str) -> bool:
    """Whether it reads as a formula of known elements."""
    try:
        numbers = Atoms(text).numbers
    except (KeyError, ValueError):
        return False
    return len(numbers) > 1 and bool((numbers > 0).all())


def smiles_conformers(smiles: str, n: int = 1, seed: int = 0, where: str = "--smiles") -> list[Atoms]:
    """Up to ``n`` distinct conformers of a molecule, hydrogens added, lowest in energy first.

    ETKDGv3 embedding (Wang et al. 2020, doi:10.1021/acs.jcim.0c00025), then MMFF94, or UFF where
    MMFF has no parameters. Conformers within 0.3 Å RMSD of the heavy atoms count once.

    Returns
    -------
    Structures without a cell, in Å; ``info["charge"]`` is the formal charge where it is not zero.

    Raises
    ------
    InputError: the SMILES cannot be read, or no conformer can be embedded; ``where`` begins the message.
    MissingPackageError: RDKit is not installed.
    """
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        remedy = "pip install -c constraints.txt -e '.[molecules]'"
        raise MissingPackageError(
            "RDKit is not installed", where=where, wanted="the package rdkit", remedy=remedy
        ) from error
    if n < 1:
        raise InputError("the number of conformers is not positive", where=where, got=n, wanted="1 or more")
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles) if smiles.strip() else None
        if molecule is None:
            raise InputError("not a SMILES", where=where, got=repr(smiles), wanted="a SMILES such as 'CCO'")
        if (parts := len(Chem.GetMolFrags(molecule))) > 1:
            raise InputError(
                "a SMILES of several molecules",
                where=where,
                got=f"{smiles!r}, {parts} molecules",
                wanted="one molecule, without a dot",
                remedy="give the complex as a file with --structures, or the molecules of a liquid one by "
                "one, such as --liquid '4 [Na+], 4 [Cl-], 60 O'",
            )
        molecule = Chem.AddHs(molecule)
        kept = _embed(molecule, n, seed)
    if not kept:
        raise InputError(
            "RDKit cannot embed the molecule",
            where=where,
            got=repr(smiles),
            wanted="a molecule with a three-dimensional structure",
            remedy="give it as a file with --structures",
        )
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    frames = []
    for k, conformer in enumerate(kept):
        atoms = Atoms(numbers, molecule.GetConformer(conformer).GetPositions())
        atoms.info["group"] = f"smiles#{k}"
        write_charge(atoms.info, Chem.GetFormalCharge(molecule))
        frames.append(atoms)
    return frames


def _embed(molecule: Any, n: int, seed: int) -> list[int]:
    """Embed and relax; ids of up to ``n`` conformers beyond the pruning RMSD of each other, lowest first."""
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom, rdMolAlign
    from rdkit.Chem import rdForceFieldHelpers as force_fields

    settings: Any = rdDistGeom.ETKDGv3()
    # RDKit multiplies the seed by the number of each embedding, so that zero makes all alike
    settings.randomSeed = seed + 1
    settings.numThreads = 1  # the conformers then depend on the seed alone
    ids = list(rdDistGeom.EmbedMultipleConfs(molecule, n * _EMBEDDINGS_PER_CONFORMER, settings))
    outcome = [(0, 0.0)] * len(ids)
    if force_fields.MMFFHasAllMoleculeParams(molecule):
        outcome = force_fields.MMFFOptimizeMoleculeConfs(molecule, maxIters=1000)
    elif force_fields.UFFHasAllMoleculeParams(molecule):
        outcome = force_fields.UFFOptimizeMoleculeConfs(molecule, maxIters=1000)
    heavy = Chem.RemoveAllHs(molecule)
    probe = heavy if heavy.GetNumAtoms() > 2 else molecule
    kept: list[int] = []
    for _, k in sorted(zip((energy for _, energy in outcome), ids, strict=True), key=lambda pair: pair[0]):
        # Each conformer is compared through copies, because GetBestRMS aligns the probe in place.
        if len(kept) < n and all(
            rdMolAlign.GetBestRMS(Chem.Mol(probe), probe, prbId=k, refId=other, maxMatches=1000)
            > _PRUNE_RMSD_A
            for other in kept
        ):
            kept.append(k)
    return kept
