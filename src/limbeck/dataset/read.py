"""Labelled structures from a label store or from any labelled file that ASE reads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
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
_NO_KEYS: Mapping[str, str | None] = dict.fromkeys(("energy", "forces", "stress", "virial"))
_ISOLATED_WIDTH_A = 8.0  # longer than any bond, so that one atom in a wider cell is no crystal
_ISOLATED_SPREAD_EV = 1e-3


def read_reference(path: Path | str, **keys: Any) -> LabelledSet:
    """Reference labels for a validation: as :func:`read_labelled` reads them, without isolated atoms.

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
    """Read a label store (a folder of shards) or a labelled file.

    Parameters
    ----------
    energy_key, stress_key, virial_key: names of entries in the frames' ``info``.
    forces_key: name of an array. By default the attached calculator is read, where ASE's readers put labels
        of the usual names. Units are eV, Å; stress = -virial / volume.

    Returns
    -------
    Group, config_type and temperature from ``info`` where present. Stress and atomic energies (the
    calculator's ``energies``) are NaN for structures without; the forces of a single atom are zero by
    default. Labels that are not finite are kept for the audit.

    Raises
    ------
    InputError: unreadable file, structures refused by
        :func:`~limbeck.core.checks.check_structures`, or a frame without energy or forces.
    """
    path = Path(path)
    keys = {"energy": energy_key, "forces": forces_key, "stress": stress_key, "virial": virial_key}
    if path.is_dir():
        if not any(path.glob(SHARD_PATTERN)):
            wanted = f"files named {SHARD_PATTERN}"
            raise InputError("the folder is not a label store", where=path, wanted=wanted)
        if named := [f"{kind}_key" for kind, key in keys.items() if key is not None]:
            raise InputError("a label store needs no keys", where=path, got=", ".join(named))
        from limbeck.records.label_store import LabelStore

        with LabelStore(path) as store:
            labelled = store.read()
        check_one_state(labelled.structures, str(path))
        return labelled
    if stress_key is not None and virial_key is not None:
        raise InputError("both a stress key and a virial key", where=path, wanted="one of them")
    frames = read_any(path)
    check_structures(frames, str(path))
    return labelled_from_atoms(frames, str(path), keys)


def labelled_from_atoms(
    frames: Sequence[Atoms], where: str, keys: Mapping[str, str | None] = _NO_KEYS
) -> LabelledSet:
    """Checked ASE structures with their labels as one set; ``keys`` by kind, see :func:`read_labelled`."""
    named, virial = keys["stress"] or keys["virial"], keys["virial"] is not None
    placed = [(atoms, f"{where}, frame {k}") for k, atoms in enumerate(frames)]
    energy = np.array([_energy(a, place, keys["energy"]) for a, place in placed])
    forces = np.concatenate([_forces(a, place, keys["forces"]) for a, place in placed])
    stress = np.stack([_stress(a, place, named, virial) for a, place in placed])
    atomic = np.concatenate([_atom_energies(a, place) for a, place in placed])
    given = [np.nansum(np.abs(np.asarray(_label(a, "stress", named), np.float64))) > 0 for a in frames]
    unusable = [a for a, some in zip(frames, given, strict=True) if some and not _repeats(a)]
    if np.isnan(stress).all() and (named or unusable):
        _report_no_stress(frames, where, named, unusable)
    warn_of_unused(frames, where, keys, stress=bool(np.isfinite(stress).any() or unusable))
    labels = Labels(
        energy, forces, *(None if np.isnan(values).all() else values for values in (stress, atomic))
    )
    return LabelledSet(
        StructureBatch.from_atoms(frames),
        labels,
        group=np.array([provenance(a.info, "group") for a in frames], dtype=str),
        config_type=np.array([provenance(a.info, "config_type") for a in frames], dtype=str),
        temperature_k=np.array([float(a.info.get("temperature_K", np.nan)) for a in frames]),
    )


def split_isolated_atoms(labelled: LabelledSet) -> tuple[LabelledSet, dict[int, float]]:
    """The set without isolated atoms, and their energies (eV) by atomic number.

    An isolated atom is a structure of one atom that is not periodic, or whose periodic directions are at
    least 8 Å wide. Crystals of one atom a cell stay.

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
                "different energies of isolated atoms of one element",
                where=f"structure {labelled.frame[s]}",
                got=f"{energies[z]:.4f} and {energy:.4f} eV for atomic number {z}",
                wanted="one energy per element",
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
    """Whether the stress is defined: a volume that is periodic in all three directions."""
    return bool(atoms.pbc.all() and abs(float(np.linalg.det(atoms.cell.array))))


def _label(atoms: Atoms, name: str, key: str | None) -> Any:
    """The calculator's result of the usual name, or the entry, array or result ``key``.

    ASE's extxyz reader moves entries of the usual names from info to the calculator.
    """
    results = {} if atoms.calc is None else atoms.calc.results
    if key is None:
        return results.get(name)
    own = atoms.arrays if name == "forces" else atoms.info
    return own.get(key, results.get(key))


def _report_no_stress(
    frames: Sequence[Atoms], where: str, named: str | None, unusable: Sequence[Atoms]
) -> None:
    """InputError where the named stress is missing; a warning where no name was given."""
    if not unusable:
        got, wanted = _keys_found(frames[0]), f"an entry {named!r}"
        raise InputError("no frame has the named stress", where=where, got=got, wanted=wanted)
    what, wanted = "stress counts only where all three directions repeat", 'pbc="T T T" and a cell'
    pbc = " ".join("FT"[int(side)] for side in unusable[0].pbc)
    got = f'{len(unusable)} frames with stress, the first of pbc="{pbc}"'
    if named is not None:
        raise InputError(what, where=where, got=got, wanted=wanted, remedy="leave the stress key out")
    warnings.warn(f"{where}: {what}, so it is not used; got {got}", stacklevel=3)


def _keys_found(atoms: Atoms) -> str:
    """The entries of a frame that are not its structure, for messages."""
    found = {
        "calculator": () if atoms.calc is None else atoms.calc.results,
        "info": map(str, atoms.info),
        "arrays": set(atoms.arrays) - {"numbers", "positions"},
    }
    named = {kind: ", ".join(sorted(names)) for kind, names in found.items()}
    return " / ".join(f"{kind} {names}" for kind, names in named.items() if names) or "no labels at all"


def _required(atoms: Atoms, what: str, where: str, key: str | None) -> Any:
    if (value := _label(atoms, what, key)) is None:
        wanted, remedy = what + (f" under {key!r}" if key else ""), f"name the entry with --{what}-key"
        raise InputError(f"no {what}", where=where, got=_keys_found(atoms), wanted=wanted, remedy=remedy)
    return value


def _array(value: Any, shape: tuple[int, ...], what: str, where: str) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise InputError(f"invalid shape of the {what}", where=where, got=array.shape, wanted=shape)
    return array


def _energy(atoms: Atoms, where: str, key: str | None) -> float:
    value = _required(atoms, "energy", where, key)
    try:
        return float(np.asarray(value, dtype=np.float64).reshape(()))
    except ValueError as error:
        raise InputError("invalid energy", where=where, got=repr(value), wanted="a number in eV") from error


def _forces(atoms: Atoms, where: str, key: str | None) -> np.ndarray:
    if len(atoms) == 1 and _label(atoms, "forces", key) is None:
        return np.zeros((1, 3))
    return _array(_required(atoms, "forces", where, key), (len(atoms), 3), "forces", where)


def _atom_energies(atoms: Atoms, where: str) -> np.ndarray:
    """(n,), eV; NaN where the frame has none."""
    value, shape = _label(atoms, "energies", None), (len(atoms),)
    return np.full(shape, np.nan) if value is None else _array(value, shape, "atomic energies", where)


def _stress(atoms: Atoms, where: str, key: str | None, virial: bool) -> np.ndarray:
    """(3, 3), eV/Å³; NaN where the frame has none or is not periodic in three directions."""
    value = _label(atoms, "stress", key) if _repeats(atoms) else None
    if value is None:
        return np.full((3, 3), np.nan)
    tensor = np.asarray(value, dtype=np.float64)
    if tensor.shape == (6,):
        tensor = voigt_6_to_full_3x3_stress(tensor)
    elif tensor.size != 9:
        raise InputError(
            "invalid shape of the stress",
            where=where,
            got=f"{tensor.shape} under {key or 'stress'!r}",
            wanted="(3, 3), (9,) or (6,) in the order xx yy zz yz xz xy",
        )
    tensor = tensor.reshape(3, 3)
    tensor = 0.5 * (tensor + tensor.T)
    return -tensor / atoms.get_volume() if virial else tensor
