"""``python -m limbeck.cli`` is ``limbeck``."""

from __future__ import annotations

from limbeck.cli.entry import command_line

if __name__ == "__main__":
    command_line()
