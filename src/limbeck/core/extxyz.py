"""Extended XYZ read frame by frame, to the last line of the file.

ASE's own loop ends silently at the first empty line. Here each frame is cut out by its number of atoms and
given to ASE alone, so that nothing is skipped and errors name the line.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from io import StringIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from ase import Atoms
from ase.io.extxyz import key_val_str_to_dict, read_xyz
from ase.io.formats import open_with_compression

from limbeck.errors import InputError

#: keys that ASE reads in this spelling only, and GPUMD in any case
_SPELLED = {"lattice": "Lattice", "properties": "Properties", "pbc": "pbc"}
_NAME = re.compile(r"(?<![\w-])(lattice|properties|pbc)(?=\s*=)", re.IGNORECASE)
#: tensors, which ASE reads under these keys as nine numbers only
_TENSOR = re.compile(
    r"""(?<![\w-])(stress|virial)\s*=\s*(?:"([^"]*)"|'([^']*)'|\{([^}]*)\}|\[([^\[\]]*)\])"""
)
_DELIMITERS = {"'": "'", '"': '"', "{": "}", "[": "]"}
_VOIGT = (0, 5, 4, 5, 1, 3, 4, 3, 2)  # of xx yy zz yz xz xy, row by row


def read_extxyz(path: Path) -> list[Atoms]:
    """Every frame of the file; empty lines between frames are skipped.

    Beyond what ASE reads: ``lattice=`` in any case, ``stress`` and ``virial`` of six numbers in the order
    xx yy zz yz xz xy.

    Raises
    ------
    InputError: a frame that is cut off, has a wrong number of atoms or cannot be parsed, with its line.
    """
    binary = cast(IO[bytes], open_with_compression(str(path), "rb"))
    try:
        with TextIOWrapper(binary, encoding="utf-8-sig", errors="replace") as lines:
            return list(_frames(lines, path))
    except InputError:
        raise
    except (EOFError, OSError, ValueError) as error:
        raise InputError(
            "cannot read the file", where=path, got=f"{type(error).__name__}: {error}", wanted="a whole file"
        ) from error


def _frames(lines: TextIOWrapper, path: Path) -> Iterator[Atoms]:
    number = count = 0  # lines read, frames read
    head = next(lines, "")
    while head:
        number += 1
        if not head.strip():
            head = next(lines, "")
            continue
        where = f"{path}, line {number} (frame {count})"
        natoms = _number_of_atoms(head, where, first=not count)
        frame = list(islice(lines, natoms + 1))  # the comment and the atoms
        short = next((k for k, row in enumerate(frame[1:]) if not row.strip()), len(frame) - 1)
        if short < natoms:
            raise InputError(
                "a frame ends before its last atom",
                where=where,
                got=f"{max(short, 0)} atoms",
                wanted=f"{natoms}",
                remedy="remove the frame, or write the file again: it may be cut off",
            )
        number += len(frame)
        head = next(lines, "")
        while head.lstrip().startswith("VEC"):  # cell vectors of ADF
            frame.append(head)
            number += 1
            head = next(lines, "")
        atoms = _parse(f"{natoms}\n" + "".join(frame), where)
        if not head and _looks_cut(frame):
            text = f"{path}: the last line is shorter than those before it: is the file cut off?"
            warnings.warn(text, stacklevel=2)
        yield atoms
        count += 1


def _number_of_atoms(head: str, where: str, *, first: bool) -> int:
    text = head.strip()
    if not (text.isascii() and text.isdigit()):
        raise InputError(
            "a frame does not begin with its number of atoms",
            where=where,
            got=repr(text if len(text) <= 40 else text[:40] + "..."),
            wanted="a line with this number alone",
            remedy="check that this is an XYZ file"
            if first
            else "check the number of atoms of the frame before, and that no other file was appended",
        )
    return int(text)


def _looks_cut(frame: Sequence[str]) -> bool:
    """Whether the file ends within its last number: no line end, in a frame of lines of one length."""
    *others, last = frame[1:] or [""]
    lengths = {len(row.rstrip()) for row in others}
    return not last.endswith("\n") and len(lengths) == 1 and len(last.rstrip()) < min(lengths)


def _parse(text: str, where: str) -> Atoms:
    try:
        return next(iter(read_xyz(StringIO(text), 0, parse_comment)))
    except InputError as error:
        raise InputError(error.what, where=where, got=error.got, wanted=error.wanted) from error
    except Exception as error:  # ASE raises whatever its parsing runs into
        columns = [len(row.split()) for row in text.splitlines()[2:]]
        odd = next((k for k, n in enumerate(columns) if n != columns[0]), None)
        got = f"{type(error).__name__}: {error}"
        if odd is not None:
            got = f"{columns[odd]} columns for atom {odd}, {columns[0]} for the others"
        raise InputError(
            "cannot read a frame of the extended XYZ file",
            where=where,
            got=got,
            wanted="lines with all columns that Properties names, and a comment of key=value pairs",
        ) from error


def parse_comment(line: str) -> dict[str, Any]:
    """The entries of a comment line; see :func:`read_extxyz`."""
    given = {match.group(1) for match in _NAME.finditer(line)}

    def spelled(match: re.Match[str]) -> str:
        wanted = _SPELLED[match.group(1).lower()]
        return match.group(1) if wanted in given else wanted

    line = _TENSOR.sub(_nine_numbers, _NAME.sub(spelled, line))
    entries = cast(dict[str, Any], key_val_str_to_dict(line))
    names = ("Lattice", "Properties")
    hidden = any(name not in entries and re.search(rf"(?<![\w-]){name}\s*=", line) for name in names)
    # free text, as in the comments of plain XYZ files, may hold single quotation marks
    if hidden or (any(name in entries for name in names) and "=" in _unclosed(line)):
        raise InputError(
            "a quotation mark in the comment line hides entries",
            got=repr(line[:80]),
            wanted='marks in pairs, such as Lattice="..."',
        )
    return entries


def _unclosed(line: str) -> str:
    """The text after a quotation mark or bracket that is never closed, as ASE counts them."""
    closing, opened, escaped = "", 0, False
    for k, char in enumerate(line):
        if escaped or char == "\\":
            escaped = not escaped
        elif closing:
            closing = "" if char == closing else closing
        elif char in _DELIMITERS:
            closing, opened = _DELIMITERS[char], k
    return line[opened:] if closing else ""


def _nine_numbers(match: re.Match[str]) -> str:
    values = next(text for text in match.groups()[1:] if text is not None).replace(",", " ").split()
    if len(values) != 6:
        return match.group(0)
    return f'{match.group(1)}="{" ".join(values[k] for k in _VOIGT)}"'
