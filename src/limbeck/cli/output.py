"""What commands print and write: tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_json(path: Path | None, value: Any) -> None:
    """Write ``value`` where ``--json`` names a file."""
    if path is not None:
        from limbeck.core.files import write_whole

        write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """A table whose columns are the keys of the first row."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*(rows[0] if rows else ("nothing to list",)), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console()
    # A file or pipe gets whole lines: a table folded to 80 columns cannot be searched.
    Console(width=console.width if console.is_terminal else 400, markup=False).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
