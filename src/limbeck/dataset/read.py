"""Labelled structures from a label store or from any labelled file that ASE reads."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from limbeck.core.checks import check_one_state, check_structures
from limbeck.core.earlier import provenance
from limbeck.core.labels import LabelledSet, Labels
from limbeck.core.reading import read_any
from limbeck.core.structures import StructureBatch
from limbeck.dataset.unused import warn_of_unused
from limbeck.errors import InputError

SHARD_PATTERN = "shard-*.lbk"
_ISOLATED_WIDTH_A = 8.0  # one atom in a wider cell is no crystal: no element's bond is so long
_ISOLATED_SPREAD_EV = 1e-3


def read_reference(path: Path | str, **keys: Any) -> LabelledSet:
    """Labels to compare with: as :func:`read_labelled` reads them, without isolated atoms.

    Raises
    ------
    InputError: as there; nothing but isolated atoms; energies or forces that are not finite.
    """
    whole = read_labelled(path, **keys)
    structures, labels = whole.structures, whole.labels
    damaged = ~np.isfinite(labels.energy)
    damaged[structures.structure_of_atom[~np.isfinite(labels.forces).all(axis=1)]] = True
    damaged &= structures.counts > 1  # a single atom may come without forces
    if damaged.any():
        raise InputError(
            "reference energies or forces are not finite",
            where=f"{path}, frame {np.flatnonzero(damaged)[0]}",
            got=f"{damaged.sum()} such frames of {len(damaged)}", wanted="finite numbers",
            remedy="leave these frames out; overlapping atoms are the usual cause",
        )  # fmt: skip
    labelled, _ = split_isolated_atoms(whole)
    if not len(labelled):
        raise InputError("nothing to validate on", where=path, got="isolated atoms only")
    return labelled


def read_labelled(
    path: Path | str,
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    virial_key: str | None = None,
) -> LabelledSet:
    """A label store (a folder of shards), or a labelled file.

    Parameters
    ----------
    energy_key, stress_key, virial_key: names of entries in the frames' ``info``.
    forces_key: name of an array. Without a name the attached calculator is asked, which is where
        ASE's readers put labels of the usual names. Units are eV, Å; stress = -virial / volume.

    Returns
    -------
    Groups, steps and temperatures from ``info`` where they are there. Stress rows and atomic
    energies (the calculator's ``energies``) are NaN for structures without; a single atom without
    forces has none. Labels that are not finite stay for the audit to list.

    Raises
    ------
    InputError: unreadable file, structures refused by
        :func:`~limbeck.core.checks.check_structures`, or a frame without energy or forces.
    """
    path = Path(path)
    keys = {"energy_key": energy_key, "forces_key": forces_key}
    keys |= {"stress_key": stress_key, "virial_key": virial_key}
    if path.is_dir():
        if not any(path.glob(SHARD_PATTERN)):
            wanted = f"files named {SHARD_PATTERN}"
            raise InputError("the folder is not a label store", where=path, wanted=wanted)
        if named := [name for name, key in keys.items() if key is not None]:
            raise InputError("a label store needs no keys", where=path, got=", ".join(named))
        from limbeck.labelling.store import LabelStore

        with LabelStore(path) as store:
            labelled = store.read()
        check_one_state(labelled.structures, str(path))
        return labelled
    if stress_key is not None and virial_key is not None:
        raise InputError("both a stress key and a virial key", where=path, wanted="one of them")
    frames = read_any(path)
    check_structures(frames, str(path))
    return labelled_from_atoms(frames, str(path), **keys)


def labelled_from_atoms(
    frames: Sequence[Atoms],
    where: str,
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    virial_key: str | None = None,
) -> LabelledSet:
    """Checked ASE structures with their labels as one set; see :func:`read_labelled`."""
    named, places = stress_key or virial_key, [f"{where}, frame {k}" for k in range(len(frames))]
    placed = list(zip(frames, places, strict=True))
    energy = np.array([_energy(a, place, energy_key) for a, place in placed])
    forces = [_forces(a, place, forces_key) for a, place in placed]
    stress = np.stack([_stress(a, place, named, bool(virial_key)) for a, place in placed])
    atomic = np.concatenate([_atom_energies(a, place) for a, place in placed])
    open_cells = [k for k, a in enumerate(frames) if _gives_stress(a, named) and not _repeats(a)]
    if np.isnan(stress).all() and (named or open_cells):
        _tell_no_stress(frames, where, named, open_cells)
    keys = {"energy": energy_key, "forces": forces_key, "stress": stress_key, "virial": virial_key}
    warn_of_unused(frames, where, keys, stress=bool(np.isfinite(stress).any() or open_cells))
    return LabelledSet(
        structures=StructureBatch.from_atoms(frames),
        labels=Labels(
            energy=energy,
            forces=np.concatenate(forces),
            stress=None if np.isnan(stress).all() else stress,
            atom_energies=None if np.isnan(atomic).all() else atomic,
        ),
        group=np.array([provenance(a.info, "group") for a in frames], dtype=str),
        config_type=np.array([provenance(a.info, "config_type") for a in frames], dtype=str),
        temperature_k=np.array([float(a.info.get("temperature_K", np.nan)) for a in frames]),
    )


def split_isolated_atoms(labelled: LabelledSet) -> tuple[LabelledSet, dict[int, float]]:
    """The set without isolated atoms, and their energies (eV) by atomic number.

    An isolated atom is a structure of one atom without periodicity, or whose cell is at least 8 Å
    wide where it repeats. One-atom crystals stay.

    Raises
    ------
    InputError: two isolated atoms of one element differ by more than 1 meV.
    """
    batch = labelled.structures
    energies: dict[int, float] = {}
    rest: list[int] = []
    for s, alone in enumerate(isolated_atoms(batch)):
        if not alone:
            rest.append(s)
            continue
        z, energy = int(batch.numbers[batch.offsets[s]]), float(labelled.labels.energy[s])
        if abs(energies.setdefault(z, energy) - energy) > _ISOLATED_SPREAD_EV:
            raise InputError(
                "isolated atoms of one element differ in energy",
                where=f"structure {labelled.frame[s]}",
                got=f"{energies[z]:.4f} and {energy:.4f} eV for atomic number {z}",
                wanted="one energy an element",
            )
    return labelled.select(rest), energies


def isolated_atoms(batch: StructureBatch) -> np.ndarray:
    """(S,) bool: the structures that :func:`split_isolated_atoms` takes out."""
    alone = batch.counts == 1
    for s in np.flatnonzero(alone & batch.pbc.any(axis=1)):
        # The smallest singular value bounds the length of every lattice vector from below.
        width = np.linalg.svd(batch.cell[s][batch.pbc[s]], compute_uv=False).min()
        alone[s] = width >= _ISOLATED_WIDTH_A
    return alone


def _repeats(atoms: Atoms) -> bool:
    """Whether the stress of the structure is defined: a volume that repeats in all three directions."""
    return bool(atoms.pbc.all() and abs(float(np.linalg.det(atoms.cell.array))))


def _label(atoms: Atoms, name: str, key: str | None) -> Any:
    """What the calculator holds under the usual name, or info, an array or the calculator under ``key``.

    ASE's extxyz reader moves entries of the usual names from info to the calculator.
    """
    results = {} if atoms.calc is None else atoms.calc.results
    if key is None:
        return results.get(name)
    own = atoms.arrays if name == "forces" else atoms.info
    return own.get(key, results.get(key))


def _gives_stress(atoms: Atoms, named: str | None) -> bool:
    value = _label(atoms, "stress", named)
    return value is not None and bool(np.any(np.nan_to_num(np.asarray(value, dtype=np.float64))))


def _tell_no_stress(
    frames: Sequence[Atoms], where: str, named: str | None, open_cells: Sequence[int]
) -> None:
    """Refuse a name that finds nothing; only warn where no name was given."""
    if not open_cells:
        got, wanted = _keys_found(frames[0]), f"an entry {named!r}"
        raise InputError("no frame has the named stress", where=where, got=got, wanted=wanted)
    what = "stress counts only where all three directions repeat"
    pbc = " ".join("FT"[int(side)] for side in frames[open_cells[0]].pbc)
    got = f'{len(open_cells)} frames with stress, the first of pbc="{pbc}"'
    if named is not None:
        raise InputError(
            what, where=where, got=got, wanted='pbc="T T T" and a cell', remedy="leave the stress key out"
        )
    warnings.warn(f"{where}: {what}, so it is not used; got {got}", stacklevel=3)


def _keys_found(atoms: Atoms) -> str:
    """What a frame holds besides its structure, for messages."""
    found = {
        "calculator": () if atoms.calc is None else atoms.calc.results,
        "info": map(str, atoms.info),
        "arrays": set(atoms.arrays) - {"numbers", "positions"},
    }
    named = {kind: ", ".join(sorted(names)) for kind, names in found.items()}
    return " / ".join(f"{kind} {names}" for kind, names in named.items() if names) or "no labels at all"


def _missing(what: str, where: str, atoms: Atoms, key: str | None) -> InputError:
    wanted, remedy = what + (f" under {key!r}" if key else ""), f"name the entry with --{what}-key"
    return InputError(f"no {what}", where=where, got=_keys_found(atoms), wanted=wanted, remedy=remedy)


def _energy(atoms: Atoms, where: str, key: str | None) -> float:
    value = _label(atoms, "energy", key)
    if value is None:
        raise _missing("energy", where, atoms, key)
    try:
        return float(np.asarray(value, dtype=np.float64).reshape(()))
    except ValueError as error:
        raise InputError(
            "the energy is not one number", where=where, got=repr(value), wanted="a number in eV"
        ) from error


def _per_atom(value: Any, shape: tuple[int, ...], what: str, where: str) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise InputError(f"{what} have the wrong shape", where=where, got=array.shape, wanted=shape)
    return array


def _forces(atoms: Atoms, where: str, key: str | None) -> np.ndarray:
    value = _label(atoms, "forces", key)
    if value is None and len(atoms) > 1:
        raise _missing("forces", where, atoms, key)
    return _per_atom(np.zeros((1, 3)) if value is None else value, (len(atoms), 3), "forces", where)


def _atom_energies(atoms: Atoms, where: str) -> np.ndarray:
    """(n,), eV; NaN where the frame has none."""
    value = _label(atoms, "energies", None)
    shape = (len(atoms),)
    return np.full(shape, np.nan) if value is None else _per_atom(value, shape, "atomic energies", where)


def _stress(atoms: Atoms, where: str, key: str | None, virial: bool) -> np.ndarray:
    """(3, 3), eV/Å³; NaN where the frame has none or does not repeat in three directions."""
    value = _label(atoms, "stress", key) if _repeats(atoms) else None
    if value is None:
        return np.full((3, 3), np.nan)
    tensor = np.asarray(value, dtype=np.float64)
    if tensor.shape == (6,):
        tensor = voigt_6_to_full_3x3_stress(tensor)
    elif tensor.size == 9:
        tensor = tensor.reshape(3, 3)
    else:
        raise InputError(
            "the stress has the wrong shape",
            where=where,
            got=f"{tensor.shape} under {key or 'stress'!r}",
            wanted="(3, 3), (9,) or (6,) in the order xx yy zz yz xz xy",
        )
    tensor = 0.5 * (tensor + tensor.T)
    return -tensor / atoms.get_volume() if virial else tensor
