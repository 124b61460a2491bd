"""The run folder: it belongs to one configuration."""

from __future__ import annotations

import shutil
from pathlib import Path

from limbeck.core.files import write_whole
from limbeck.errors import InputError

_BEFORE_WORK = ("config.yaml", "state.json")


def prepare_folder(folder: Path, resolved: str, *, overwrite: bool) -> None:
    """Make the run folder, or check that it belongs to this configuration.

    Raises
    ------
    InputError: another configuration's results are there, or the place is a file.
    LimbeckError: it cannot be written.
    """
    marker = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise InputError(
            "the run folder is a file",
            where=folder,
            wanted="a folder",
            remedy="choose another --out",
        )
    if marker.exists() and marker.read_text(encoding="utf-8") != resolved:
        # A run that was refused before it did any work stands in nobody's way.
        worked = bool({entry.name for entry in folder.iterdir()} - set(_BEFORE_WORK))
        if worked and not overwrite:
            raise InputError(
                "the run folder belongs to another configuration",
                where=folder,
                wanted="the same configuration, to go on with it",
                remedy="choose another --out, or --overwrite to replace it",
            )
        shutil.rmtree(folder)
    elif folder.exists() and not marker.exists() and any(folder.iterdir()):
        raise InputError(
            "the run folder holds files of something else",
            where=folder,
            wanted="an empty or new folder",
            remedy="choose another --out",
        )
    write_whole(marker, resolved)
