"""Structures from any file that ASE reads, whole, and with an element for every atom."""

from __future__ import annotations

import re
import warnings
from io import StringIO
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_masses
from ase.io import read
from ase.io.formats import UnknownFileTypeError, filetype, get_compression, open_with_compression

from limbeck.core.extxyz import read_extxyz
from limbeck.errors import InputError

#: extensions of one format each; ASE looks at the name first, as in POSCAR_frames.extxyz
_BY_EXTENSION = {
    "xyz": "extxyz", "extxyz": "extxyz", "cif": "cif", "traj": "traj", "pdb": "proteindatabank", "xsf": "xsf",
    "gro": "gromacs", "gen": "gen", "mol": "mol", "sdf": "sdf", "lammpstrj": "lammps-dump-text",
}  # fmt: skip
#: text found once in each structure, for formats whose readers in ASE stop early
_MARKS = {
    "sdf": r"M  END", "mol": r"M  END", "xsf": r"\s*(?:PRIMCOORD|ATOMS)\b", "res": r"TITL\b",
    "lammps-data": r"\s*\d+\s+atoms\b", "turbomole": r"\s*\$coord\b", "gromos": r"POSITION",
    "vasp-xdatcar": r"\s*Direct configuration", "castep-cell": r"\s*%BLOCK\s+POSITIONS",
    "lammps-dump-text": r"ITEM: TIMESTEP", "gen": r"\s*\d+\s+[CSFH]\s*$", "dftb": r"\s*Geometry\b",
    "vasp-out": r"\s*POSITION\s+TOTAL-FORCE",
}  # fmt: skip
_LAMMPS_ATOMS = re.compile(r"^\s*\d+\s+atoms\b", re.MULTILINE)
_LAMMPS_BOX = re.compile(r"\b(?:xlo\s+xhi|avec)\b")
_VELOCITIES = re.compile(r"\s*(?:direct|cartesian|lattice vel)", re.IGNORECASE)  # headings of a POSCAR
_MASS_TOLERANCE = 0.1  # amu; masses are written rounded, and united atoms are 1 amu off
_HEAD = 4096
_ELEMENTS = "write a column 'element' (dump_modify ID element Na Cl), or convert the file to extended XYZ"


def read_any(path: Path | str, format: str | None = None) -> list[Atoms]:
    """Every structure of a file that ASE reads, to the end of the file.

    Parameters
    ----------
    format: ASE's name of it; unless given, from the extension, then the name, then the content.

    Raises
    ------
    InputError: the file is missing, not readable as structures, empty, or not read to its end; its atoms have
        no elements.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such file", where=path, wanted="a structure file that ASE reads")
    wanted = "at least one structure"
    if not path.stat().st_size:
        raise InputError("the file is empty", where=path, wanted=wanted)
    format = format or format_of(path)
    frames = read_extxyz(path) if format == "extxyz" else _read_by_ase(path, format)
    if not frames:
        raise InputError("no structures", where=path, got=f"a file read as {format}", wanted=wanted)
    return frames


def format_of(path: Path) -> str:
    """ASE's name for the format of a file: by its extension where that is clear, else as ASE guesses."""
    plain = Path(get_compression(path.name)[0])
    if named := _BY_EXTENSION.get(plain.suffix[1:].lower()):
        return named
    head = _text(path, _HEAD)
    if _LAMMPS_ATOMS.search(head) and _LAMMPS_BOX.search(head):
        return "lammps-data"
    try:
        return str(filetype(str(path)))
    except UnknownFileTypeError as error:
        raise InputError(
            "unknown file format",
            where=path,
            got=f"the name {path.name!r}",
            wanted="a file that ASE reads (extxyz, cif, POSCAR, ...)",
            remedy="rename it after its format, such as mine.extxyz",
        ) from error


def _text(path: Path, size: int = -1) -> str:
    try:
        with open_with_compression(str(path), "rb") as file:
            content: bytes = file.read(size)
    except (EOFError, OSError) as error:
        raise InputError(
            "cannot read the file", where=path, got=f"{type(error).__name__}: {error}", wanted="a whole file"
        ) from error
    return content.decode("utf-8", errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def _read_by_ase(path: Path, format: str) -> list[Atoms]:
    if format == "lammps-dump-text":
        _check_dump(path)
    try:
        if format in ("sdf", "gromacs", "vasp"):
            frames, rest = _READERS[format](path)
        else:
            found = read(path, index=":", format=format)
            frames, rest = found if isinstance(found, list) else [found], 0
    except InputError:
        raise
    except Exception as error:  # ASE's readers raise whatever their parsing runs into
        raise InputError(
            "cannot read the file as structures",
            where=path,
            got=f"{type(error).__name__}: {error}, reading it as {format}",
            wanted="a format that ASE reads (extxyz, cif, POSCAR, ...)",
        ) from error
    _check_whole(path, format, len(frames), rest)
    if format == "lammps-data":
        _check_masses(path, frames[0])
    return frames


def _check_whole(path: Path, format: str, count: int, rest: int) -> None:
    """Refuse a file of more than ``count`` structures; ``rest``: first line left unread, or 0."""
    if not rest and (mark := _MARKS.get(format)):
        lines = _lines_with(path, mark)
        if len(lines) == count + 1 and format == "vasp-out":
            warnings.warn(f"{path}: the last of {len(lines)} steps is incomplete and left out", stacklevel=2)
        elif len(lines) > count:
            rest = lines[count]
    if rest:
        raise InputError(
            "a part of the file would stay unread",
            where=path,
            got=f"{count} structure{'s' * (count != 1)}, and more from line {rest}, reading it as {format}",
            wanted="one structure a file in such formats, and no empty or cut structure in a series",
            remedy="take the file apart, or write it as extended XYZ",
        )


def _lines_with(path: Path, mark: str) -> list[int]:
    """Numbers, from 1, of the lines that begin with ``mark``."""
    pattern = re.compile(mark, re.IGNORECASE)
    with open_with_compression(str(path), "rb") as file:
        return [k for k, line in enumerate(file, 1) if pattern.match(line.decode("utf-8", "replace"))]


def _read_sdf(path: Path) -> tuple[list[Atoms], int]:
    """All molecules, each up to its ``$$$$``; ASE reads the first one alone."""
    blocks = re.split(r"^\$\$\$\$[ \t]*\n?", _text(path), flags=re.MULTILINE)
    return [read(StringIO(block), format="sdf") for block in blocks if block.strip()], 0


def _read_gro(path: Path) -> tuple[list[Atoms], int]:
    """All frames of title, number, atoms and box; ASE reads the first one alone."""
    lines, frames, first = _text(path).splitlines(), [], 0
    while "".join(lines[first : first + 3]).strip():
        end = first + int(lines[first + 1]) + 3
        if end > len(lines):
            raise ValueError(f"the frame that begins at line {first + 1} has no end")
        frames.append(read(StringIO("\n".join(lines[first:end]) + "\n"), format="gromacs"))
        first = end
    return frames, 0


def _read_poscar(path: Path) -> tuple[list[Atoms], int]:
    """One structure; numbers after it are velocities, words another structure."""
    text = _text(path)
    file = StringIO(text)
    file.name = str(path)  # type: ignore[attr-defined]  # ASE looks for the POTCAR of old files next to it
    atoms = read(file, format="vasp")
    end = file.tell()
    for k, line in enumerate(text[end:].splitlines(), text[:end].count("\n") + 1):
        if re.match(r"\s*[A-Z]", line, re.IGNORECASE) and not _VELOCITIES.match(line):
            return [atoms], k
    return [atoms], 0


_READERS = {"sdf": _read_sdf, "gromacs": _read_gro, "vasp": _read_poscar}


def _check_dump(path: Path) -> None:
    """Refuse a LAMMPS dump with types only: ASE would take type 1 for hydrogen."""
    header = re.search(r"^ITEM: ATOMS(.*)$", _text(path, _HEAD), re.MULTILINE)
    columns = header.group(1).split() if header else []
    if header and not {"element", "mass"} & set(columns):
        raise InputError(
            "the atoms have no elements",
            where=path,
            got=f"a LAMMPS dump with the columns {' '.join(columns)}",
            wanted="a column 'element'",
            remedy=_ELEMENTS,
        )


def _check_masses(path: Path, atoms: Atoms) -> None:
    """Refuse LAMMPS types of unknown elements: ASE takes the nearest mass, or type 1 for hydrogen."""
    labelled = re.search(r"^\s*Atom Type Labels", _text(path), re.MULTILINE)
    masses = atoms.arrays.get("masses")
    off = None if masses is None else np.abs(masses - atomic_masses[atoms.numbers])
    if masses is None and labelled:
        return
    if off is None or (off > _MASS_TOLERANCE).any():
        fault = "no Masses" if off is None else f"a mass of {masses[off.argmax()]:g}"
        raise InputError(
            "the atoms have no elements",
            where=path,
            got=f"a LAMMPS data file with {fault}",
            wanted="masses of elements (section Masses) or element symbols (section Atom Type Labels)",
            remedy="add one of these sections, or convert the file to extended XYZ",
        )
    types = sorted(set(zip(atoms.arrays["type"].tolist(), atoms.symbols, strict=True)))
    named = ", ".join(f"{kind} is {symbol}" for kind, symbol in types)
    warnings.warn(f"{path}: elements of the LAMMPS types taken from their masses: {named}", stacklevel=2)
