"""The command line: parse, call one function of a stage, print; errors are one line.

Stages are imported inside the commands, so that ``limbeck --help`` is quick, and ``workflows``, which
loads torch, only once the configuration is known to be good.
"""

from __future__ import annotations

# Importing a group of commands puts them into the app, in the order of the help.
from limbeck.cli import bench, doctor, exports, lammps, results, stages, students, teachers  # noqa: F401
from limbeck.cli.entry import command_line, main
from limbeck.cli.root import app

__all__ = ["app", "command_line", "main"]
