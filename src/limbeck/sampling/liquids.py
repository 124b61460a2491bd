"""Periodic boxes of molecules: liquids and mixtures, packed by Packmol.

Martínez, Andrade, Birgin, Martínez 2009, doi:10.1002/jcc.21224. Packed boxes have the density that
was asked for and no overlaps, but no structure yet: a ``relax`` step removes the worst contacts, and
dynamics does the rest.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, vdw_radii
from ase.io import read, write
from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from limbeck.core.charge import total_charge, write_charge
from limbeck.core.checks import check_structures, close_pairs
from limbeck.core.kinds import NON_METALS
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError, MissingPackageError
from limbeck.sampling.starts import smiles_conformers
from limbeck.sampling.steps import Frozen
from limbeck.units import G_PER_CM3

DENSEST_PER_A3 = 0.2  #: atoms; diamond has 0.176, water 0.100
_DENSEST_G_PER_CM3 = 25.0  # osmium has 22.6, so more is another unit
CLOSEST_A = 2.0  #: atoms of different molecules start no closer
_VDW_SHARE = 0.7  # of the sum of van der Waals radii: O and O touch at 2.1 Å, Cl and Cl at 2.45 Å
_WIDE = tuple(NON_METALS - {1, 85, 86})  # hydrogen bonds are shorter; At and Rn have no radius
_MOST_ATOMS = 10_000
_MOST_CONFORMERS = 4  # of a molecule in one box
_LOOPS = 20  # of Packmol's minimiser for each kind of molecule; liquids take one or two
_TIMEOUT_S = 600.0
_NOT_CONVERGED = 173  # exit status
_SLACK_A = 0.1  # Packmol accepts pairs that are a little too close


class Molecule(Frozen):
    """A number of copies of a molecule."""

    smiles: str
    count: PositiveInt


def _read_composition(value: Any) -> Any:
    """``"48 O, 8 CCO"`` as a list of molecules; anything else as it is."""
    if not isinstance(value, str):
        return value
    molecules = [part.split() for part in value.split(",")]
    if any(len(words) != 2 or not words[0].isdigit() or not int(words[0]) for words in molecules):
        wanted = "counts and SMILES, such as '48 O, 8 CCO'"
        raise InputError("not a composition", got=repr(value), wanted=wanted)
    return [{"smiles": smiles, "count": int(count)} for count, smiles in molecules]


class Liquid(Frozen):
    """A liquid or mixture in a cubic periodic box.

    molecules: a list of smiles and count, or in one line ``"48 O, 8 CCO"``. Exactly one of
    density_g_per_cm3 and box_a (edge, Å). n_packings: boxes, packed independently (of
    three, one is for the test set and two for training).
    """

    molecules: Annotated[tuple[Molecule, ...], BeforeValidator(_read_composition), Field(min_length=1)]
    density_g_per_cm3: PositiveFloat | None = None
    box_a: PositiveFloat | None = None
    n_packings: PositiveInt = 3

    @field_validator("density_g_per_cm3")
    @classmethod
    def _in_grams(cls, density: float | None) -> float | None:
        if density is not None and density > _DENSEST_G_PER_CM3:
            wanted = f"at most {_DENSEST_G_PER_CM3:g} g/cm³ (1000 kg/m³ are 1 g/cm³)"
            raise InputError("no liquid is so dense", got=f"{density:g} g/cm³", wanted=wanted)
        return density

    @model_validator(mode="after")
    def _one_size(self) -> Liquid:
        if (self.density_g_per_cm3 is None) == (self.box_a is None):
            got = "neither" if self.box_a is None else "both"
            wanted = "one of density_g_per_cm3 (--density) and box_a"
            raise InputError("the size of the box is not settled", got=got, wanted=wanted)
        return self


def pack_liquid(liquid: Liquid, seed: int = 0) -> list[Atoms]:
    """``n_packings`` boxes; the same for the same seed and version of Packmol.

    Molecules are rigid copies of their conformers, several of them where a molecule is flexible.
    They stay whole: their atoms may lie outside the cell.

    Returns
    -------
    Periodic structures, ``info["group"]`` ``liquid#0``..., ``info["source"]`` "liquid",
    ``info["charge"]`` the sum of formal charges where it is not zero.

    Raises
    ------
    InputError: a SMILES that cannot be read, a box too small for its molecules.
    MissingPackageError: RDKit or Packmol is not installed.
    """
    try:
        from packmol.cli import get_binary_path

        program = Path(get_binary_path())
    except (ImportError, FileNotFoundError) as error:
        remedy = "pip install -c constraints.txt -e '.[liquids]'"
        raise MissingPackageError(
            "Packmol is not installed", where="--liquid", wanted="the package packmol", remedy=remedy
        ) from error
    boxes = []
    for k in range(liquid.n_packings):
        copies = [copy for molecule in liquid.molecules for copy in _conformers(molecule, seed + k)]
        edge = _edge(liquid, copies)
        box = _pack(program, copies, edge, 1 + (seed * liquid.n_packings + k) % (2**31 - 2))
        box.info = {"group": f"liquid#{k}", "source": "liquid"}
        write_charge(box.info, sum(n * total_charge(atoms) for atoms, n in copies))
        boxes.append(box)
    check_structures(boxes, "--liquid")
    return boxes


def _conformers(molecule: Molecule, seed: int) -> list[tuple[Atoms, int]]:
    """Conformers and how often each is packed."""
    found = smiles_conformers(molecule.smiles, min(molecule.count, _MOST_CONFORMERS), seed, "--liquid")
    share = np.bincount(np.arange(molecule.count) % len(found))
    return list(zip(found, share.tolist(), strict=True))


def _edge(liquid: Liquid, copies: list[tuple[Atoms, int]]) -> float:
    """Edge of the box, Å, once it is known that the molecules can fit."""
    mass = sum(n * float(atoms.get_masses().sum()) for atoms, n in copies)  # amu
    n_atoms = sum(n * len(atoms) for atoms, n in copies)
    if n_atoms > _MOST_ATOMS:
        wanted = f"at most {_MOST_ATOMS} (a few hundred teach a student as much)"
        raise InputError("the box holds too many atoms", where="--liquid", got=n_atoms, wanted=wanted)
    density = float(liquid.density_g_per_cm3 or 1.0)
    edge = float(liquid.box_a) if liquid.box_a else (mass * G_PER_CM3 / density) ** (1 / 3)
    said = f"{mass * G_PER_CM3 / edge**3:.3g} g/cm³ in a box of {edge:.2f} Å"
    longest = max(float(atoms.get_all_distances().max()) for atoms, _ in copies)
    if edge < longest + CLOSEST_A:
        raise InputError(
            "the box is smaller than a molecule",
            where="--liquid",
            got=f"{said} for a molecule of {longest:.2f} Å",
            wanted=f"at least {longest + CLOSEST_A:.2f} Å, so that it does not meet its own image",
            remedy="take more molecules",
        )
    if n_atoms / edge**3 > DENSEST_PER_A3:
        raise _too_dense(said)
    return edge


def _too_dense(got: str) -> InputError:
    what, wanted = "the molecules do not fit into the box", "a density that the liquid has"
    return InputError(what, where="--liquid", got=got, wanted=wanted, remedy="lower the density")


def _pack(program: Path, copies: list[tuple[Atoms, int]], edge: float, seed: int) -> Atoms:
    lines = [
        f"tolerance {CLOSEST_A:g}", "filetype xyz", "output packed.xyz", f"seed {seed}", f"nloop {_LOOPS}",
        f"pbc {edge:.8f} {edge:.8f} {edge:.8f}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for k, (atoms, n) in enumerate(copies):
            write(folder / f"{k}.xyz", atoms, format="xyz")
            lines += [f"structure {k}.xyz", f"  number {n}", *_radius_lines(atoms), "end structure"]
        # Packmol reads its input twice, so a pipe will not do
        (folder / "packmol.inp").write_text("\n".join(lines) + "\n")
        try:
            with open(folder / "packmol.inp") as told:
                run = subprocess.run(
                    [program], stdin=told, cwd=folder, capture_output=True, text=True,
                    timeout=_TIMEOUT_S, check=False,
                )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise _too_dense(f"no packing in {_TIMEOUT_S:g} s") from None
        if run.returncode == _NOT_CONVERGED:
            raise _too_dense(f"a box of {edge:.2f} Å in which Packmol finds no place for all of them")
        if run.returncode:
            last = [line.strip() for line in (run.stdout + run.stderr).splitlines() if line.strip()][-3:]
            got = f"exit {run.returncode}: {' '.join(last)}"
            raise LimbeckError("Packmol failed", where="--liquid", got=got)
        places: Atoms = read(folder / "packed.xyz", format="xyz")
    numbers = np.concatenate([np.tile(atoms.numbers, n) for atoms, n in copies])
    box = Atoms(numbers=numbers, positions=places.positions, cell=[edge] * 3, pbc=True)
    pair = _too_close(box, copies)
    if pair is not None:
        raise _too_dense(f"{pair} of different molecules in a box of {edge:.2f} Å")
    return box


def _radii(numbers: np.ndarray) -> np.ndarray:
    """Half of how close two atoms of different molecules may start, (N,), Å.

    1 Å, which lets hydrogen bonds be; more for larger non-metals, which would begin as bonded at 2 Å.
    """
    wide = np.where(np.isin(numbers, _WIDE), _VDW_SHARE * vdw_radii[numbers], 0.0)
    return np.maximum(CLOSEST_A / 2, wide)


def _radius_lines(atoms: Atoms) -> list[str]:
    """The radii of a molecule's atoms as Packmol reads them."""
    radii, lines = _radii(atoms.numbers), []
    for radius in np.unique(radii):
        members = " ".join(str(k + 1) for k in np.flatnonzero(radii == radius))
        lines += [f"  atoms {members}", f"    radius {radius:.4f}", "  end atoms"]
    return lines


def _too_close(box: Atoms, copies: list[tuple[Atoms, int]]) -> str | None:
    """Two atoms of different molecules that are closer than their radii, in words."""
    sizes = [len(atoms) for atoms, n in copies for _ in range(n)]
    molecule, radius = np.repeat(np.arange(len(sizes)), sizes), _radii(box.numbers)
    i, j, distance = close_pairs(StructureBatch.from_atoms([box]), 2.0 * float(radius.max()))
    lack = np.where(molecule[i] != molecule[j], radius[i] + radius[j] - distance, 0.0)
    if lack.max(initial=0.0) <= _SLACK_A:
        return None
    worst = int(lack.argmax())
    symbols = [chemical_symbols[box.numbers[k]] for k in (i[worst], j[worst])]
    return f"{symbols[0]} and {symbols[1]} at {distance[worst]:.2f} Å"
