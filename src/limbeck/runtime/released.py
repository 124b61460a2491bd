"""The students bundled with Limbeck, loaded by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from limbeck.artifact.file import StudentFile
from limbeck.errors import InputError


def _folders() -> list[Path]:
    here = Path(__file__).resolve()
    # in the installed package, or in the repository of an editable install
    return [p for p in (here.parents[1] / "released", here.parents[3] / "students") if p.is_dir()]


def _files() -> dict[str, Path]:
    return {p.stem: p for folder in reversed(_folders()) for p in sorted(folder.glob("*.safetensors"))}


def list_students() -> list[StudentFile]:
    """Bundled students, by name."""
    return [StudentFile.read(path) for _, path in sorted(_files().items())]


def find_student(name: Path | str) -> Path:
    """The path itself, or the file of a bundled student (if a folder has its name too), else InputError."""
    path = Path(name)
    if path.suffix or len(path.parts) > 1 or path.is_file():
        return path
    files = _files()
    if str(name) in files:
        return files[str(name)]
    near = difflib.get_close_matches(str(name), files, n=1, cutoff=0.3)
    remedy = f"did you mean {near[0]!r}?" if near else "limbeck students lists them"
    wanted = "a .safetensors file or one of " + (", ".join(sorted(files)) or "(none bundled)")
    raise InputError("no such student", got=repr(str(name)), wanted=wanted, remedy=remedy)
